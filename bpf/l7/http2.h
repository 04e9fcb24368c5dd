/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * HTTP/2 (RFC 9113) and gRPC. A request is a stream: it begins with the client's first HEADERS and
 * ends with the server's END_STREAM, or with RST_STREAM of either side. Frames are stepped over by
 * their lengths. Header blocks (HPACK, RFC 7541) are walked by the lengths of their fields; of the
 * dynamic table only the number of insertions is known, and which of the last ones were of use.
 * What cannot be known so is `unknown`, and so is all of a side whose table is not known from its
 * beginning: the connection is older than its observer, or bytes of it were missed.
 *
 * It has state of its own beside the connection's, and programs of its own: http2_engine.h.
 */
#ifndef KPOD_L7_HTTP2_H
#define KPOD_L7_HTTP2_H

#include "l7.h"

#define H2_STREAMS 16	/* without an answer, of a connection; a power of two */
#define H2_REMEMBERED 8 /* insertions into a dynamic table; a power of two */
#define H2_HEAD 9	/* bytes of a frame's header */
#define H2_PREFACE_SIZE 24
#define H2_FRAME_MAX 16384 /* SETTINGS_MAX_FRAME_SIZE, as it is at first: RFC 9113 6.5.2 */

enum l7_h2_state {
	H2_FRAME,
	H2_PREFACE,
	H2_PREFIX,     /* of HEADERS and PUSH_PROMISE: padding, priority, promised stream */
	H2_BLOCK_END,  /* behind a part of a header block that is not looked at */
	H2_RESET,      /* the code of RST_STREAM */
	H2_DATA_END,   /* behind the last DATA */
	H2_FIELD,      /* the first byte of a field */
	H2_NAME_SIZE,  /* the first byte of a literal name's size */
	H2_VALUE_SIZE, /* … of a value's */
	H2_NUMBER,     /* more bytes of a number */
	H2_NAME,
	H2_VALUE,
	H2_NAME_REST, /* of a string that is not looked at: it may go on in another frame */
	H2_VALUE_REST,
};

enum l7_h2_type {
	H2_DATA,
	H2_HEADERS,
	H2_PRIORITY,
	H2_RST_STREAM,
	H2_SETTINGS,
	H2_PUSH_PROMISE,
	H2_PING,
	H2_GOAWAY,
	H2_WINDOW_UPDATE,
	H2_CONTINUATION,
};

enum l7_h2_flags {
	H2_END_STREAM = 1, /* of SETTINGS and PING: ACK */
	H2_END_HEADERS = 4,
	H2_PADDED = 8,
	H2_HAS_PRIORITY = 0x20,
};

#define H2_CANCEL 8 /* of RST_STREAM: RFC 9113 7 */

/* Fields of which the value is of use; NOT_SEEN: it may be any of them. */
enum l7_h2_name {
	H2_NO_NAME,
	H2_STATUS,
	H2_GRPC_STATUS,
	H2_CONTENT_TYPE,
	H2_METHOD,
	H2_NOT_SEEN,
};

/* Whether a stream is gRPC's. */
enum l7_h2_grpc { H2_IS_NOT_GRPC, H2_IS_GRPC, H2_MAY_BE_GRPC };

/* What is known of a side's header blocks. Its writer is that side's stream. */
struct l7_h2_side {
	__u32 inserted;			/* fields into its dynamic table, ever; … */
	__u32 number_of[H2_REMEMBERED]; /* … of which these are remembered */
	__u16 what[H2_REMEMBERED];	/* enum l7_h2_name, and in the lower byte the value */
	__u32 id, last_id, number;
	__u8 lost; /* the table is not known */
	__u8 remembered;
	__u8 type, flags, padding, in_block, resume; /* of the frame */
	__u8 kind, mask, shift, number_is, huffman;  /* of what is read of the field */
	__u8 inserts, name, value;		     /* of the field */
	/* Of the block; 0: none, and of the operation 1 more than its number. */
	__u8 status, code, operation, grpc, not_seen;
};

/* A request without an answer. REQUEST makes it; whoever ends it takes the number away. */
struct l7_h2_stream {
	__u64 start_ns;
	__u32 id; /* 0: free */
	__u8 operation;
	__u8 grpc;	   /* enum l7_h2_grpc */
	__u8 status, code; /* RESPONSE */
};

struct l7_h2 {
	struct l7_h2_stream streams[H2_STREAMS];
	struct l7_h2_side side[2];
	__u32 missed_from,
		missed_to; /* REQUEST: streams in [from, to) may have been asked unseen */
	__u32 counted_to;  /* RESPONSE: up to it, those without an answer were counted */
	__u32 reserved;
};

/* ---- header fields ------------------------------------------------------------------------- */

/* The number of at most three digits, perhaps in Huffman's code (RFC 7541 appendix B); or ~0. */
L7_FUNCTION __u32 l7_h2_decimal(struct l7_token *t, __u32 huffman)
{
	__u32 bits = 0, number = 0, digits = 0, left;

	if (!t || !t->kept || t->kept > 3)
		return ~0u;
	if (!huffman) {
		for (__u32 i = 0; i < 3; i++) {
			__u32 digit = t->bytes[i] - '0';

			if (i >= t->kept)
				break;
			if (digit > 9)
				return ~0u;
			number = number * 10 + digit;
		}
		return number;
	}
	for (__u32 i = 0; i < 3; i++)
		bits |= (i < t->kept ? t->bytes[i] : 0xffu) << (24 - 8 * i);
	bits |= 0xff;
	left = t->kept * 8;
	/* 0, 1, 2 have five bits, the others six; what is left are ones, fewer than a byte. */
	for (__u32 i = 0; i < 3; i++) {
		__u32 five = bits >> 27, six = bits >> 26;

		if (left < 5 || five == 31)
			break;
		if (five < 3) {
			number = number * 10 + five;
			bits = bits << 5 | 31;
			left -= 5;
		} else if (left >= 6 && six >= 25 && six <= 31) {
			number = number * 10 + six - 22;
			bits = bits << 6 | 63;
			left -= 6;
		} else {
			return ~0u;
		}
		digits++;
	}
	return digits && left < 8 && bits == ~0u ? number : ~0u;
}

/* A literal name. */
L7_FUNCTION __u32 l7_h2_name(struct l7_token *t, __u32 huffman)
{
	__u64 first, second;

	if (!t)
		return H2_NO_NAME;
	first = l7_first(t->words[0], t->kept);
	second = t->kept > 8 ? l7_first(t->words[1], t->kept - 8) : 0;
	if (second) {
		if (huffman)
			return first == L7_WORD("\x21\xea\x49\x6a\x4a\xc9\xf5\x59") &&
					       second == 0x7f
				       ? H2_CONTENT_TYPE
				       : H2_NO_NAME;
		if (first == L7_WORD("grpc-sta") && second == L7_WORD("tus"))
			return H2_GRPC_STATUS;
		if (first == L7_WORD("content-") && second == L7_WORD("type"))
			return H2_CONTENT_TYPE;
		return H2_NO_NAME;
	}
	if (first == (huffman ? L7_WORD("\xb8\x84\x8d\x36\xa3") : L7_WORD(":status")))
		return H2_STATUS;
	if (first == (huffman ? L7_WORD("\xb9\x49\x53\x39\xe4") : L7_WORD(":method")))
		return H2_METHOD;
	if (huffman && first == L7_WORD("\x9a\xca\xc8\xb2\x12\x34\xda\x8f"))
		return H2_GRPC_STATUS;
	return H2_NO_NAME;
}

/* application/grpc, and with a `+` or `;` behind it. Not application/grpc-web, whose code is in the
 * body. */
static L7_INLINE __u32 l7_h2_is_grpc(const struct l7_token *t, __u32 huffman)
{
	if (huffman)
		return t->kept >= 11 &&
		       t->words[0] == L7_WORD("\x1d\x75\xd0\x62\x0d\x26\x3d\x4c") &&
		       l7_first(t->words[1], 3) == L7_WORD("\x4d\x65\x64") &&
		       (t->kept == 11 || t->bytes[11] >= 0xfb);
	return t->kept >= 16 && t->words[0] == L7_WORD("applicat") &&
	       t->words[1] == L7_WORD("ion/grpc") &&
	       (t->kept == 16 || t->bytes[16] == '+' || t->bytes[16] == ';');
}

/* Huffman's code of a text is but one, so what is none of these is another method. */
static L7_INLINE __u32 l7_h2_method(const struct l7_token *t, __u32 huffman)
{
	__u64 word = l7_first(t->words[0], t->kept);

#define IS(text, code)                                                                             \
	if (word == (huffman ? L7_WORD(code) : L7_WORD(#text)))                                    \
		return L7_##text;
	if (t->kept > 8)
		return L7_OTHER;
	IS(GET, "\xc5\x83\x7f")
	IS(HEAD, "\xc7\x82\x1b\xff")
	IS(POST, "\xd7\xab\x76\xff")
	IS(PUT, "\xd7\xc3\x7f")
	IS(DELETE, "\xbf\x83\x3e\x0d\xf8\x3f")
	IS(CONNECT, "\xbd\xab\x4e\x9c\x17\xb7\xff")
	IS(OPTIONS, "\xd5\xaf\x7e\x4d\x5a\x77\x7f")
	IS(TRACE, "\xdf\xb6\x1b\xd8\x3f")
	IS(PATCH, "\xd7\x0e\xfb\xd8\xff")
#undef IS
	return L7_OTHER;
}

/* What is remembered of a value: 0, if it says nothing. */
L7_FUNCTION __u32 l7_h2_value(struct l7_token *t, __u32 name, __u32 huffman)
{
	__u32 number;

	if (!t)
		return 0;
	switch (name) {
	case H2_STATUS:
		number = l7_h2_decimal(t, huffman);
		return number < 100 || number > 599 ? 0 : L7_1XX + number / 100 - 1;
	case H2_GRPC_STATUS:
		number = l7_h2_decimal(t, huffman);
		return number > L7_GRPC_UNAUTHENTICATED - L7_GRPC_OK ? 0 : L7_GRPC_OK + number;
	case H2_CONTENT_TYPE:
		return l7_h2_is_grpc(t, huffman);
	case H2_METHOD:
		return l7_h2_method(t, huffman) + 1;
	}
	return 0;
}

/* Of the static table: RFC 7541 appendix A. */
static L7_INLINE __u32 l7_h2_static(__u32 index)
{
	switch (index) {
	case 2:
		return H2_METHOD << 8 | (L7_GET + 1);
	case 3:
		return H2_METHOD << 8 | (L7_POST + 1);
	case 8:
	case 9:
	case 10:
		return H2_STATUS << 8 | L7_2XX;
	case 11:
		return H2_STATUS << 8 | L7_3XX;
	case 12:
	case 13:
		return H2_STATUS << 8 | L7_4XX;
	case 14:
		return H2_STATUS << 8 | L7_5XX;
	case 31:
		return H2_CONTENT_TYPE << 8;
	}
	return H2_NO_NAME;
}

#define H2_NO_FIELD (~0u)

/* Indices count back from the newest insertion. Their meaning does not depend on the table's size:
 * what was evicted is not named any more. */
L7_FUNCTION __u32 l7_h2_indexed(struct l7_h2_side *d, __u32 index)
{
	__u32 number, oldest;

	if (!d || !index)
		return H2_NO_FIELD;
	if (index < 62)
		return l7_h2_static(index);
	if (index - 62 >= d->inserted)
		return H2_NO_FIELD;
	number = d->inserted - (index - 62); /* the first has number 1 */
	for (__u32 i = 0; i < H2_REMEMBERED; i++)
		if (d->number_of[i] == number)
			return d->what[i];
	oldest = d->number_of[d->remembered & (H2_REMEMBERED - 1)];
	return number < oldest ? H2_NOT_SEEN << 8 : H2_NO_NAME;
}

static L7_INLINE void l7_h2_found(struct l7_h2_side *d, __u32 what)
{
	__u8 value = (__u8)what;

	switch (what >> 8) {
	case H2_STATUS:
		d->status = value;
		break;
	case H2_GRPC_STATUS:
		d->code = value;
		break;
	case H2_CONTENT_TYPE:
		d->grpc = value;
		break;
	case H2_METHOD:
		d->operation = value;
		break;
	case H2_NOT_SEEN:
		d->not_seen = 1;
		break;
	}
}

/* A literal field is whole. */
static L7_INLINE void l7_h2_literal(struct l7_h2_side *d)
{
	__u32 what = (__u32)d->name << 8 | d->value, at;

	l7_h2_found(d, what);
	if (!d->inserts)
		return;
	d->inserted++;
	if (d->name == H2_NO_NAME)
		return;
	at = d->remembered++;
	l7_hide(at);
	at &= H2_REMEMBERED - 1;
	d->number_of[at] = d->inserted;
	d->what[at] = (__u16)what;
}

/* ---- streams ------------------------------------------------------------------------------- */

L7_FUNCTION __u32 l7_h2_find(struct l7_h2 *h2, __u32 id)
{
	if (!h2)
		return H2_STREAMS;
	for (__u32 i = 0; i < H2_STREAMS; i++)
		if (l7_read_once(h2->streams[i].id) == id)
			return i;
	return H2_STREAMS;
}

/* NULL: there is none of this number. */
static L7_INLINE struct l7_h2_stream *l7_h2_stream(struct l7_h2 *h2, __u32 id)
{
	__u32 at = l7_h2_find(h2, id);

	if (at >= H2_STREAMS)
		return NULL;
	l7_hide(at);
	return &h2->streams[at & (H2_STREAMS - 1)];
}

/* Both sides may end a stream at the same time: false for the one that comes second. */
static L7_INLINE bool l7_h2_free(struct l7_h2_stream *r, __u32 id)
{
	return __sync_val_compare_and_swap(&r->id, id, 0) == id;
}

static L7_INLINE void l7_h2_end(struct l7_token *t, struct l7_h2_stream *r, __u32 id, __u16 status)
{
	t->start_ns = r->start_ns;
	t->operation = r->operation;
	t->grpc = r->grpc == H2_IS_GRPC;
	t->status = status;
	t->done = l7_h2_free(r, id);
}

static L7_INLINE __u16 l7_h2_status(struct l7_h2_stream *r)
{
	__u16 status;

	if (r->code && r->grpc == H2_MAY_BE_GRPC)
		r->grpc = H2_IS_GRPC;
	status = r->grpc == H2_IS_GRPC ? r->code : r->grpc == H2_IS_NOT_GRPC ? r->status : 0;
	return status ? status : L7_UNKNOWN_STATUS;
}

/* Whether the request was in what was not seen; the gap may not be known of yet. */
static L7_INLINE bool l7_h2_is_missed(struct l7_h2 *h2, __u32 id)
{
	return (id >= h2->missed_from && id < l7_read_once(h2->missed_to)) ||
	       id > l7_read_once(h2->side[L7_REQUEST].last_id);
}

/* The server has said all it says of a stream. */
static L7_INLINE void l7_h2_answered(struct l7_h2 *h2, struct l7_token *t, __u32 id)
{
	struct l7_h2_stream *r = id ? l7_h2_stream(h2, id) : NULL;

	if (r)
		l7_h2_end(t, r, id, l7_h2_status(r));
	else if (id & 1 && id > h2->counted_to && l7_h2_is_missed(h2, id))
		t->event = L7_UNMATCHED;
}

static L7_INLINE void l7_h2_reset(struct l7_h2 *h2, struct l7_token *t, __u32 id, __u32 direction)
{
	struct l7_h2_stream *r = id ? l7_h2_stream(h2, id) : NULL;
	bool cancelled = direction == L7_REQUEST || l7_be32(t->bytes) == H2_CANCEL;

	if (r)
		l7_h2_end(t, r, id, cancelled ? L7_CANCELLED : L7_STREAM_RESET);
	else if (direction == L7_RESPONSE)
		l7_h2_answered(h2, t, id);
}

/* A stream that the client opens. */
static L7_INLINE void l7_h2_open(struct l7_h2 *h2, struct l7_stream *s, struct l7_token *t,
				 struct l7_h2_side *d)
{
	struct l7_h2_stream *r;

	/* Those of a stream that is known already are trailers. */
	if (!(d->id & 1) || d->id <= d->last_id)
		return;
	if (h2->missed_to == ~0u)
		l7_publish(h2->missed_to, d->id);
	l7_publish(d->last_id, d->id);
	r = l7_h2_stream(h2, 0);
	if (!r) {
		t->event = L7_OVERFLOW;
		return;
	}
	r->start_ns = s->begin_ns;
	r->status = r->code = 0;
	r->operation = d->operation ? d->operation - 1 : L7_UNKNOWN_OPERATION;
	r->grpc = d->grpc ? H2_IS_GRPC : d->not_seen ? H2_MAY_BE_GRPC : H2_IS_NOT_GRPC;
	l7_publish(r->id, d->id);
}

/* A header block has ended. Streams that the server opens (pushes) are nobody's request. */
static L7_INLINE void l7_h2_block(struct l7_h2 *h2, struct l7_stream *s, struct l7_token *t,
				  struct l7_h2_side *d, __u32 direction)
{
	struct l7_h2_stream *r;

	if (d->type == H2_PUSH_PROMISE)
		return;
	if (direction == L7_REQUEST) {
		l7_h2_open(h2, s, t, d);
		return;
	}
	r = l7_h2_stream(h2, d->id);
	if (r) {
		if (d->status && d->status != L7_1XX)
			r->status = d->status;
		if (d->code)
			r->code = d->code;
		if (d->grpc)
			r->grpc = H2_IS_GRPC;
	}
	if (d->flags & H2_END_STREAM)
		l7_h2_answered(h2, t, d->id);
}

/* ---- frames -------------------------------------------------------------------------------- */

static L7_INLINE void l7_h2_next_frame(struct l7_stream *s, __u32 skip)
{
	s->left = L7_UNBOUND;
	l7_skip(s, skip);
	s->state = H2_FRAME;
	l7_take(s, H2_HEAD);
}

/* Once these bytes have been skipped. */
static L7_INLINE void l7_h2_behind(struct l7_stream *s, __u32 bytes, __u8 state)
{
	l7_skip(s, bytes);
	s->state = state;
	l7_take(s, 0);
}

/* The next byte of a header block, or what comes where this frame of it has ended. */
static L7_INLINE int l7_h2_ask(struct l7_h2 *h2, struct l7_stream *s, struct l7_token *t,
			       struct l7_h2_side *d, __u32 direction)
{
	if (s->left) {
		l7_take(s, 1);
		return 0;
	}
	d->resume = s->state;
	d->in_block = !(d->flags & H2_END_HEADERS);
	if (!d->in_block) {
		if (s->state != H2_FIELD)
			return -1;
		l7_h2_block(h2, s, t, d, direction);
	}
	l7_h2_next_frame(s, d->padding);
	return 0;
}

/* A string that is not looked at: what of it is in this frame. */
static L7_INLINE int l7_h2_pass(struct l7_h2 *h2, struct l7_stream *s, struct l7_token *t,
				struct l7_h2_side *d, __u32 direction)
{
	__u32 here = d->number < s->left ? d->number : s->left;

	if (d->number && !here)
		return l7_h2_ask(h2, s, t, d, direction);
	d->number -= here;
	l7_h2_behind(s, here, s->state);
	return 0;
}

/* The size of a string is known. */
static L7_INLINE int l7_h2_string(struct l7_h2 *h2, struct l7_stream *s, struct l7_token *t,
				  struct l7_h2_side *d, __u32 direction)
{
	bool name = d->number_is == H2_NAME_SIZE;
	/* The longest name is content-type; of a value its beginning says all. */
	bool wanted = name ? d->number <= 12 : d->name && d->name != H2_NOT_SEEN;
	__u32 take = d->number < L7_KEPT ? d->number : L7_KEPT;

	d->value = 0;
	if (name)
		d->name = H2_NO_NAME;
	if (wanted && take && take <= s->left) {
		s->state = name ? H2_NAME : H2_VALUE;
		d->number -= take;
		l7_take(s, take);
		return 0;
	}
	if (wanted && take)
		d->name = H2_NOT_SEEN;
	s->state = name ? H2_NAME_REST : H2_VALUE_REST;
	return l7_h2_pass(h2, s, t, d, direction);
}

/* A number is whole. */
static L7_INLINE int l7_h2_numbered(struct l7_h2 *h2, struct l7_stream *s, struct l7_token *t,
				    struct l7_h2_side *d, __u32 direction)
{
	__u32 what;

	if (d->number_is != H2_FIELD)
		return l7_h2_string(h2, s, t, d, direction);
	s->state = H2_FIELD;
	if ((d->kind & 0xe0) == 0x20) /* a table's size */
		return l7_h2_ask(h2, s, t, d, direction);
	what = d->number || d->kind & 0x80 ? l7_h2_indexed(d, d->number) : H2_NO_NAME;
	if (what == H2_NO_FIELD)
		return -1;
	if (d->kind & 0x80) {
		l7_h2_found(d, what);
	} else {
		d->inserts = d->kind >> 6 & 1;
		d->name = (__u8)(what >> 8);
		s->state = d->number ? H2_VALUE_SIZE : H2_NAME_SIZE;
	}
	return l7_h2_ask(h2, s, t, d, direction);
}

/* Of a connection whose beginning was not seen, neither side's table is known. */
static L7_INLINE bool l7_h2_is_lost(const struct l7_conn *c, const struct l7_h2_side *d)
{
	return d->lost | c->late;
}

static L7_INLINE int l7_h2_frame(struct l7_conn *c, struct l7_stream *s, struct l7_token *t,
				 struct l7_h2_side *d)
{
	__u32 size = l7_be32(t->bytes) >> 8, type = t->bytes[3], flags = t->bytes[4], prefix;
	__u32 id = l7_be32(t->bytes + 5) & 0x7fffffff;

	if (d->in_block != (type == H2_CONTINUATION) || (d->in_block && id != d->id))
		return -1;
	s->left = L7_UNBOUND;
	switch (type) {
	case H2_HEADERS:
	case H2_PUSH_PROMISE:
		prefix = !!(flags & H2_PADDED);
		if (type == H2_PUSH_PROMISE)
			prefix += 4;
		else if (flags & H2_HAS_PRIORITY)
			prefix += 5;
		if (prefix > size || !id)
			return -1;
		l7_begin(s);
		d->id = id;
		d->type = (__u8)type;
		d->flags = (__u8)flags;
		d->padding = 0;
		d->status = d->code = d->operation = d->grpc = d->not_seen = 0;
		d->resume = H2_FIELD;
		if (l7_h2_is_lost(c, d)) {
			d->not_seen = 1;
			l7_h2_behind(s, size, H2_BLOCK_END);
			return 0;
		}
		s->left = size;
		s->state = H2_PREFIX;
		l7_take(s, prefix);
		return 0;
	case H2_CONTINUATION:
		d->flags |= flags & H2_END_HEADERS;
		d->padding = 0;
		if (l7_h2_is_lost(c, d)) {
			l7_h2_behind(s, size, H2_BLOCK_END);
			return 0;
		}
		s->left = size;
		s->state = H2_PREFIX;
		l7_take(s, 0);
		return 0;
	case H2_RST_STREAM:
		if (size != 4 || !id)
			return -1;
		d->id = id;
		s->state = H2_RESET;
		l7_take(s, 4);
		return 0;
	case H2_DATA:
		if (!(flags & H2_END_STREAM))
			break;
		d->id = id;
		l7_h2_behind(s, size, H2_DATA_END);
		return 0;
	}
	l7_h2_next_frame(s, size);
	return 0;
}

L7_FUNCTION int l7_http2_step(struct l7_conn *c, struct l7_h2 *h2, struct l7_token *t,
			      __u32 direction)
{
	struct l7_stream *s;
	struct l7_h2_side *d;
	__u32 byte;

	if (!c || !h2 || !t)
		return -1;
	s = direction ? &c->stream[L7_RESPONSE] : &c->stream[L7_REQUEST];
	d = direction ? &h2->side[L7_RESPONSE] : &h2->side[L7_REQUEST];
	byte = t->bytes[0];
	switch (s->state) {
	case H2_PREFACE:
		if (t->words[0] != L7_WORD("PRI * HT") || t->words[1] != L7_WORD("TP/2.0\r\n") ||
		    t->words[2] != L7_WORD("\r\nSM\r\n\r\n"))
			return -1;
		l7_h2_next_frame(s, 0);
		return 0;
	case H2_FRAME:
		return l7_h2_frame(c, s, t, d);
	case H2_RESET:
		l7_h2_reset(h2, t, d->id, direction);
		l7_h2_next_frame(s, 0);
		return 0;
	case H2_DATA_END:
		if (direction == L7_RESPONSE)
			l7_h2_answered(h2, t, d->id);
		l7_h2_next_frame(s, 0);
		return 0;
	case H2_BLOCK_END:
		d->in_block = !(d->flags & H2_END_HEADERS);
		if (!d->in_block)
			l7_h2_block(h2, s, t, d, direction);
		l7_h2_next_frame(s, 0);
		return 0;
	case H2_PREFIX:
		if (t->kept && d->flags & H2_PADDED) {
			if (byte > s->left)
				return -1;
			d->padding = (__u8)byte;
			s->left -= byte;
		}
		s->state = d->resume;
		if (s->state == H2_NAME_REST || s->state == H2_VALUE_REST)
			return l7_h2_pass(h2, s, t, d, direction);
		return l7_h2_ask(h2, s, t, d, direction);
	case H2_FIELD:
		d->kind = (__u8)byte;
		d->mask = byte & 0x80 ? 0x7f : byte & 0x40 ? 0x3f : byte & 0x20 ? 0x1f : 0x0f;
		break;
	case H2_NAME_SIZE:
	case H2_VALUE_SIZE:
		d->huffman = (__u8)(byte >> 7);
		d->mask = 0x7f;
		break;
	case H2_NUMBER:
		if (d->shift > 21)
			return -1;
		d->number += (byte & 0x7f) << (d->shift & 31);
		d->shift += 7;
		if (byte & 0x80)
			return l7_h2_ask(h2, s, t, d, direction);
		return l7_h2_numbered(h2, s, t, d, direction);
	case H2_NAME:
		d->name = (__u8)l7_h2_name(t, d->huffman);
		s->state = H2_VALUE_SIZE;
		return l7_h2_ask(h2, s, t, d, direction);
	case H2_VALUE:
		d->value = (__u8)l7_h2_value(t, d->name, d->huffman);
		s->state = H2_VALUE_REST;
		return l7_h2_pass(h2, s, t, d, direction);
	case H2_NAME_REST:
		if (d->number)
			return l7_h2_pass(h2, s, t, d, direction);
		s->state = H2_VALUE_SIZE;
		return l7_h2_ask(h2, s, t, d, direction);
	case H2_VALUE_REST:
		if (d->number)
			return l7_h2_pass(h2, s, t, d, direction);
		l7_h2_literal(d);
		s->state = H2_FIELD;
		return l7_h2_ask(h2, s, t, d, direction);
	default:
		return -1;
	}
	/* The first byte of a number: RFC 7541 5.1. */
	d->number = byte & d->mask;
	d->shift = 0;
	d->number_is = s->state;
	if (d->number == d->mask) {
		s->state = H2_NUMBER;
		return l7_h2_ask(h2, s, t, d, direction);
	}
	return l7_h2_numbered(h2, s, t, d, direction);
}

static L7_INLINE void l7_http2_start(struct l7_conn *c, struct l7_stream *s, __u32 direction)
{
	l7_h2_next_frame(s, 0);
	if (direction == L7_RESPONSE || c->late)
		return;
	s->state = H2_PREFACE;
	l7_take(s, H2_PREFACE_SIZE);
}

/* ---- detection ----------------------------------------------------------------------------- */

/* Who sends a header block is told by its first field: of the pseudo-headers, which come first (RFC
 * 9113 8.3), those of the static table are either a request's or an answer's. */
static L7_INLINE __u32 l7_h2_sender(const struct l7_token *head, __u32 at)
{
	__u32 byte, index;

	l7_hide(at);
	if (at >= L7_KEPT || at >= head->kept)
		return L7_NO;
	byte = head->bytes[at];
	index = byte & 0x80 ? byte & 0x7f : byte & 0x40 ? byte & 0x3f : byte & 0x0f;
	if ((byte & 0xe0) == 0x20 || !index || index > 14)
		return L7_NO;
	return index < 8 ? L7_CLIENT : L7_SERVER;
}

/*
 * The client's preface; a server's first SETTINGS; later, HEADERS of one frame that end with the
 * segment, or that another frame follows.
 */
L7_FUNCTION __u32 l7_http2_detect(struct l7_token *head, __u32 size, __u32 flags)
{
	__u32 length, there, type, setting, id, at;

	if (!head)
		return L7_NO;
	there = head->kept;
	if (flags & L7_FRESH && head->bytes[0] == 'P') {
		if (there < H2_PREFACE_SIZE)
			return there < 4 || l7_first(head->words[0], 4) == L7_WORD("PRI ") ? L7_MORE
											   : L7_NO;
		return head->words[0] == L7_WORD("PRI * HT") &&
				       head->words[1] == L7_WORD("TP/2.0\r\n") &&
				       head->words[2] == L7_WORD("\r\nSM\r\n\r\n")
			       ? L7_CLIENT
			       : L7_NO;
	}
	length = l7_be32(head->bytes) >> 8;
	type = head->bytes[3];
	id = l7_be32(head->bytes + 5);
	if (head->bytes[0])
		return L7_NO;
	if (flags & L7_FRESH) {
		/* The largest numbers of settings in use: RFC 9218's 9, and gRPC's own 0xfe03. */
		setting = l7_be16(head->bytes + H2_HEAD);
		if ((there > 2 && (length % 6 || length > 120)) ||
		    (there > 3 && type != H2_SETTINGS) || (there > 4 && head->bytes[4]) ||
		    (there >= H2_HEAD && id))
			return L7_NO;
		if (there < H2_HEAD || (length && there < H2_HEAD + 2))
			return L7_MORE;
		return !length || (setting && setting <= 16) || setting >> 8 == 0xfe ? L7_SERVER
										     : L7_NO;
	}
	if ((there > 2 && (!length || length > H2_FRAME_MAX)) || (there > 3 && type != H2_HEADERS))
		return L7_NO;
	if (there <= H2_HEAD)
		return L7_MORE;
	if (!(id & 1) || id >> 31 || !(head->bytes[4] & H2_END_HEADERS) ||
	    head->bytes[4] & ~(H2_END_STREAM | H2_END_HEADERS | H2_PADDED | H2_HAS_PRIORITY))
		return L7_NO;
	at = H2_HEAD + length;
	if (at > size)
		return size < L7_KEPT ? L7_MORE : L7_NO;
	/* What of the next frame's header is here; its first byte is 0 as long as frames are no
	 * longer than they are at first, but for 16384 itself. */
	l7_hide(at);
	if (at < L7_KEPT - 3 && at + 3 < there &&
	    (head->bytes[at] || head->bytes[at + 3] > H2_CONTINUATION))
		return L7_NO;
	at = H2_HEAD;
	if (head->bytes[4] & H2_PADDED)
		at += 1;
	if (head->bytes[4] & H2_HAS_PRIORITY)
		at += 5;
	return l7_h2_sender(head, at);
}

#endif

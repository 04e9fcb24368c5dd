/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Layer 7: the state of one connection and the engine that cuts its two streams into tokens. The
 * same code is compiled into the kernel's programs and, for tests and fuzzing, into processes.
 * docs/adding-a-protocol.md says how a protocol uses it.
 *
 * A protocol never sees segments. It asks for a token (so many bytes, or up to a delimiter) or for
 * bytes to be skipped, and is called when that is there. How the bytes were cut on their way makes
 * no difference, as no code of a protocol can tell.
 */
#ifndef KPOD_L7_H
#define KPOD_L7_H

#include "platform.h"

#define L7_KEPT 32   /* bytes of a token that a protocol gets to see */
#define L7_WINDOW 40 /* bytes of a stream that are loaded at once; more than L7_KEPT */
#define L7_PENDING 8 /* runs of requests without an answer; a power of two, at most 32 */
#define L7_UNBOUND (~0u)

/* Who sent a stream: the roles of the protocol. A server may have connected, as in FTP. */
enum l7_direction { L7_REQUEST, L7_RESPONSE };

/* What a stream waits for, once its `skip` is done. */
enum l7_mode {
	L7_TAKE, /* `want` bytes; 0: nothing, to be called as soon as the skip is done */
	L7_LINE, /* up to a newline */
	L7_TEXT, /* up to a NUL, or to the end of the message (`left`) */
};

/* What happens to a connection and is no request's end. */
enum l7_event {
	L7_NOTHING,
	L7_UNSOLICITED, /* an error that nobody had asked for: 408 to silence, FATAL 57P01 */
	L7_UNMATCHED,	/* an answer whose request was not seen, or is lost */
	L7_GAP,		/* a request whose answer was lost with a missing segment */
	L7_OVERFLOW,	/* a request that did not fit among those without an answer */
	L7_BROKEN,	/* bytes that are not of the protocol that it had been */
	L7_EVENTS,
};

/* One token, and what the protocol says to it. */
struct l7_token {
	union {
		__u8 bytes[L7_KEPT];
		__u64 words[L7_KEPT / 8];
	};
	__u32 kept; /* of bytes, without the delimiter; those after it may be anything */
	__u32 cut;  /* the line or text goes on; the engine drops what is left of it */
	/* Out: at most one request ends with a token. */
	__u64 start_ns; /* of the request */
	__u32 done;	/* 1: it has ended */
	__u16 untimed;	/* how long it took says nothing: long polls, one-way requests */
	__u16 grpc;	/* of HTTP/2: it was gRPC's */
	__u16 operation;
	__u16 status;
	__u32 event; /* enum l7_event */
};

struct l7_stream {
	/* The engine's. */
	__u64 token_ns; /* when the first byte of this token came */
	__u64 last_ns;	/* when the last segment came */
	__u64 skip;
	__u32 next; /* sequence number that is expected */
	__u32 base; /* offset in the segment of window[0]; below zero: it came in an earlier one */
	__u32 end;  /* of the segment */
	__u32 left; /* bytes of the message that are to come, or L7_UNBOUND */
	__u8 position, loaded; /* in the window */
	__u8 mode;	       /* enum l7_mode */
	__u8 want;	       /* bytes, of L7_TAKE */
	__u8 flags;	       /* enum l7_stream_flags */
	/* The protocol's. */
	__u8 state;
	__u16 status;
	/* Ends of requests that are not yet booked: those of a pipeline are booked together. */
	__u64 booked_ns;
	__u32 booked_count;
	__u16 booked_operation, booked_status;
	/* The protocol's. */
	__u64 begin_ns; /* when the message began: l7_begin() */
	__u32 value[4];
	__u8 window[L7_WINDOW];
};

enum l7_stream_flags {
	L7_STARTED = 1,	   /* `next` is known */
	L7_LOST = 2,	   /* waits for a segment that begins with a message */
	L7_UNTIMED = 4,	   /* of what is to be booked */
	L7_REST = 8,	   /* of a line or text whose beginning was a token: to be dropped, … */
	L7_REST_TEXT = 16, /* … up to a NUL */
	L7_TO_CLOSE = 32,  /* the message ends when its sender closes the connection */
	L7_AS_GRPC = 64,   /* of what is to be booked: HTTP/2's gRPC */
};

/* Whether nothing more is to be learned from a connection. */
enum l7_opaque {
	L7_READ,
	L7_OPAQUE,
	L7_UPGRADED, /* what follows this token is HTTP/2; in a feed only */
};

/* Requests without an answer, in order. Runs of equal ones are one entry. */
struct l7_request {
	__u64 start_ns;
	__u32 count; /* or, of protocols with numbers, the number */
	__u16 operation;
	__u16 flags; /* the protocol's */
};

/*
 * A connection. Its two streams may be worked on at the same time, by a process that sends and an
 * interrupt that receives, so each field has one writer: stream[D], or what is named.
 */
struct l7_conn {
	struct l7_stream stream[2];
	struct l7_request pending[L7_PENDING];
	__u32 pushed;		  /* REQUEST: entries ever pushed, … */
	__u32 drop_until;	  /* REQUEST: … of which these are not to be answered */
	__u32 popped;		  /* RESPONSE: entries ever popped */
	__u32 taken;		  /* RESPONSE: of the oldest entry; with numbers, a bit for each */
	__u64 turn_ns;		  /* REQUEST: when it last began to speak after the other had */
	__u32 held_from, held_to; /* bytes received too early: [from, to); RECEIVER */
	/* Of who includes the engine: whose it is, as of when; its lock. */
	__u32 slot, epoch, busy;
	__u32 unaligned; /* REQUEST: some were lost, so answers belong to nobody knows which */
	__u8 protocol;	 /* enum l7_protocol */
	__u8 sends;	 /* enum l7_direction of what this end of the connection sends */
	__u8 opaque;	 /* enum l7_opaque */
	__u8 last;	 /* enum l7_direction of the last segment */
	__u8 tries;	 /* turns at which its protocol was looked for */
	__u8 late;	 /* its beginning was not seen */
	__u8 request_notes, response_notes; /* the protocol's, by their writer */
};

#include "names.h"

/* What a protocol says to the first bytes of a segment. */
enum l7_verdict {
	L7_NO,	   /* none of its messages begins so */
	L7_MORE,   /* there are too few bytes to say */
	L7_CLIENT, /* who sends it asks, … */
	L7_SERVER, /* … or answers */
};

/* What is known when it is asked. */
enum l7_detect_flags {
	L7_FRESH = 1, /* these are the first bytes of the connection */
	L7_KNOWN = 2, /* it is this protocol; the question is whether a message begins here */
};

/* ---- for protocols ------------------------------------------------------------------------- */

static L7_INLINE void l7_take(struct l7_stream *s, __u32 bytes)
{
	s->mode = L7_TAKE;
	s->want = bytes < L7_KEPT ? bytes : L7_KEPT;
}

static L7_INLINE void l7_line(struct l7_stream *s)
{
	s->mode = L7_LINE;
}

static L7_INLINE void l7_text(struct l7_stream *s)
{
	s->mode = L7_TEXT;
}

/* Comes before what is asked for. */
static L7_INLINE void l7_skip(struct l7_stream *s, __u64 bytes)
{
	s->skip = bytes;
}

/* All that is left of the message; needs `left`. */
static L7_INLINE void l7_skip_message(struct l7_stream *s)
{
	s->skip = s->left == L7_UNBOUND ? 0 : s->left;
}

static L7_INLINE void l7_begin(struct l7_stream *s)
{
	s->begin_ns = s->token_ns;
}

static L7_INLINE struct l7_request *l7_newest(struct l7_conn *c)
{
	return &c->pending[(c->pushed - 1) & (L7_PENDING - 1)];
}

/*
 * A request, from s->begin_ns. Equal ones of one segment are one entry, if it `follows` what the
 * newest has. Where all entries are used, the newest gets it, as operation `other` if it is
 * another; what does not follow it overflows.
 */
static L7_INLINE void l7_add(struct l7_conn *c, struct l7_token *t, __u16 operation, __u16 flags,
			     bool follows)
{
	struct l7_request *last = l7_newest(c);
	__u32 entries = c->pushed - l7_read_once(c->popped);
	__u64 start = c->stream[L7_REQUEST].begin_ns;
	bool full = entries >= L7_PENDING;

	if (entries && follows &&
	    (full || (last->operation == operation && last->start_ns == start))) {
		if (last->operation != operation)
			last->operation = L7_OTHER;
		l7_publish(last->count, last->count + 1);
	} else if (full) {
		t->event = L7_OVERFLOW;
	} else {
		last = &c->pending[c->pushed & (L7_PENDING - 1)];
		last->start_ns = start;
		last->operation = operation;
		last->flags = flags;
		last->count = 1;
		l7_publish(c->pushed, c->pushed + 1);
	}
}

static L7_INLINE void l7_push(struct l7_conn *c, struct l7_token *t, __u16 operation, __u16 flags)
{
	l7_add(c, t, operation, flags, l7_newest(c)->flags == flags);
}

/* Steps over what is wholly taken, but for the last entry: it may still grow. NULL: none. */
static L7_INLINE struct l7_request *l7_oldest(struct l7_conn *c)
{
	struct l7_request *r;
	__u32 entries, drop = l7_read_once(c->drop_until);

	if ((__s32)(drop - c->popped) > 0) {
		c->taken = 0;
		l7_publish(c->popped, drop);
	}
	entries = l7_read_once(c->pushed) - c->popped;
	r = &c->pending[c->popped & (L7_PENDING - 1)];
	if (entries > 1 && c->taken >= r->count) {
		c->taken = 0;
		l7_publish(c->popped, c->popped + 1);
		r = &c->pending[c->popped & (L7_PENDING - 1)];
	}
	return entries && !c->unaligned && c->taken < l7_read_once(r->count) ? r : NULL;
}

/* The oldest request ends. False, and an event: there is none. */
static L7_INLINE bool l7_pop(struct l7_conn *c, struct l7_token *t, __u16 status)
{
	struct l7_request *r = l7_oldest(c);

	if (!r) {
		t->event = L7_UNMATCHED;
		return false;
	}
	c->taken++;
	t->start_ns = r->start_ns;
	t->operation = r->operation;
	t->status = status;
	t->done = 1;
	return true;
}

/* A request that gets no answer by design: counted, without a time. */
static L7_INLINE void l7_one_way(struct l7_conn *c, struct l7_token *t, __u16 operation)
{
	t->start_ns = c->stream[L7_REQUEST].begin_ns;
	t->operation = operation;
	t->status = L7_ONE_WAY;
	t->done = 1;
	t->untimed = 1;
}

/*
 * With numbers (DNS): answers may come in any order. `count` is the number, and
 * `taken` has a bit for each entry that has been answered.
 */
static L7_INLINE void l7_push_number(struct l7_conn *c, struct l7_token *t, __u32 number,
				     __u16 operation, __u16 flags)
{
	__u32 entries = c->pushed - l7_read_once(c->popped);
	struct l7_request *r = &c->pending[c->pushed & (L7_PENDING - 1)];

	if (entries >= L7_PENDING) {
		t->event = L7_OVERFLOW;
		return;
	}
	r->start_ns = c->stream[L7_REQUEST].begin_ns;
	r->count = number;
	r->operation = operation;
	r->flags = flags;
	l7_publish(c->pushed, c->pushed + 1);
}

static L7_INLINE struct l7_request *l7_pop_number(struct l7_conn *c, struct l7_token *t,
						  __u32 number, __u16 status)
{
	__u32 entries = l7_read_once(c->pushed) - c->popped, found = L7_PENDING;

	for (__u32 i = 0; i < L7_PENDING; i++) {
		__u32 at = (c->popped + i) & (L7_PENDING - 1);

		if (found == L7_PENDING && i < entries && !(c->taken & 1u << at) &&
		    c->pending[at].count == number)
			found = at;
	}
	if (found >= L7_PENDING) {
		t->event = L7_UNMATCHED;
		return NULL;
	}
	c->taken |= 1u << found;
	t->start_ns = c->pending[found & (L7_PENDING - 1)].start_ns;
	t->operation = c->pending[found & (L7_PENDING - 1)].operation;
	t->status = status;
	t->done = 1;
	for (__u32 i = 0; i < L7_PENDING; i++) {
		__u32 at = c->popped & (L7_PENDING - 1);

		if (!(c->taken & 1u << at))
			break;
		c->taken &= ~(1u << at);
		l7_publish(c->popped, c->popped + 1);
	}
	return &c->pending[found & (L7_PENDING - 1)];
}

/*
 * In order, and with numbers (Kafka, MongoDB): what is answered out of its turn was not answered
 * before. Of the first number of a run, flags have the lowest bits above the protocol's four.
 */
#define L7_NUMBER_SHIFT 4
#define L7_NUMBER_BITS 0xfff

static L7_INLINE void l7_push_ordered(struct l7_conn *c, struct l7_token *t, __u32 number,
				      __u16 operation, __u16 flags)
{
	const struct l7_request *last = l7_newest(c);
	bool follows =
		!(((last->flags >> L7_NUMBER_SHIFT) + last->count - number) & L7_NUMBER_BITS) &&
		(last->flags & ((1 << L7_NUMBER_SHIFT) - 1)) == flags &&
		last->count < L7_NUMBER_BITS;

	l7_add(c, t, operation, (__u16)((number & L7_NUMBER_BITS) << L7_NUMBER_SHIFT | flags),
	       follows);
}

/* Where a number is among those outstanding. */
enum l7_order { L7_NOT_ASKED, L7_OLDEST, L7_BEHIND_OLDEST };

L7_FUNCTION __u32 l7_order_of(struct l7_conn *c, __u32 number)
{
	__u32 entries;

	if (!c || !l7_oldest(c))
		return L7_NOT_ASKED;
	entries = l7_read_once(c->pushed) - c->popped;
	for (__u32 i = 0; i < L7_PENDING; i++) {
		struct l7_request *r = &c->pending[(c->popped + i) & (L7_PENDING - 1)];
		__u32 at = (number - (r->flags >> L7_NUMBER_SHIFT)) & L7_NUMBER_BITS;

		if (i < entries && at < l7_read_once(r->count) && (i || at >= c->taken))
			return i || at > c->taken ? L7_BEHIND_OLDEST : L7_OLDEST;
	}
	return L7_NOT_ASKED;
}

static L7_INLINE __u16 l7_be16(const __u8 *b)
{
	return (__u16)(b[0] << 8 | b[1]);
}

static L7_INLINE __u32 l7_be32(const __u8 *b)
{
	return (__u32)b[0] << 24 | (__u32)b[1] << 16 | (__u32)b[2] << 8 | b[3];
}

static L7_INLINE __u32 l7_le32(const __u8 *b)
{
	return (__u32)b[3] << 24 | (__u32)b[2] << 16 | (__u32)b[1] << 8 | b[0];
}

/* A text of at most eight bytes as the number that its bytes are in memory. */
#define L7_CHAR(text, i) (sizeof(text) > (i) + 1 ? (__u64)(__u8)(text)[i] << 8 * (i) : 0)
#define L7_WORD(text)                                                                              \
	(L7_CHAR(text, 0) | L7_CHAR(text, 1) | L7_CHAR(text, 2) | L7_CHAR(text, 3) |               \
	 L7_CHAR(text, 4) | L7_CHAR(text, 5) | L7_CHAR(text, 6) | L7_CHAR(text, 7))
#define L7_EACH_BYTE 0x0101010101010101ULL

/* The first `bytes` of a word. */
static L7_INLINE __u64 l7_first(__u64 word, __u32 bytes)
{
	return bytes >= 8 ? word : bytes ? word & (~0ULL >> (64 - 8 * bytes)) : 0;
}

/* Letters to upper case; other bytes may change too, but none becomes a letter that was none. */
#define L7_UPPER(word) ((word) & ~(0x20 * L7_EACH_BYTE))

/* A mark in the first byte that is zero, none if no byte is; marks after it may be false. */
static L7_INLINE __u64 l7_zero(__u64 word)
{
	return (word - L7_EACH_BYTE) & ~word & 0x80 * L7_EACH_BYTE;
}

/* Which byte has the first mark; 8: none. */
static L7_INLINE __u32 l7_first_mark(__u64 marks)
{
	__u64 lowest = marks >> 7; /* of each byte, its lowest bit */
	__u64 below = (lowest & -lowest) - 1;

	return marks ? (__u32)(((below & L7_EACH_BYTE) * L7_EACH_BYTE) >> 56) : 8;
}

/* Where a byte is among the first L7_KEPT; L7_KEPT: nowhere. */
L7_FUNCTION __u32 l7_find(struct l7_token *t, __u32 byte)
{
	__u64 pattern = (byte & 0xff) * L7_EACH_BYTE;
	__u32 at;

	if (!t)
		return L7_KEPT;
	at = l7_first_mark(l7_zero(t->words[0] ^ pattern));
	if (at == 8)
		at = 8 + l7_first_mark(l7_zero(t->words[1] ^ pattern));
	if (at == 16)
		at = 16 + l7_first_mark(l7_zero(t->words[2] ^ pattern));
	if (at == 24)
		at = 24 + l7_first_mark(l7_zero(t->words[3] ^ pattern));
	return at;
}

#define L7_NO_NUMBER (~0ULL)

/* The decimal number from this byte to the first that is no digit; L7_NO_NUMBER: there is none. */
L7_FUNCTION __u64 l7_decimal(struct l7_token *t, __u32 from)
{
	__u64 number = 0;
	__u32 i;

	if (!t)
		return L7_NO_NUMBER;
	for (i = 0; i < 18; i++) {
		__u32 at = from + i, digit;

		l7_hide(at);
		if (at >= L7_KEPT || at >= t->kept)
			break;
		digit = t->bytes[at] - '0';
		if (digit > 9)
			break;
		number = number * 10 + digit;
	}
	return i ? number : L7_NO_NUMBER;
}

/* The hexadecimal one. */
L7_FUNCTION __u64 l7_hexadecimal(struct l7_token *t)
{
	__u64 number = 0;
	__u32 i;

	if (!t)
		return L7_NO_NUMBER;
	for (i = 0; i < 15; i++) {
		__u32 digit = t->bytes[i] - '0', letter = (t->bytes[i] | 0x20) - 'a';

		if (i >= t->kept || (digit > 9 && letter > 5))
			break;
		number = number << 4 | (digit > 9 ? letter + 10 : digit);
	}
	return i ? number : L7_NO_NUMBER;
}

#endif

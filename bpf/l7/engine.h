/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The engine: detection, the order of segments, tokens, and what is done when a protocol has said
 * that a request has ended. Who includes it has declared
 *
 *   struct l7_packet, and
 *   int l7_load(struct l7_packet *packet, __u32 offset, void *to, __u32 bytes);
 *	1 to L7_WINDOW bytes; 0, or they are not there
 *   __u64 l7_now(void);
 *   int l7_book(struct l7_conn *c, __u32 direction);
 *	the stream's booked_*, and L7_AS_GRPC: requests that have ended
 *   int l7_count(struct l7_conn *c, __u32 event, __u32 times);
 *   l7_loop(turns, function, run);
 */
#ifndef KPOD_L7_ENGINE_H
#define KPOD_L7_ENGINE_H

#include "protocols.h"

#define L7_TURNS_MAX 16384     /* tokens of one segment */
#define L7_TRIES_MAX 16	       /* turns of a connection at which its protocol is looked for */
#define L7_HELD_MAX (1u << 20) /* bytes that may have come too early */

/* Of payload, beside where it begins in its packet. */
enum l7_how { L7_RECEIVED = 1, L7_BEGINNING = 2, L7_HOW_SHIFT = 8 };

struct l7_run {
	struct l7_packet *packet;
	struct l7_conn *conn;
	__u32 payload; /* where it begins in the packet */
	__u32 direction;
	__u32 bad; /* these are not the protocol's bytes */
};

static L7_INLINE struct l7_stream *l7_stream(struct l7_run *run)
{
	return run->direction ? &run->conn->stream[L7_RESPONSE] : &run->conn->stream[L7_REQUEST];
}

static L7_INLINE __u8 *l7_window(struct l7_stream *s, __u32 position)
{
	return (__u8 *)s + __builtin_offsetof(struct l7_stream, window) + position;
}

/* The next L7_KEPT bytes of the window; those after it are other fields, and not looked at. */
static L7_INLINE void l7_peek(struct l7_stream *s, __u32 position, __u64 words[4])
{
	position &= 63;
	for (__u32 i = 0; i < 4; i++)
		words[i] = l7_word_at(l7_window(s, position + 8 * i));
}

static L7_INLINE void l7_advance(struct l7_stream *s, __u32 bytes)
{
	__u32 in_window = s->loaded - s->position;

	if (bytes <= in_window) {
		s->position += bytes;
	} else {
		s->base += s->position + bytes;
		s->position = s->loaded = 0;
	}
	if (s->left != L7_UNBOUND)
		s->left = s->left > bytes ? s->left - bytes : 0;
}

/* What is not consumed to the window's beginning. */
static L7_INLINE void l7_carry(struct l7_stream *s)
{
	__u32 from = s->position & 63;

	/* From the first to the last: each word is read before it is overwritten. */
	for (__u32 i = 0; i < L7_KEPT; i += 8)
		l7_put_word(l7_window(s, i), l7_word_at(l7_window(s, from + i)));
	s->base += s->position;
	s->loaded -= s->position;
	s->position = 0;
}

/* A number from 1 to 64, as all kernels' verifiers see. What it would change is not asked for. */
static L7_INLINE __u32 l7_some(__u32 bytes)
{
	l7_hide(bytes);
	return ((bytes - 1) & 63) + 1;
}

/* As much of the segment as fits into the window. */
static L7_INLINE int l7_refill(struct l7_run *run, struct l7_stream *s)
{
	__u32 from, bytes, to = 0;

	if ((__s32)(s->base + s->position) < 0) {
		l7_carry(s);
		to = s->loaded;
		l7_hide(to);
		if (to >= L7_KEPT)
			to = L7_KEPT;
	} else {
		s->base += s->position;
		s->position = 0;
	}
	from = s->base + to;
	bytes = s->end - from;
	if (bytes > L7_WINDOW - to)
		bytes = L7_WINDOW - to;
	if (!bytes || l7_load(run->packet, run->payload + from, l7_window(s, to), l7_some(bytes)))
		return -1;
	s->loaded = to + bytes;
	return 0;
}

static L7_INLINE void l7_flush(struct l7_conn *c, struct l7_stream *s, __u32 direction)
{
	if (s->booked_count)
		l7_book(c, direction);
	s->booked_count = 0;
}

/* What the protocol has said. Ends of the same run of requests are booked together. */
static L7_INLINE void l7_note(struct l7_conn *c, struct l7_stream *s, struct l7_token *t,
			      __u32 direction)
{
	__u8 flags = (t->untimed ? L7_UNTIMED : 0) | (t->grpc ? L7_AS_GRPC : 0);

	if (t->event)
		l7_count(c, t->event, 1);
	if (!t->done)
		return;
	if (s->booked_count &&
	    (s->booked_ns != t->start_ns || s->booked_operation != t->operation ||
	     s->booked_status != t->status || (s->flags & (L7_UNTIMED | L7_AS_GRPC)) != flags))
		l7_flush(c, s, direction);
	s->booked_ns = t->start_ns;
	s->booked_operation = t->operation;
	s->booked_status = t->status;
	s->booked_count++;
	s->flags = (s->flags & ~(L7_UNTIMED | L7_AS_GRPC)) | flags;
}

/* What is to be skipped, of what is left of the segment. False: that is all. */
static L7_INLINE bool l7_skip_here(struct l7_stream *s, __u32 *left)
{
	__u32 bytes;

	*left = s->end - (s->base + s->position);
	if (!s->skip)
		return true;
	bytes = s->skip < *left ? s->skip : *left;
	l7_advance(s, bytes);
	s->skip -= bytes;
	*left -= bytes;
	if (s->skip)
		return false;
	s->token_ns = s->last_ns;
	return true;
}

/* The next bytes of the segment, which has some left, into a token. How many are there; 0: none
 * could be had. */
static L7_INLINE __u32 l7_token_bytes(struct l7_run *run, struct l7_stream *s, __u32 left,
				      struct l7_token *t)
{
	__u32 ready = s->loaded - s->position, bytes = left < L7_KEPT ? left : L7_KEPT;

	if (ready < bytes) {
		if (l7_refill(run, s)) {
			run->bad = 1;
			return 0;
		}
		ready = s->loaded - s->position;
		bytes = ready < L7_KEPT ? ready : L7_KEPT;
	}
	l7_peek(s, s->position, t->words);
	return bytes;
}

/* One token, or the end of the segment: then 1. */
static L7_INLINE long l7_turn(struct l7_run *run)
{
	struct l7_conn *c = run->conn;
	struct l7_stream *s = l7_stream(run);
	struct l7_token t = {};
	__u32 left = s->end - (s->base + s->position), bytes, at;
	bool rest = s->flags & L7_REST;

	if (!rest && !l7_skip_here(s, &left))
		return 1;
	if (s->mode == L7_TAKE && !s->want && !rest)
		goto step;
	if (s->mode == L7_TEXT && !s->left && !rest)
		goto step;
	if (!left)
		return 1;
	bytes = l7_token_bytes(run, s, left, &t);
	if (!bytes)
		return 1;
	if (s->mode == L7_TAKE && !rest) {
		if (bytes < s->want)
			return 1;
		t.kept = bytes = s->want;
	} else {
		bool text = rest ? s->flags & L7_REST_TEXT : s->mode == L7_TEXT;

		if (text && s->left < bytes)
			bytes = s->left;
		at = l7_find(&t, text ? 0 : '\n');
		if (at < bytes) {
			t.kept = at;
			bytes = at + 1;
			s->flags &= ~(L7_REST | L7_REST_TEXT);
		} else if (text && bytes == s->left) {
			t.kept = bytes;
			s->flags &= ~(L7_REST | L7_REST_TEXT);
		} else if (bytes == L7_KEPT) {
			t.kept = L7_KEPT;
			t.cut = 1;
			s->flags |= text ? L7_REST | L7_REST_TEXT : L7_REST;
		} else {
			/* The part of a rest is not needed any more, but a token is whole. */
			if (!rest)
				return 1;
		}
	}
	l7_advance(s, bytes);
	if (rest) {
		if (!(s->flags & L7_REST))
			s->token_ns = s->last_ns;
		return 0;
	}
step:
	if (l7_step(c, &t, run->direction)) {
		run->bad = 1;
		return 1;
	}
	if (!(s->flags & L7_REST))
		s->token_ns = s->last_ns;
	if (t.done || t.event)
		l7_note(c, s, &t, run->direction);
	return c->opaque ? 1 : 0;
}

static long l7_turn_once(__u32 number, void *run)
{
	(void)number;
	return l7_turn(run);
}

/* What is fed: from this offset of the packet's payload on; what is carried comes before it. */
static L7_INLINE void l7_feed_from(struct l7_stream *s, __u32 offset, __u32 bytes)
{
	s->base = offset - s->loaded;
	s->end = offset + bytes;
	if (!s->loaded)
		s->token_ns = s->last_ns;
}

/* What was fed is done, but for what is carried. Gives whether it was bad. */
static L7_INLINE int l7_fed(struct l7_run *run, struct l7_stream *s)
{
	struct l7_conn *c = run->conn;

	l7_flush(c, s, run->direction);
	/* Also of a skip that goes on: when its last byte came. */
	if (s->skip)
		s->token_ns = s->last_ns;
	if (s->base + s->position == s->end)
		s->position = s->loaded = 0;
	else
		l7_carry(s);
	if (run->bad)
		l7_count(c, L7_BROKEN, 1);
	return run->bad;
}

/* `how`: the direction, and where the payload begins. */
L7_FUNCTION int l7_feed(struct l7_packet *packet, struct l7_conn *c, __u32 how, __u32 offset,
			__u32 bytes)
{
	struct l7_run run = {.packet = packet,
			     .conn = c,
			     .payload = how >> L7_HOW_SHIFT,
			     .direction = how & L7_RESPONSE};
	struct l7_stream *s;

	if (!c)
		return -1;
	s = l7_stream(&run);
	l7_feed_from(s, offset, bytes);
	if (l7_loop(L7_TURNS_MAX, l7_turn_once, &run) >= L7_TURNS_MAX)
		run.bad = 1;
	if (c->opaque == L7_UPGRADED) {
		/* The rest comes again, as HTTP/2. */
		l7_flush(c, s, run.direction);
		s->next -= s->end - (s->base + s->position);
		s->position = s->loaded = 0;
		c->late = 0;
		c->protocol = L7_HTTP2;
		c->opaque = L7_READ;
		l7_start(c, L7_REQUEST);
		l7_start(c, L7_RESPONSE);
		return 0;
	}
	return l7_fed(&run, s);
}

static L7_INLINE void l7_idle(struct l7_stream *s)
{
	s->position = s->loaded = 0;
	s->skip = 0;
	s->state = 0;
	s->left = L7_UNBOUND;
	s->flags &= L7_STARTED;
}

/*
 * Bytes are missing. Of requests: answers are not known to be whose from now on, until the client
 * asks something again after an answer. Of answers: those who waited do not get theirs, until there
 * is an answer after another request.
 */
static L7_INLINE void l7_lose(struct l7_conn *c, struct l7_stream *s, __u32 direction)
{
	l7_idle(s);
	s->flags |= L7_LOST;
	s->begin_ns = s->last_ns;
	if (direction == L7_REQUEST)
		c->unaligned = 1;
}

/* What waits for an answer, and asked before that time, does not get one. */
static L7_INLINE void l7_drop(struct l7_conn *c, __u64 before_ns, __u32 event)
{
	__u32 lost = 0, rest = 0;

	for (__u32 i = 0; i < L7_PENDING; i++) {
		struct l7_request *r = &c->pending[c->popped & (L7_PENDING - 1)];

		if (c->popped == l7_read_once(c->pushed) || r->start_ns >= before_ns)
			break;
		if (l7_has_numbers(c->protocol)) {
			rest = !(c->taken & 1u << (c->popped & (L7_PENDING - 1)));
			c->taken &= ~(1u << (c->popped & (L7_PENDING - 1)));
		} else {
			rest = r->count - c->taken;
			c->taken = 0;
		}
		if ((__s32)(c->drop_until - c->popped) <= 0)
			lost += rest;
		l7_publish(c->popped, c->popped + 1);
	}
	if (lost)
		l7_count(c, event, lost);
}

/* The connection is no more: what still waits gets no answer, or, of protocols that had one begun,
 * what of it there is. */
static L7_INLINE void l7_unanswered(struct l7_conn *c)
{
	struct l7_stream *s = &c->stream[L7_RESPONSE];
	__u16 begun = s->status;

	for (__u32 i = 0; i < L7_PENDING; i++) {
		__u32 at = c->popped & (L7_PENDING - 1);
		struct l7_request *r = &c->pending[at];
		__u32 rest = r->count - c->taken;

		if (c->popped == c->pushed)
			break;
		if (l7_has_numbers(c->protocol)) {
			rest = !(c->taken & 1u << at);
			c->taken &= ~(1u << at);
		} else {
			c->taken = 0;
		}
		c->popped++;
		if (!rest || (__s32)(c->drop_until - c->popped) >= 0)
			continue;
		s->booked_ns = r->start_ns;
		s->booked_operation = r->operation;
		s->flags |= L7_UNTIMED;
		if (l7_ends_with(c->protocol) && begun) {
			s->booked_status = begun;
			s->booked_count = 1;
			begun = 0;
			l7_book(c, L7_RESPONSE);
			rest--;
		}
		s->booked_status = L7_NO_RESPONSE;
		s->booked_count = rest;
		l7_flush(c, s, L7_RESPONSE);
	}
}

/* Whether a segment that begins with these bytes is where a lost stream can be taken up again. */
static L7_INLINE bool l7_resumes(struct l7_conn *c, struct l7_stream *s, struct l7_token *head,
				 __u32 bytes, __u32 direction)
{
	__u32 role = direction == L7_REQUEST ? L7_CLIENT : L7_SERVER;
	bool numbers = l7_has_numbers(c->protocol);

	if (!numbers &&
	    (direction == L7_REQUEST ? c->turn_ns != s->last_ns : c->turn_ns <= s->begin_ns))
		return false;
	if (l7_detect_one(c->protocol, head, bytes, L7_KNOWN) != role)
		return false;
	if (direction == L7_REQUEST) {
		if (!numbers)
			c->drop_until = c->pushed;
		l7_publish(c->unaligned, 0);
	} else {
		l7_drop(c, numbers ? s->begin_ns : c->turn_ns, L7_GAP);
	}
	s->flags &= ~L7_LOST;
	l7_start(c, direction);
	return true;
}

/* The first bytes of payload, as a token. */
static L7_INLINE int l7_head(struct l7_packet *packet, struct l7_stream *s, __u32 offset,
			     __u32 bytes, struct l7_token *head)
{
	__u32 take = bytes < L7_KEPT ? bytes : L7_KEPT;

	if (!take || l7_load(packet, offset, l7_window(s, 0), l7_some(take)))
		return -1;
	l7_peek(s, 0, head->words);
	head->kept = take;
	return 0;
}

/* Bytes that would have been skipped. */
static L7_INLINE void l7_skip_missing(struct l7_stream *s, __u32 bytes)
{
	s->skip -= bytes;
	if (s->left != L7_UNBOUND)
		s->left = s->left > bytes ? s->left - bytes : 0;
}

static L7_INLINE bool l7_is_skipping(const struct l7_stream *s, __u32 bytes)
{
	return s->skip >= bytes && !(s->flags & (L7_LOST | L7_REST));
}

/* Payload that was received before some that belongs before it is remembered as an interval. */
static L7_INLINE bool l7_hold(struct l7_conn *c, __u32 from, __u32 to)
{
	if (c->held_from == c->held_to) {
		c->held_from = from;
		c->held_to = to;
		return true;
	}
	if ((__s32)(from - c->held_to) > 0 || (__s32)(c->held_from - to) > 0 ||
	    c->held_to - c->held_from > L7_HELD_MAX) {
		c->held_from = c->held_to = 0;
		return false;
	}
	if ((__s32)(from - c->held_from) < 0)
		c->held_from = from;
	if ((__s32)(to - c->held_to) > 0)
		c->held_to = to;
	return true;
}

/* What was held comes next now, or the most of it: it can only have been skipped. */
static L7_INLINE void l7_release(struct l7_conn *c, struct l7_stream *s, __u32 direction)
{
	__u32 ahead = c->held_to - s->next;

	if (c->held_from == c->held_to || (__s32)(c->held_from - s->next) > 0)
		return;
	c->held_from = c->held_to = 0;
	if ((__s32)ahead <= 0)
		return;
	s->next += ahead;
	if (l7_is_skipping(s, ahead))
		l7_skip_missing(s, ahead);
	else
		l7_lose(c, s, direction);
}

/* Whether a lost stream can be taken up again at the beginning of this payload. */
L7_FUNCTION int l7_take_up(struct l7_packet *packet, struct l7_conn *c, __u32 how, __u32 offset,
			   __u32 bytes)
{
	__u32 direction = how & L7_RESPONSE;
	struct l7_token head = {};
	struct l7_stream *s;

	if (!c)
		return 0;
	s = direction ? &c->stream[L7_RESPONSE] : &c->stream[L7_REQUEST];
	return !l7_head(packet, s, (how >> L7_HOW_SHIFT) + offset, bytes, &head) &&
	       l7_resumes(c, s, &head, bytes, direction);
}

/*
 * Payload of a connection whose protocol is known: in order, but for what was seen too early
 * (received, not yet in its place) or was seen before (sent again). How many bytes are to be fed,
 * from which offset on.
 */
static L7_INLINE __u32 l7_place(struct l7_conn *c, struct l7_stream *s, __u32 sequence, __u32 bytes,
				__u32 how, __u32 direction, __u32 *offset)
{
	__u32 ahead;

	if (!(s->flags & L7_STARTED)) {
		s->next = sequence;
		s->flags |= L7_STARTED;
	}
	s->last_ns = l7_now();
	ahead = sequence - s->next;
	if ((__s32)ahead < 0) {
		*offset = -ahead;
		if (bytes <= *offset)
			return 0;
		bytes -= *offset;
	} else if (ahead && l7_is_skipping(s, ahead)) {
		l7_skip_missing(s, ahead);
	} else if (ahead && !(s->flags & L7_LOST)) {
		if (how & L7_RECEIVED && l7_hold(c, sequence, sequence + bytes))
			return 0;
		l7_lose(c, s, direction);
	}
	s->next = sequence + *offset + bytes;
	if (c->last != direction) {
		c->last = (__u8)direction;
		if (direction == L7_REQUEST)
			c->turn_ns = s->last_ns;
	}
	return bytes;
}

L7_FUNCTION int l7_segment(struct l7_packet *packet, struct l7_conn *c, __u32 sequence, __u32 bytes,
			   __u32 how)
{
	__u32 offset = 0, direction;
	struct l7_stream *s;

	if (!c)
		return 0;
	direction = how & L7_RECEIVED ? !c->sends : !!c->sends;
	s = direction ? &c->stream[L7_RESPONSE] : &c->stream[L7_REQUEST];
	bytes = l7_place(c, s, sequence, bytes, how, direction, &offset);
	if (!bytes)
		return 0;
	if (s->flags & L7_LOST && !l7_take_up(packet, c, (how & ~0xffu) | direction, offset, bytes))
		return 0;
	if (l7_feed(packet, c, (how & ~0xffu) | direction, offset, bytes))
		l7_lose(c, s, direction);
	else if (how & L7_RECEIVED)
		l7_release(c, s, direction);
	return 0;
}

/* A ClientHello in its record, or one of application data (RFC 8446 5.1). */
static L7_INLINE __u32 l7_tls_detect(const struct l7_token *head)
{
	const __u8 *b = head->bytes;
	__u32 there = head->kept;

	if ((b[0] != 0x16 && b[0] != 0x17) || (there > 1 && b[1] != 3) || (there > 2 && b[2] > 4) ||
	    (there > 5 && b[0] == 0x16 && b[5] != 1))
		return L7_NO;
	return there > 5 ? L7_CLIENT : L7_MORE;
}

/*
 * What protocol begins with these bytes: the number, and in the second byte who sends them. L7_MORE
 * in the second byte alone: there are too few.
 */
L7_FUNCTION __u32 l7_detect(struct l7_token *head, __u32 size, __u32 flags)
{
	__u32 found = 0, more = 0;

	if (!head)
		return 0;
	found = l7_tls_detect(head);
	if (found == L7_CLIENT)
		return L7_TLS | L7_CLIENT << 8;
	more = found == L7_MORE;
	found = l7_http2_detect(head, size, flags);
	if (found >= L7_CLIENT)
		return L7_HTTP2 | found << 8;
	more |= found == L7_MORE;
	found = 0;
#define X(number, name, prefix)                                                                    \
	if (!found) {                                                                              \
		__u32 role = l7_##prefix##_detect(head, size, flags);                              \
                                                                                                   \
		if (role >= L7_CLIENT)                                                             \
			found = L7_##number | role << 8;                                           \
		more |= role == L7_MORE;                                                           \
	}
	L7_PROTOCOLS(X)
#undef X
	return found ? found : more ? L7_MORE << 8 : 0;
}

static L7_INLINE void l7_swap(void *a, void *b)
{
	__u64 was = l7_word_at(a);

	l7_put_word(a, l7_word_at(b));
	l7_put_word(b, was);
}

/*
 * Its protocol is known now, by what this end sent or received. Until now stream[0] was what this
 * end sends.
 */
static L7_INLINE void l7_establish(struct l7_conn *c, __u32 found, __u32 how)
{
	bool sent = !(how & L7_RECEIVED), client = (found >> 8 == L7_CLIENT) == sent;
	struct l7_stream *a = &c->stream[0], *b = &c->stream[1];
	__u32 next = a->next;
	__u8 loaded = a->loaded, flags = a->flags;

	c->protocol = found & 0xff;
	c->sends = client ? L7_REQUEST : L7_RESPONSE;
	c->opaque = c->protocol == L7_TLS;
	c->late = !(how & L7_BEGINNING);
	c->last = L7_RESPONSE;
	if (!client) {
		a->next = b->next;
		a->loaded = b->loaded;
		a->flags = b->flags;
		b->next = next;
		b->loaded = loaded;
		b->flags = flags;
		l7_swap(&a->token_ns, &b->token_ns);
		l7_swap(&a->last_ns, &b->last_ns);
		for (__u32 i = 0; i < L7_KEPT; i += 8)
			l7_swap(l7_window(a, i), l7_window(b, i));
	}
	l7_start(c, L7_REQUEST);
	l7_start(c, L7_RESPONSE);
	/* Where a frame begins in what the other end sends is not known. */
	if (c->protocol == L7_HTTP2 && c->late)
		c->stream[found >> 8 == L7_CLIENT].flags |= L7_LOST;
}

/*
 * Payload of a connection whose protocol is not known. Looked at are the first bytes after each
 * turn of the conversation, however they are cut.
 */
L7_FUNCTION int l7_look(struct l7_packet *packet, struct l7_conn *c, __u32 sequence, __u32 bytes,
			__u32 how)
{
	__u32 offset = 0, take, found = 0, had, direction, received = how & L7_RECEIVED;
	struct l7_stream *s, *other;
	struct l7_token head = {};

	if (!c)
		return 0;
	s = received ? &c->stream[1] : &c->stream[0];
	other = received ? &c->stream[0] : &c->stream[1];
	if (s->flags & L7_STARTED && (__s32)(sequence - s->next) < 0) {
		offset = s->next - sequence;
		if (bytes <= offset)
			return 0;
		bytes -= offset;
	} else if (!(s->flags & L7_STARTED) || sequence != s->next) {
		s->loaded = 0;
		s->state = s->flags & L7_STARTED;
		s->flags |= L7_STARTED;
	}
	s->next = sequence + offset + bytes;
	s->last_ns = l7_now();
	if (c->last != received + 1) {
		c->last = received + 1;
		c->tries++;
		s->loaded = 0;
		s->state = 0;
	}
	if (s->state)
		return 0;
	had = s->loaded;
	l7_hide(had);
	if (had >= L7_KEPT)
		return 0;
	take = bytes < L7_KEPT - had ? bytes : L7_KEPT - had;
	if (l7_load(packet, (how >> L7_HOW_SHIFT) + offset, l7_window(s, had), l7_some(take)))
		return 0;
	s->loaded = had + take;
	if (!had)
		s->token_ns = s->last_ns;
	if (c->tries > 1)
		how &= ~L7_BEGINNING;
	/* What the one side said was too little, and this is the answer. */
	if (other->loaded && !c->late && c->tries == 2) {
		if (s->loaded < 2)
			return 0;
		l7_peek(other, 0, head.words);
		head.kept = other->loaded;
		if (l7_redis_answers(&head, l7_window(s, 0)[0], l7_window(s, 0)[1])) {
			s->loaded = had;
			l7_establish(c, L7_REDIS | L7_SERVER << 8, how | L7_BEGINNING);
			c->stream[L7_REQUEST].position = 0;
			if (l7_feed(packet, c, L7_REQUEST, 0, 0))
				l7_lose(c, &c->stream[L7_REQUEST], L7_REQUEST);
			c->last = L7_RESPONSE;
			if (l7_feed(packet, c, (how & ~0xffu) | L7_RESPONSE, offset, bytes))
				l7_lose(c, &c->stream[L7_RESPONSE], L7_RESPONSE);
			return 0;
		}
		other->loaded = 0;
	}
	head.kept = s->loaded;
	l7_peek(s, 0, head.words);
	found = l7_detect(&head, had + bytes, how & L7_BEGINNING ? L7_FRESH : 0);
	if (!(found & 0xff)) {
		/* Nothing, or too little. */
		if (found >> 8 != L7_MORE || s->loaded == L7_KEPT) {
			s->loaded = 0;
			s->state = 1;
		}
		c->opaque = c->tries > L7_TRIES_MAX;
		return 0;
	}
	s->loaded = had;
	other->loaded = 0;
	l7_establish(c, found, how);
	if (c->opaque)
		return 0;
	direction = found >> 8 == L7_CLIENT ? L7_REQUEST : L7_RESPONSE;
	s = direction ? &c->stream[L7_RESPONSE] : &c->stream[L7_REQUEST];
	if (direction == L7_REQUEST) {
		c->last = L7_REQUEST;
		c->turn_ns = s->last_ns;
	}
	if (c->protocol == L7_HTTP2) {
		s->next -= bytes; /* they come again, to http2_engine.h */
		return 0;
	}
	if (l7_feed(packet, c, (how & ~0xffu) | direction, offset, bytes))
		l7_lose(c, s, direction);
	return 0;
}

/* Before there was any payload: what the first byte's sequence number will be. */
static L7_INLINE void l7_expect(struct l7_conn *c, bool received, __u32 next)
{
	struct l7_stream *s = received ? &c->stream[1] : &c->stream[0];

	s->next = next;
	s->flags |= L7_STARTED;
}

/* All payload, in either direction, but that of HTTP/2. If the connection is HTTP/2's after that,
 * http2_engine.h is to have the same payload. */
static L7_INLINE void l7_receive(struct l7_packet *packet, struct l7_conn *c, __u32 sequence,
				 __u32 bytes, __u32 how)
{
	if (c->opaque)
		return;
	if (c->protocol == L7_UNKNOWN)
		l7_look(packet, c, sequence, bytes, how);
	else if (c->protocol != L7_HTTP2)
		l7_segment(packet, c, sequence, bytes, how);
}

/* The sender has closed its stream: what lasted to its end is whole, since its last byte. */
static L7_INLINE void l7_finish(struct l7_conn *c, __u32 direction)
{
	struct l7_stream *s = direction ? &c->stream[L7_RESPONSE] : &c->stream[L7_REQUEST];
	struct l7_token t = {};

	if (!(s->flags & L7_TO_CLOSE) || c->opaque)
		return;
	s->flags &= ~L7_TO_CLOSE;
	l7_pop(c, &t, s->status);
	l7_note(c, s, &t, direction);
	l7_flush(c, s, direction);
}

/* The connection is no more. */
static L7_INLINE void l7_end(struct l7_conn *c)
{
	if (c->protocol == L7_UNKNOWN)
		return;
	l7_finish(c, L7_RESPONSE);
	if (!c->opaque)
		l7_unanswered(c);
}

#endif

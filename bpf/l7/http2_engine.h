/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Payload of connections of HTTP/2, as engine.h has it of others: what has more state than they is
 * fed by functions of its own, so that what is not HTTP/2 does not pay for it.
 */
#ifndef KPOD_L7_HTTP2_ENGINE_H
#define KPOD_L7_HTTP2_ENGINE_H

#include "engine.h"

#define H2_ALIGNED_FRAMES 8 /* that are looked at where a stream may be taken up again */

struct l7_h2_run {
	struct l7_run run;
	struct l7_h2 *h2;
};

static L7_INLINE long l7_h2_turn(struct l7_h2_run *r)
{
	struct l7_run *run = &r->run;
	struct l7_conn *c = run->conn;
	struct l7_stream *s = l7_stream(run);
	struct l7_token t = {};
	__u32 left;

	if (!l7_skip_here(s, &left))
		return 1;
	if (s->want) {
		if (!left || l7_token_bytes(run, s, left, &t) < s->want)
			return 1;
		t.kept = s->want;
		l7_advance(s, s->want);
	}
	if (l7_http2_step(c, r->h2, &t, run->direction)) {
		run->bad = 1;
		return 1;
	}
	s->token_ns = s->last_ns;
	if (t.done || t.event)
		l7_note(c, s, &t, run->direction);
	return 0;
}

static long l7_h2_turn_once(__u32 number, void *run)
{
	(void)number;
	return l7_h2_turn(run);
}

/* Likewise l7_feed(); the caller has said l7_feed_from(). */
L7_FUNCTION int l7_h2_feed(struct l7_packet *packet, struct l7_conn *c, struct l7_h2 *h2, __u32 how)
{
	struct l7_h2_run r = {.run = {.packet = packet,
				      .conn = c,
				      .payload = how >> L7_HOW_SHIFT,
				      .direction = how & L7_RESPONSE},
			      .h2 = h2};
	struct l7_stream *s;

	if (!c || !h2)
		return -1;
	s = l7_stream(&r.run);
	if (l7_loop(L7_TURNS_MAX, l7_h2_turn_once, &r) >= L7_TURNS_MAX)
		r.run.bad = 1;
	return l7_fed(&r.run, s);
}

/* Whether a frame's header may be one. */
static L7_INLINE bool l7_h2_is_head(const __u8 *b, __u32 *size)
{
	__u32 flags = b[4], id = l7_be32(b + 5);
	__u32 allowed = b[3] == H2_DATA ? H2_END_STREAM | H2_PADDED
			: b[3] == H2_HEADERS
				? H2_END_STREAM | H2_END_HEADERS | H2_PADDED | H2_HAS_PRIORITY
				: H2_END_STREAM | H2_END_HEADERS | H2_PADDED;
	bool of_stream =
		b[3] <= H2_RST_STREAM || b[3] == H2_PUSH_PROMISE || b[3] == H2_CONTINUATION;

	*size = l7_be32(b) >> 8;
	if (b[3] > H2_CONTINUATION || *size > H2_FRAME_MAX || flags & ~allowed || id >> 31)
		return false;
	if (b[3] == H2_SETTINGS || b[3] == H2_PING || b[3] == H2_GOAWAY)
		return !id;
	return !of_stream || id;
}

/* Whether frames begin here: one that ends with the segment, or at least two. */
L7_FUNCTION int l7_h2_aligned(struct l7_packet *packet, __u32 offset, __u32 bytes)
{
	__u8 head[16] = {};
	__u32 at = 0, size;

	for (__u32 i = 0; i < H2_ALIGNED_FRAMES; i++) {
		if (at >= bytes || bytes - at < H2_HEAD)
			return i && (at == bytes || (at < bytes && i > 1));
		if (l7_load(packet, offset + at, head, H2_HEAD) || !l7_h2_is_head(head, &size) ||
		    (!i && head[3] == H2_CONTINUATION))
			return 0;
		at += H2_HEAD + size;
		if (at > bytes && i)
			return 1;
	}
	return 1;
}

/*
 * Bytes of a side are missing: its table is not known any more. Of answers: those that are
 * outstanding are lost with it; of requests: answers may come to some that were not seen.
 */
L7_FUNCTION int l7_h2_lost(struct l7_conn *c, struct l7_h2 *h2, __u32 direction)
{
	__u32 lost = 0;

	if (!c || !h2)
		return 0;
	if (direction == L7_REQUEST) {
		h2->side[L7_REQUEST].lost = 1;
		h2->side[L7_REQUEST].in_block = 0;
		if (h2->missed_to != ~0u) {
			h2->missed_from = h2->side[L7_REQUEST].last_id + 1;
			l7_publish(h2->missed_to, ~0u);
		}
		return 0;
	}
	h2->side[L7_RESPONSE].lost = 1;
	h2->side[L7_RESPONSE].in_block = 0;
	h2->counted_to = l7_read_once(h2->side[L7_REQUEST].last_id);
	for (__u32 i = 0; i < H2_STREAMS; i++) {
		__u32 id = l7_read_once(h2->streams[i].id);

		if (id)
			lost += l7_h2_free(&h2->streams[i], id);
	}
	if (lost)
		l7_count(c, L7_GAP, lost);
	return 0;
}

/*
 * Once, with new state. After an upgrade from HTTP/1 the request that asked for it is stream 1 (RFC
 * 7540 3.2), whose answer comes in HTTP/2. Nobody knows what a connection was asked before it was
 * seen.
 */
L7_FUNCTION int l7_http2_begin(struct l7_conn *c, struct l7_h2 *h2)
{
	const struct l7_request *asked;

	if (!c || !h2)
		return 0;
	asked = l7_oldest(c);
	if (asked) {
		h2->streams[0].start_ns = asked->start_ns;
		h2->streams[0].operation = (__u8)asked->operation;
		h2->streams[0].id = h2->side[L7_REQUEST].last_id = 1;
		c->popped = c->pushed;
	}
	if (c->late) {
		h2->missed_from = 1;
		h2->missed_to = ~0u;
	}
	return 0;
}

/* Payload of a connection that is HTTP/2. */
static L7_INLINE void l7_http2_receive(struct l7_packet *packet, struct l7_conn *c,
				       struct l7_h2 *h2, __u32 sequence, __u32 bytes, __u32 how)
{
	__u32 offset = 0, direction = how & L7_RECEIVED ? !c->sends : !!c->sends;
	struct l7_stream *s = direction ? &c->stream[L7_RESPONSE] : &c->stream[L7_REQUEST];
	bool gap = (__s32)(sequence - s->next) > 0;

	bytes = l7_place(c, s, sequence, bytes, how, direction, &offset);
	if (!bytes)
		return;
	if (s->flags & L7_LOST) {
		if (gap)
			l7_h2_lost(c, h2, direction);
		if (!l7_h2_aligned(packet, (how >> L7_HOW_SHIFT) + offset, bytes)) {
			l7_h2_lost(c, h2, direction);
			return;
		}
		s->flags &= ~L7_LOST;
		l7_h2_next_frame(s, 0);
	}
	l7_feed_from(s, offset, bytes);
	if (l7_h2_feed(packet, c, h2, (how & ~0xffu) | direction))
		l7_lose(c, s, direction);
	else if (how & L7_RECEIVED)
		l7_release(c, s, direction);
	if (s->flags & L7_LOST)
		l7_h2_lost(c, h2, direction);
}

/* The connection is no more. */
static L7_INLINE void l7_http2_end(struct l7_conn *c, struct l7_h2 *h2)
{
	struct l7_stream *s = &c->stream[L7_RESPONSE];

	for (__u32 i = 0; i < H2_STREAMS; i++) {
		struct l7_h2_stream *r = &h2->streams[i];

		if (!r->id)
			continue;
		r->id = 0;
		s->flags |= r->grpc == H2_IS_GRPC ? L7_UNTIMED | L7_AS_GRPC : L7_UNTIMED;
		s->booked_ns = r->start_ns;
		s->booked_operation = r->operation;
		s->booked_status = L7_NO_RESPONSE;
		s->booked_count = 1;
		l7_flush(c, s, L7_RESPONSE);
		s->flags &= ~L7_AS_GRPC;
	}
}

#endif

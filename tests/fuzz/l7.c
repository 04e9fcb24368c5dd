/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes are fine for layer 7, in any pieces, order and direction: the engine's state stays
 * within its bounds, and what was booked and counted is no more than what could have been sent. The
 * first byte chooses a protocol that is taken as known, or none; the second, what is known of the
 * connection. Each piece is a byte that says how it comes, one of its size, and its bytes.
 */
#include <assert.h>
#include <stdlib.h>

#include "../l7/user.h"

static uint64_t booked, counted, now;

static __u64 l7_now(void)
{
	return now;
}

static int l7_book(struct l7_conn *c, __u32 direction)
{
	const struct l7_stream *s = &c->stream[direction];

	assert(s->booked_operation < L7_OPERATION_COUNT);
	assert(s->booked_status < L7_STATUS_COUNT && status_names[s->booked_status]);
	booked += s->booked_count;
	return 0;
}

static int l7_count(struct l7_conn *c, __u32 event, __u32 times)
{
	(void)c;
	assert(event && event < L7_EVENTS && event_names[event]);
	counted += times;
	return 0;
}

static void check(const struct l7_both *b)
{
	const struct l7_conn *c = &b->conn;

	assert(c->protocol < L7_PROTOCOL_COUNT && protocol_names[c->protocol]);
	assert(c->pushed - c->popped <= L7_PENDING);
	for (int i = 0; i < 2; i++) {
		const struct l7_stream *s = &c->stream[i];

		assert(s->position <= s->loaded);
		assert(s->loaded <= L7_KEPT || s->state == 1 || c->opaque);
		assert(s->mode <= L7_TEXT && s->want <= L7_KEPT);
	}
	for (__u32 i = 0; i < H2_STREAMS; i++) {
		const struct l7_h2_stream *r = &b->h2.streams[i];

		assert(!r->id || (r->id <= b->h2.side[L7_REQUEST].last_id && r->id & 1));
		assert(r->operation < L7_OPERATION_COUNT && r->status < L7_STATUS_COUNT);
		assert(r->code < L7_STATUS_COUNT && r->grpc <= H2_MAY_BE_GRPC);
		for (__u32 other = 0; other < i; other++)
			assert(!r->id || r->id != b->h2.streams[other].id);
	}
	for (__u32 i = c->popped; i != c->pushed; i++)
		assert(c->pending[i % L7_PENDING].operation < L7_OPERATION_COUNT &&
		       operation_names[c->pending[i % L7_PENDING].operation]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t piece[255];
	__u32 sequence[2] = {0xfffffff0, 0x7ffffff0}, how, protocol;
	struct l7_both both = {};
	struct l7_conn *c = &both.conn;
	uint64_t bytes = 0;

	booked = counted = 0;
	now = 1;
	if (size < 2)
		return 0;
	how = data[1] & 1 ? L7_BEGINNING : 0;
	protocol = data[1] & 0x80 ? L7_HTTP2 : data[0] % L7_TLS;
	if (protocol)
		l7_establish(c, protocol | (data[1] & 2 ? L7_CLIENT : L7_SERVER) << 8, how);
	for (data += 2, size -= 2; size > 2;) {
		uint8_t kind = data[0], wanted = data[1];
		bool received = kind & 1;
		struct l7_packet packet = {piece, wanted < size - 2 ? wanted : (uint32_t)size - 2};
		__u32 at = sequence[received];

		/* Exactly as large as it is, so that a byte beyond is found. */
		packet.bytes = memcpy(piece + sizeof(piece) - packet.size, data + 2, packet.size);
		data += 2 + packet.size;
		size -= 2 + packet.size;
		now += kind;
		if (kind & 2) /* sent again */
			at -= kind >> 4;
		else if (kind & 4) /* some are missing */
			at += kind >> 4;
		else if (kind & 8 && kind & 128) /* many are */
			at += 1u << (kind >> 4 & 7) * 4;
		if (!packet.size)
			continue;
		bytes += packet.size;
		receive(&packet, &both, at, packet.size, how | received);
		sequence[received] = at + packet.size;
		check(&both);
	}
	end(&both);
	/* No request or answer is shorter than a byte. */
	assert(booked <= bytes + 1 && counted <= 2 * bytes + 2);
	return 0;
}

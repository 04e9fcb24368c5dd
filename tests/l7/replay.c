/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plays a conversation to the layer 7 engine and says what it made of it. On standard input, from
 * tests/l7/recordings.py: records of {u32 connection, u32 sent by the server, u32 bytes, u64 ns}
 * and the bytes. Argument: how the segments are cut and ordered.
 *
 *   whole	as recorded
 *   bytes	a segment for each byte
 *   pairs	each segment in two, once at each place; all must come to the same
 *   again	each segment twice, and once more with the one before it
 *   reorder N	of each N-th pair of segments of one side that follow each other, the second first
 *   late N	without the first N records of each connection, whose beginning is not known
 *   lose N	without each N-th segment of the server, or of the client with `lose -N`
 *
 * The observer is the server unless the last argument is "client".
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "user.h"

#define CONNS 16
#define RECORDS 65536

struct record {
	uint32_t conn, server, bytes;
	uint64_t ns;
	uint8_t *data;
};

struct result {
	struct l7_both both;
	uint32_t rows[L7_OPERATION_COUNT][L7_STATUS_COUNT], untimed, events[L7_EVENTS];
	uint32_t grpc; /* of the rows */
	uint32_t most;
	uint32_t sequence[2];
	uint64_t slowest_ns;
	bool played;
};

static struct record records[RECORDS];
static size_t record_count;
static struct result results[CONNS];
static bool as_client, late;
static uint64_t now;

static __u64 l7_now(void)
{
	return now;
}

static struct result *result_of(struct l7_conn *c)
{
	return (struct result *)((char *)c - offsetof(struct result, both.conn));
}

static int l7_book(struct l7_conn *c, __u32 direction)
{
	struct l7_stream *s = &c->stream[direction];
	struct result *r = result_of(c);

	assert(s->booked_operation < L7_OPERATION_COUNT && s->booked_status < L7_STATUS_COUNT);
	r->rows[s->booked_operation][s->booked_status] += s->booked_count;
	if (s->flags & L7_AS_GRPC)
		r->grpc += s->booked_count;
	if (s->flags & L7_UNTIMED)
		r->untimed += s->booked_count;
	else if (s->last_ns - s->booked_ns > r->slowest_ns)
		r->slowest_ns = s->last_ns - s->booked_ns;
	return 0;
}

static int l7_count(struct l7_conn *c, __u32 event, __u32 times)
{
	result_of(c)->events[event] += times;
	return 0;
}

static void read_records(void)
{
	uint32_t head[3];

	while (fread(head, sizeof(head), 1, stdin)) {
		struct record *r = &records[record_count++];

		assert(record_count < RECORDS && head[0] < CONNS);
		*r = (struct record){.conn = head[0], .server = head[1], .bytes = head[2]};
		r->data = malloc(r->bytes + 1);
		assert(r->data && fread(&r->ns, sizeof(r->ns), 1, stdin) == 1);
		assert(!r->bytes || fread(r->data, r->bytes, 1, stdin) == 1);
	}
}

static uint32_t outstanding(const struct l7_both *b)
{
	const struct l7_conn *c = &b->conn;
	uint32_t sum = 0;

	for (uint32_t i = 0; i < H2_STREAMS; i++)
		sum += b->h2.streams[i].id != 0;

	for (uint32_t i = c->popped; i != c->pushed; i++) {
		uint32_t at = i & (L7_PENDING - 1);

		if (l7_has_numbers(c->protocol))
			sum += !(c->taken & 1u << at);
		else
			sum += c->pending[at].count - (i == c->popped ? c->taken : 0);
	}
	return sum;
}

static void play(const struct record *r, uint32_t from, uint32_t bytes, uint32_t sequence)
{
	struct result *result = &results[r->conn];
	struct l7_packet packet = {r->data + from, bytes};
	uint32_t waiting;

	result->played = true;
	now = r->ns;
	receive(&packet, &result->both, sequence, bytes,
		(late ? 0 : L7_BEGINNING) | (r->server == as_client ? L7_RECEIVED : 0));
	waiting = outstanding(&result->both);
	if (waiting > result->most)
		result->most = waiting;
}

static uint32_t sequence_of(const struct record *r)
{
	struct result *result = &results[r->conn];
	uint32_t sequence = result->sequence[r->server];

	result->sequence[r->server] += r->bytes;
	return sequence;
}

static void reset(void)
{
	memset(results, 0, sizeof(results));
	for (size_t i = 0; i < CONNS; i++) {
		results[i].sequence[0] = 0xfffffff0; /* wraps soon */
		results[i].sequence[1] = 0x7ffffff0;
		l7_expect(&results[i].both.conn, !as_client, results[i].sequence[0]);
		l7_expect(&results[i].both.conn, as_client, results[i].sequence[1]);
	}
}

static void end_all(void)
{
	for (size_t i = 0; i < CONNS; i++)
		end(&results[i].both);
}

static void print(FILE *out)
{
	const char *between = "";

	fprintf(out, "{");
	for (size_t i = 0; i < CONNS; i++) {
		const struct result *r = &results[i];
		const char *comma = "";

		if (!r->played)
			continue;
		fprintf(out, "%s\"%zu\": {\"protocol\": \"%s\", \"opaque\": %d, \"rows\": {",
			between, i, protocol_names[r->both.conn.protocol], r->both.conn.opaque);
		for (size_t o = 0; o < L7_OPERATION_COUNT; o++)
			for (size_t s = 0; s < L7_STATUS_COUNT; s++)
				if (r->rows[o][s]) {
					fprintf(out, "%s\"%s %s\": %u", comma, operation_names[o],
						status_names[s], r->rows[o][s]);
					comma = ", ";
				}
		between = ", ";
		fprintf(out,
			"}, \"grpc\": %u, \"untimed\": %u, \"most\": %u, \"slowest\": %llu, "
			"\"events\": {",
			r->grpc, r->untimed, r->most, (unsigned long long)r->slowest_ns);
		comma = "";
		for (size_t e = 1; e < L7_EVENTS; e++)
			if (r->events[e]) {
				fprintf(out, "%s\"%s\": %u", comma, event_names[e], r->events[e]);
				comma = ", ";
			}
		fprintf(out, "}}");
	}
	fprintf(out, "}\n");
}

static void play_all(const char *how, long every)
{
	size_t seen[2] = {}, of_conn[CONNS] = {}, pairs = 0;

	late = !strcmp(how, "late");
	reset();
	for (size_t i = 0; i < record_count; i++) {
		const struct record *r = &records[i], *after = r + 1;
		uint32_t sequence = sequence_of(r);

		if (!strcmp(how, "bytes")) {
			for (uint32_t b = 0; b < r->bytes; b++)
				play(r, b, 1, sequence + b);
		} else if (!strcmp(how, "again")) {
			play(r, 0, r->bytes, sequence);
			play(r, 0, r->bytes, sequence);
			if (r->bytes > 1)
				play(r, 1, r->bytes - 1, sequence + 1);
		} else if (late) {
			if (of_conn[r->conn]++ >= (size_t)every)
				play(r, 0, r->bytes, sequence);
		} else if (!strcmp(how, "lose")) {
			bool mine = r->server == (every > 0);

			if (!mine || ++seen[r->server] % (size_t)labs(every))
				play(r, 0, r->bytes, sequence);
		} else if (!strcmp(how, "reorder") && i + 1 < record_count &&
			   after->conn == r->conn && after->server == r->server &&
			   r->server == as_client && !(++pairs % (size_t)every)) {
			uint32_t second = sequence_of(after);

			play(after, 0, after->bytes, second);
			play(r, 0, r->bytes, sequence);
			i++;
		} else {
			play(r, 0, r->bytes, sequence);
		}
	}
	end_all();
}

/* A segment in two, at a place. */
static void play_cut(size_t which, uint32_t at)
{
	reset();
	for (size_t i = 0; i < record_count; i++) {
		const struct record *r = &records[i];
		uint32_t sequence = sequence_of(r), first = i == which ? at : r->bytes;

		play(r, 0, first, sequence);
		if (first < r->bytes)
			play(r, first, r->bytes - first, sequence + first);
	}
	end_all();
}

static int play_pairs(void)
{
	static char text[2][65536];
	size_t which = 0;

	for (size_t i = 0; i < record_count; i++)
		for (uint32_t at = 1; at < records[i].bytes; at++) {
			FILE *out = fmemopen(text[which], sizeof(text[0]), "w");

			play_cut(i, at);
			print(out);
			fclose(out);
			if (which && strcmp(text[0], text[1])) {
				fprintf(stderr, "segment %zu cut at %u:\n%s%s", i, at, text[0],
					text[1]);
				return 1;
			}
			which = 1;
		}
	printf("%s", text[0]);
	return 0;
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "whole";

	as_client = !strcmp(argv[argc - 1], "client");
	read_records();
	if (!strcmp(how, "pairs"))
		return play_pairs();
	play_all(how, argc > 2 ? strtol(argv[2], NULL, 10) : 1);
	print(stdout);
	return 0;
}

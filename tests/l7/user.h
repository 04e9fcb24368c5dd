/* SPDX-License-Identifier: Apache-2.0 */
/* The layer 7 engine in a process: what it books and counts goes to who includes this. */
#ifndef KPOD_TESTS_L7_USER_H
#define KPOD_TESTS_L7_USER_H

#include <stdint.h>
#include <string.h>

#include "../../bpf/l7/l7.h"

struct l7_packet {
	const uint8_t *bytes;
	uint32_t size;
};

static int l7_load(struct l7_packet *packet, __u32 offset, void *to, __u32 bytes);
static __u64 l7_now(void);
static int l7_book(struct l7_conn *c, __u32 direction);
static int l7_count(struct l7_conn *c, __u32 event, __u32 times);

#define l7_loop(turns, function, run)                                                              \
	({                                                                                         \
		__u32 __i = 0;                                                                     \
                                                                                                   \
		while (__i < (turns) && !function(__i, run))                                       \
			__i++;                                                                     \
		__i;                                                                               \
	})

#include "../../bpf/l7/http2_engine.h"

/* With what the kernel has of each socket's storage they fit into kmalloc-512. */
_Static_assert(sizeof(struct l7_conn) <= 440 && sizeof(struct l7_h2) <= 440, "docs/l7.md");

/* A connection with the state that it has if it is HTTP/2. */
struct l7_both {
	struct l7_conn conn;
	struct l7_h2 h2;
	bool begun;
};

static void receive(struct l7_packet *packet, struct l7_both *b, __u32 sequence, __u32 bytes,
		    __u32 how)
{
	if (b->conn.protocol != L7_HTTP2)
		l7_receive(packet, &b->conn, sequence, bytes, how);
	if (b->conn.protocol == L7_HTTP2 && !b->begun)
		b->begun = !l7_http2_begin(&b->conn, &b->h2);
	if (b->conn.protocol == L7_HTTP2)
		l7_http2_receive(packet, &b->conn, &b->h2, sequence, bytes, how);
}

static void end(struct l7_both *b)
{
	l7_end(&b->conn);
	l7_http2_end(&b->conn, &b->h2);
}

static int l7_load(struct l7_packet *p, __u32 offset, void *to, __u32 bytes)
{
	if (!bytes || bytes > L7_WINDOW || offset > p->size || bytes > p->size - offset)
		return -1;
	memcpy(to, p->bytes + offset, bytes);
	return 0;
}

static const char *const protocol_names[] = {[L7_UNKNOWN] = "unknown",
					     [L7_TLS] = "tls",
					     [L7_HTTP2] = "http2",
					     [L7_GRPC] = "grpc",
#define X(number, name, prefix) [L7_##number] = name,
					     L7_PROTOCOLS(X)
#undef X
};

static const char *const operation_names[] = {
#define X(number, name) [L7_##number] = name,
	L7_OPERATIONS(X)
#undef X
};

static const char *const status_names[] = {
#define X(number, name) [L7_##number] = name,
	L7_STATUSES(X)
#undef X
};

static const char *const event_names[] = {
	[L7_UNSOLICITED] = "unsolicited", [L7_UNMATCHED] = "unmatched", [L7_GAP] = "gap",
	[L7_OVERFLOW] = "overflow",	  [L7_BROKEN] = "broken",
};

#endif

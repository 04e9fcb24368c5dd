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

#include "../../bpf/l7/engine.h"

static int l7_load(struct l7_packet *p, __u32 offset, void *to, __u32 bytes)
{
	if (!bytes || bytes > L7_WINDOW || offset > p->size || bytes > p->size - offset)
		return -1;
	memcpy(to, p->bytes + offset, bytes);
	return 0;
}

static const char *const protocol_names[] = {[L7_UNKNOWN] = "unknown",
					     [L7_TLS] = "tls",
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

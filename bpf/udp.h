/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* UDP: what the kernel keeps per slot and shard. */
#ifndef KPOD_UDP_H
#define KPOD_UDP_H

#include "direction.h"

struct udp_row {
	__u64 datagrams[KPOD_DIRECTIONS];
	__u64 bytes[KPOD_DIRECTIONS];
	__u64 dropped;
	__u64 reserved[3]; /* to a whole cache line */
};

#endif

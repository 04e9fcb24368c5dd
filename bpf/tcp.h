/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* TCP: what the kernel keeps per slot. */
#ifndef KPOD_TCP_H
#define KPOD_TCP_H

#include "direction.h"
#include "histogram.h"

enum kpod_opening { KPOD_ACTIVE, KPOD_PASSIVE, KPOD_OPENINGS };

/* What a socket itself counts. */
enum kpod_tcp_counter {
	KPOD_TCP_BYTES_SENT,
	KPOD_TCP_BYTES_RECEIVED,
	KPOD_TCP_BYTES_RETRANSMITTED,
	KPOD_TCP_SEGMENTS_SENT, /* this and all that follow are of 32 bits */
	KPOD_TCP_SEGMENTS_RECEIVED,
	KPOD_TCP_SEGMENTS_RETRANSMITTED,
	KPOD_TCP_OUT_OF_ORDER,
	KPOD_TCP_COUNTERS
};

struct tcp_row {
	__u64 counters[KPOD_TCP_COUNTERS];
	__u64 opened[KPOD_OPENINGS];
	__u64 failed;
	__u64 resets[KPOD_DIRECTIONS];
	__u64 live;
	__u64 no_room, unseen; /* sockets without an account */
	__u64 connect_ns;
	__u64 connect[KPOD_HIST_BUCKETS];
	__u64 rtt_ns;
	__u64 rtt[KPOD_HIST_BUCKETS];
	__u64 reserved[3]; /* to whole cache lines */
};

#endif

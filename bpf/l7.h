/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Layer 7: what the kernel keeps of each kind of request, and of each slot. */
#ifndef KPOD_L7_ROWS_H
#define KPOD_L7_ROWS_H

#include "histogram.h"
#include "l7/names.h"

#define KPOD_L7_KINDS_MAX 256	      /* more kinds than these are operation and status `other` */
#define KPOD_L7_CONNECTIONS_MAX 32768 /* that are read at once, … */
#define KPOD_L7_HTTP2_MAX 16384	      /* … and of these, as HTTP/2 */

enum kpod_l7_side { KPOD_L7_CLIENT, KPOD_L7_SERVER };

/* A unit: side, protocol, operation and status of one slot. */
struct l7_row {
	__u64 requests;
	__u64 duration[KPOD_HIST_BUCKETS];
	__u64 ns;
	__u64 reserved[4];
};

/* What is no request's end; bpf/l7/l7.h says what they mean. */
#define KPOD_L7_EVENTS 6

struct l7_slot_row {
	__u64 connections[L7_PROTOCOL_COUNT]; /* by protocol, when it was recognised */
	__u64 events[KPOD_L7_EVENTS];
	__u64 untracked;
	__u64 early;
	__u64 units; /* that are the slot's, in its first row */
	__u64 reserved[24 - L7_PROTOCOL_COUNT - KPOD_L7_EVENTS - 3]; /* 192 bytes with these */
};

/* ---- DNS over UDP -------------------------------------------------------------------------- */

#define KPOD_DNS_PENDING_MAX 2048
#define KPOD_DNS_TIMEOUT_NS 5000000000ULL /* resolv.conf(5): a resolver waits for 5 s */

struct dns_slot_row {
	__u64 repeated;
	__u64 unmatched;
	__u64 untracked;
	__u64 units;   /* in the slot's first row, … */
	__u64 pending; /* … both */
	__u64 reserved[3];
};

#endif

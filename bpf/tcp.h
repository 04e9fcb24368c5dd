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
	__u64 peers;	   /* the peers of its connections that have a row; not exported */
	__u64 reserved[2]; /* to whole cache lines */
};

enum kpod_tcp_side { KPOD_TCP_CLIENT, KPOD_TCP_SERVER, KPOD_TCP_SIDES };

/*
 * What a slot's connections with one address, at one port of the server, have moved. The key of a
 * unit has KPOD_TCP_PEER_MINOR() and, as its major, a digest of the address: whether it is that
 * one, the unit's words say.
 */
struct tcp_peer_row {
	__u64 bytes[KPOD_DIRECTIONS];
	__u64 opened;
	__u64 live;
	__u64 named; /* in row 0, which is no unit's: the units that are not KPOD_TCP_OTHER */
	__u64 reserved[3];
};

/* Words of a unit. */
enum kpod_tcp_peer_word {
	KPOD_TCP_PEER_SIDE,    /* the slot's own */
	KPOD_TCP_PEER_ADDRESS, /* two words as in memory: IPv6, of which IPv4 is ::ffff:a.b.c.d */
	KPOD_TCP_PEER_PORT = KPOD_TCP_PEER_ADDRESS + 2,
};

enum kpod_tcp_peer_kind {
	KPOD_TCP_NAMED,
	KPOD_TCP_OTHER,	  /* those that the slot has no more rows for */
	KPOD_TCP_EARLIER, /* that had a row and made room for others */
};

#define KPOD_TCP_PEER_MINOR(kind, side, port) ((__u32)(kind) << 17 | (__u32)(side) << 16 | (port))
#define KPOD_TCP_KIND_OF(minor) ((minor) >> 17)
#define KPOD_TCP_SIDE_OF(minor) ((minor) >> 16 & 1)

/* Units that are not KPOD_TCP_OTHER, on the average of all slots, and all units that there are. */
#define KPOD_TCP_PEERS_A_SLOT 3
#define KPOD_TCP_UNITS_A_SLOT 6

/* In place of an address, and of its digest: the first word is of no address of a connection. */
#define KPOD_TCP_NO_ADDRESS(kind) (~(__u64)0 - (kind))

/* A unit is told from what it was before by when it was born, in units of 2^this ns. */
#define KPOD_TCP_BORN_SHIFT 10

#endif

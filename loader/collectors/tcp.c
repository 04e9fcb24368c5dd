/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/collector.h"
#include "cgroups/slots.h"
#include "kernel/load.h"
#include "kernel/renewal.h"

#include "bpf/tcp.h"

KPOD_OBJECT(tcp);

enum { TCP_TABLE, PEERS_TABLE };

/* ---- the rows of peers: who has one --------------------------------------------------------- */

struct peers {
	struct kpod_renewal renewal;
	uint64_t *counted; /* by slot: peers with a row, as programs had counted them before */
};

static int open_peers(struct kpod_loaded *l, struct kpod_slots *slots, const struct kpod_options *o)
{
	uint32_t count = slots->bpf->max_containers;
	struct peers *p;

	if (!o->tcp_peers)
		return 0;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->counted = calloc(count, sizeof(*p->counted));
	if (!p->counted ||
	    kpod_renewal_open(&p->renewal, &l->tables[PEERS_TABLE], count, o->renew_ns)) {
		free(p->counted);
		free(p);
		return -ENOMEM;
	}
	l->state = p;
	return 0;
}

static void close_peers(struct kpod_loaded *l)
{
	struct peers *p = l->state;

	kpod_renewal_close(&p->renewal);
	free(p->counted);
	free(p);
}

static uint64_t load(const __u64 *word)
{
	return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static uint64_t moved_by(struct kpod_loaded_table *t, uint32_t unit)
{
	const struct tcp_peer_row *row = kpod_rows_of(&t->rows, unit);

	return row ? load(&row->bytes[KPOD_SENT]) + load(&row->bytes[KPOD_RECEIVED]) +
			       load(&row->opened)
		   : 0;
}

/* What a peer has moved that makes room is in the row `earlier` of its slot and side. */
static void retire(struct kpod_renewal *r, uint32_t unit)
{
	struct kpod_unit *u = kpod_rows_of(&r->table->units, unit);
	const uint32_t side = KPOD_TCP_SIDE_OF(u->key.minor);
	const struct kpod_unit heir = {
		.key = {.slot = u->key.slot,
			.minor = KPOD_TCP_PEER_MINOR(KPOD_TCP_EARLIER, side, 0),
			.major = KPOD_TCP_NO_ADDRESS(KPOD_TCP_EARLIER)},
		.words = {[KPOD_TCP_PEER_SIDE] = side,
			  [KPOD_TCP_PEER_ADDRESS] = KPOD_TCP_NO_ADDRESS(KPOD_TCP_EARLIER)}};

	/* Sockets keep their peer's unit, and the time says that it is another now. */
	if (kpod_renewal_retire(r, unit, &heir))
		u->born_ns += 1 << KPOD_TCP_BORN_SHIFT;
}

static void look_at(struct kpod_renewal *r, uint32_t unit, const struct kpod_unit *u)
{
	uint64_t growth = kpod_renewal_growth(r, unit, moved_by(r->table, unit));

	if (KPOD_TCP_KIND_OF(u->key.minor) == KPOD_TCP_OTHER)
		r->ranks[u->key.slot].other_growth += growth;
	else if (KPOD_TCP_KIND_OF(u->key.minor) == KPOD_TCP_NAMED)
		kpod_renewal_add_named(r, unit, u, growth);
}

/* Programs count the rows; what is not in use any more, they do not know. */
static void read_peers(struct kpod_loaded *l, struct kpod_slots *s)
{
	struct kpod_loaded_table *t = &l->tables[PEERS_TABLE], *tcp = &l->tables[TCP_TABLE];
	struct tcp_peer_row *all = kpod_rows_of(&t->rows, 0);
	uint64_t named = 0, counted = all ? load(&all->named) : 0;
	uint64_t now = kpod_clock(CLOCK_MONOTONIC);
	struct peers *p = l->state;
	struct kpod_renewal *r = &p->renewal;

	kpod_renewal_begin(r, now);
	for (uint32_t slot = 0; slot < s->scanned; slot++) {
		const struct tcp_row *row = kpod_rows_of(&tcp->rows, slot);

		p->counted[slot] = row ? load(&row->peers) : 0;
	}
	for (uint32_t unit = 1; unit < t->unit_count; unit++) {
		const struct kpod_unit *u = kpod_rows_of(&t->units, unit);

		if (!u || !u->born_ns)
			continue;
		named += KPOD_TCP_KIND_OF(u->key.minor) != KPOD_TCP_OTHER;
		look_at(r, unit, u);
	}
	for (uint32_t slot = 0; slot < s->scanned; slot++) {
		uint32_t coldest = kpod_renewal_take_coldest(r, slot, s->bpf->config.tcp_peers);
		struct tcp_row *row = kpod_rows_of(&tcp->rows, slot);

		if (coldest)
			retire(r, coldest);
		/* Those that came meanwhile are kept: rather one too many than a row too few. */
		if (row && p->counted[slot] != r->ranks[slot].named)
			__atomic_fetch_add(&row->peers, r->ranks[slot].named - p->counted[slot],
					   __ATOMIC_RELAXED);
	}
	if (all && counted != named)
		__atomic_fetch_add(&all->named, named - counted, __ATOMIC_RELAXED);
	kpod_renewal_end(r, now);
}

static const struct kpod_source peers_source = {
	.open = open_peers, .read = read_peers, .close = close_peers};

/* ---- the declaration ----------------------------------------------------------------------- */

#define BYTES "kpod_tcp_bytes_total"
#define BYTES_HELP                                                                                 \
	"Payload of TCP sent and received, each byte once: without retransmits. With TLS in the "  \
	"kernel (kTLS) that is the encrypted records, with 22 to 29 bytes more each. What a BPF "  \
	"sockmap hands from socket to socket, as some service meshes do, is never TCP and is not " \
	"counted at either end."
#define SEGMENTS "kpod_tcp_segments_total"
#define SEGMENTS_HELP "Segments that sockets sent, retransmits too, and received."
#define OPENED "kpod_tcp_connections_opened_total"
#define OPENED_HELP "Connections established: by connect() (active) or by a listener (passive)."
#define RESETS "kpod_tcp_resets_total"
#define RESETS_HELP                                                                                \
	"RST segments sent and received; those that belong to no socket are the host's (of "       \
	"those sent, since kernel 6.10)."
#define UNTRACKED "kpod_tcp_untracked_sockets_total"
#define UNTRACKED_HELP                                                                             \
	"TCP sockets of which traffic is missing, by reason: no_room (when it opened, its "        \
	"container had as many of --max-sockets as nobody had; its bytes, segments and "           \
	"round-trip times are not counted, nor is it among kpod_tcp_connections), unseen (its "    \
	"beginning or its predecessor's end was not seen: it is older than the loader and was in " \
	"no process's hands, or the kernel left out the hook, or there was room for it only "      \
	"later)."

#define COUNTER(field) .kind = KPOD_COUNTER, .word = KPOD_WORD(tcp_row, field)

static const struct kpod_column columns[] = {
	{BYTES, BYTES_HELP, "direction", "sent", COUNTER(counters[KPOD_TCP_BYTES_SENT])},
	{BYTES, BYTES_HELP, "direction", "received", COUNTER(counters[KPOD_TCP_BYTES_RECEIVED])},
	{SEGMENTS, SEGMENTS_HELP, "direction", "sent", COUNTER(counters[KPOD_TCP_SEGMENTS_SENT])},
	{SEGMENTS, SEGMENTS_HELP, "direction", "received",
	 COUNTER(counters[KPOD_TCP_SEGMENTS_RECEIVED])},
	{"kpod_tcp_retransmitted_bytes_total", "Payload sent again.",
	 COUNTER(counters[KPOD_TCP_BYTES_RETRANSMITTED])},
	{"kpod_tcp_retransmitted_segments_total", "Segments sent again, SYNs and SYN-ACKs too.",
	 COUNTER(counters[KPOD_TCP_SEGMENTS_RETRANSMITTED])},
	{"kpod_tcp_out_of_order_segments_total",
	 "Segments received before one that was sent earlier.",
	 COUNTER(counters[KPOD_TCP_OUT_OF_ORDER])},
	{OPENED, OPENED_HELP, "direction", "active", COUNTER(opened[KPOD_ACTIVE])},
	{OPENED, OPENED_HELP, "direction", "passive", COUNTER(opened[KPOD_PASSIVE])},
	{"kpod_tcp_connects_failed_total",
	 "Attempts to connect that ended without a connection, those given up too.",
	 COUNTER(failed)},
	{RESETS, RESETS_HELP, "direction", "sent", COUNTER(resets[KPOD_SENT])},
	{RESETS, RESETS_HELP, "direction", "received", COUNTER(resets[KPOD_RECEIVED])},
	{"kpod_tcp_connections", "Connections that are open, half-closed ones too.",
	 .kind = KPOD_GAUGE, .word = KPOD_WORD(tcp_row, live)},
	{"kpod_tcp_connect_seconds",
	 "From connect() to the connection: successful ones only. Of one whose end of the "
	 "handshake "
	 "the kernel told to no program, as it may while others are preempted (kernel 7.0), there "
	 "is "
	 "no time, though it is opened.",
	 KPOD_TIME_HISTOGRAM(tcp_row, connect, connect_ns)},
	{"kpod_tcp_rtt_seconds",
	 "Smoothed round-trip time, sampled of each connection that received a segment since its "
	 "last sample: at every snapshot and when it closes.",
	 KPOD_TIME_HISTOGRAM(tcp_row, rtt, rtt_ns)},
	{UNTRACKED, UNTRACKED_HELP, "reason", "no_room", COUNTER(no_room)},
	{UNTRACKED, UNTRACKED_HELP, "reason", "unseen", COUNTER(unseen)},
};

#define PEER_BYTES "kpod_tcp_peer_bytes_total"
#define PEER_BYTES_HELP                                                                            \
	"Payload of TCP sent and received, by the other end: side is the container's own, client " \
	"or server, peer_address the remote address as the container's socket has it, and "        \
	"server_port the port of whoever is the server. peer_address is also other: all that "     \
	"have no row (--tcp-peers), and earlier: those that had one and made room for another. "   \
	"The sum over a container's rows is its kpod_tcp_bytes_total."

static const struct kpod_column peer_columns[] = {
	{PEER_BYTES, PEER_BYTES_HELP, "direction", "sent", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(tcp_peer_row, bytes[KPOD_SENT])},
	{PEER_BYTES, PEER_BYTES_HELP, "direction", "received", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(tcp_peer_row, bytes[KPOD_RECEIVED])},
	{"kpod_tcp_peer_connections_opened_total",
	 "TCP connections established, by the other end: of side client those that are active in "
	 "kpod_tcp_connections_opened_total, of side server those that are passive.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(tcp_peer_row, opened)},
	{"kpod_tcp_peer_connections",
	 "TCP connections that are open, half-closed ones too, by the other end.",
	 .kind = KPOD_GAUGE, .word = KPOD_WORD(tcp_peer_row, live)},
};

#define NAMES(function, ...)                                                                       \
	static const struct kpod_names *function(void)                                             \
	{                                                                                          \
		static const char *const names[] = {__VA_ARGS__};                                  \
		static const struct kpod_names all = {names, KPOD_COUNT(names)};                   \
                                                                                                   \
		return &all;                                                                       \
	}

NAMES(sides, [KPOD_TCP_CLIENT] = "client", [KPOD_TCP_SERVER] = "server")
NAMES(no_addresses, [KPOD_TCP_NAMED] = "", [KPOD_TCP_OTHER] = "other",
      [KPOD_TCP_EARLIER] = "earlier")
NAMES(no_ports, "")

#define ADDRESS_WORDS 5 /* 39 characters and a NUL */

static const struct kpod_key peer_keys[] = {
	{.label = "side", .values = sides},
	{.label = "peer_address", .values = no_addresses, .words = ADDRESS_WORDS, .address = true},
	{.label = "server_port", .values = no_ports},
};

static const struct kpod_table tables[] = {
	[TCP_TABLE] = {.name = "tcp",
		       .scope = KPOD_PER_SLOT,
		       .map = "tcp_rows",
		       .row_size = sizeof(struct tcp_row),
		       .words = KPOD_WORD(tcp_row, peers),
		       .unsharded = true,
		       KPOD_COLUMNS(columns)},
	[PEERS_TABLE] = {.name = "tcp_peers",
			 .scope = KPOD_PER_SLOT,
			 .map = "tcp_peer_rows",
			 .row_size = sizeof(struct tcp_peer_row),
			 .words = KPOD_WORD(tcp_peer_row, named),
			 KPOD_COLUMNS(peer_columns),
			 KPOD_KEYS(peer_keys),
			 .units = "tcp_peers",
			 .units_per_slot = KPOD_TCP_UNITS_A_SLOT,
			 .switched_by = KPOD_SWITCH(tcp_peers),
			 .unsharded = true},
};

#define STEPS(kind)                                                                                \
	KPOD_STEPS({"kpod_tcp_state" kind, KPOD_ATTACH_TWIN},                                      \
		   {"kpod_tcp_state2" kind, KPOD_ATTACH_TWIN},                                     \
		   {"kpod_tcp_destroy", KPOD_ATTACH_TWIN},                                         \
		   {"kpod_tcp_destroy2", KPOD_ATTACH_TWIN}, {"kpod_tcp_adopt", KPOD_RUN_ONCE},     \
		   {"kpod_tcp_reset_sent" kind, KPOD_ATTACH},                                      \
		   {"kpod_tcp_reset_received" kind, KPOD_ATTACH},                                  \
		   {"kpod_tcp_synack", KPOD_ATTACH}, {"kpod_tcp_walk", KPOD_WALK})

static const struct kpod_attachment attachments[] = {
	{.name = "tracepoint",
	 .where = KPOD_TRACEPOINTS_PREEMPT,
	 STEPS("_tp"),
	 .walked = "tcp_accounts"},
	{.name = "tp_btf", STEPS(""), .walked = "tcp_accounts"},
};

const struct kpod_collector kpod_collector_tcp = {
	.name = "tcp",
	.help = "TCP bytes, segments, retransmits, connections and round-trip times",
	.owner = "the cgroup that made the socket; of an accepted one, its listener's",
	.since = "5.13",
	.profile = KPOD_STANDARD,
	KPOD_EMBEDDED(tcp),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
	.sized_by_slot = "tcp_held",
	.sized_by_sockets = "tcp_accounts",
	.source = &peers_source,
};

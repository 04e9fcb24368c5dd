/* SPDX-License-Identifier: Apache-2.0 */
#include "base/collector.h"

#include "bpf/tcp.h"

KPOD_OBJECT(tcp);

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

static const struct kpod_table tables[] = {
	{.name = "tcp",
	 .scope = KPOD_PER_SLOT,
	 .map = "tcp_rows",
	 .row_size = sizeof(struct tcp_row),
	 .words = KPOD_WORD(tcp_row, reserved),
	 .unsharded = true,
	 KPOD_COLUMNS(columns)},
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
};

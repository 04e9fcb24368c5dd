/* SPDX-License-Identifier: Apache-2.0 */
#include "base/collector.h"

#include "bpf/udp.h"

KPOD_OBJECT(udp);

#define COUNTER(field) .kind = KPOD_COUNTER, .word = KPOD_WORD(udp_row, field)
#define DATAGRAMS "kpod_udp_datagrams_total"
#define DATAGRAMS_HELP                                                                             \
	"Datagrams that sockets sent and that were read from them. As in the kernel's "            \
	"OutDatagrams and InDatagrams, those that go through a socket as one (UDP_SEGMENT, "       \
	"UDP_GRO) are one; of those made by several calls, one that is sent by taking off "        \
	"UDP_CORK is not counted."
#define BYTES "kpod_udp_bytes_total"
#define BYTES_HELP                                                                                 \
	"Payload of these; of what was cut off because the reader's buffer was short, none, "      \
	"unless "                                                                                  \
	"the reader asks for the datagram's whole size (MSG_TRUNC), when all of it counts."

static const struct kpod_column columns[] = {
	{DATAGRAMS, DATAGRAMS_HELP, "direction", "sent", COUNTER(datagrams[KPOD_SENT])},
	{DATAGRAMS, DATAGRAMS_HELP, "direction", "received", COUNTER(datagrams[KPOD_RECEIVED])},
	{BYTES, BYTES_HELP, "direction", "sent", COUNTER(bytes[KPOD_SENT])},
	{BYTES, BYTES_HELP, "direction", "received", COUNTER(bytes[KPOD_RECEIVED])},
	{"kpod_udp_receive_drops_total",
	 "Datagrams that did not get into a socket's queue, because it or the memory for all of "
	 "them was full (RcvbufErrors and MemErrors).",
	 COUNTER(dropped)},
};

static const struct kpod_table tables[] = {
	{.name = "udp",
	 .scope = KPOD_PER_SLOT,
	 .map = "udp_rows",
	 .row_size = sizeof(struct udp_row),
	 .words = KPOD_WORD(udp_row, reserved),
	 KPOD_COLUMNS(columns)},
};

#define EVERY_SOCKET "runs in the sends and receives of every socket, not of UDP's only"

static const struct kpod_attachment attachments[] = {
	{.name = "tracepoint",
	 .where = KPOD_TRACEPOINTS_PREEMPT,
	 KPOD_STEPS({"kpod_udp_drop", KPOD_ATTACH}, {"kpod_udp_sent_tp", KPOD_ATTACH},
		    {"kpod_udp_received_tp", KPOD_ATTACH}),
	 .lacks = EVERY_SOCKET},
	{.name = "tp_btf, as functions are preempted",
	 .where = KPOD_FUNCTIONS_PREEMPT,
	 KPOD_STEPS({"kpod_udp_drop", KPOD_ATTACH}, {"kpod_udp_sent", KPOD_ATTACH},
		    {"kpod_udp_received", KPOD_ATTACH}),
	 .lacks = EVERY_SOCKET},
	{.name = "fexit",
	 KPOD_STEPS({"kpod_udp_drop", KPOD_ATTACH}, {"kpod_udp_sendmsg", KPOD_ATTACH},
		    {"kpod_udp_sendmsg6", KPOD_ATTACH}, {"kpod_udp_consume", KPOD_ATTACH})},
	{.name = "fexit before 6.10",
	 KPOD_STEPS({"kpod_udp_enqueue", KPOD_ATTACH}, {"kpod_udp_sendmsg", KPOD_ATTACH},
		    {"kpod_udp_sendmsg6", KPOD_ATTACH}, {"kpod_udp_consume", KPOD_ATTACH})},
	{.name = "tp_btf",
	 KPOD_STEPS({"kpod_udp_drop", KPOD_ATTACH}, {"kpod_udp_sent", KPOD_ATTACH},
		    {"kpod_udp_received", KPOD_ATTACH}),
	 .lacks = EVERY_SOCKET},
	{.name = "kprobe",
	 KPOD_STEPS({"kpod_udp_enqueued_kprobe", KPOD_ATTACH},
		    {"kpod_udp_enqueue_kprobe", KPOD_ATTACH}, {"kpod_udp_sent_kprobe", KPOD_ATTACH},
		    {"kpod_udp_sent6_kprobe", KPOD_ATTACH},
		    {"kpod_udp_consume_kprobe", KPOD_ATTACH}),
	 .lacks = "a datagram counts as sent even if IP refuses it; what probes miss is not "
		  "counted"},
};

const struct kpod_collector kpod_collector_udp = {
	.name = "udp",
	.help = "UDP datagrams, bytes and receive-buffer drops",
	.owner = "the cgroup that made the socket",
	.since = "5.10",
	.profile = KPOD_STANDARD,
	KPOD_EMBEDDED(udp),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
};

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/collector.h"
#include "collectors/l7.h"

#include "bpf/l7.h"

KPOD_OBJECT(dns);

static const struct kpod_key keys[] = {
	{.label = "side", .values = kpod_l7_sides},
	{.label = "protocol", .values = kpod_l7_protocols},
	{.label = "type", .values = kpod_l7_operations},
	{.label = "status", .values = kpod_l7_statuses},
};

static const struct kpod_column columns[] = {
	{"kpod_dns_queries_total",
	 "DNS questions over UDP, by the type that was asked for and the response code; the status "
	 "is no_response if there was none within 5 s. NXDOMAIN is normal where search domains "
	 "are tried. Each question is counted once at each end.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(l7_row, requests)},
	{"kpod_dns_query_duration_seconds",
	 "Time from a DNS question over UDP, the first if it was repeated, to its answer.",
	 KPOD_TIME_HISTOGRAM(l7_row, duration, ns)},
};

static const struct kpod_column slot_columns[] = {
	{"kpod_dns_repeated_queries_total",
	 "DNS questions over UDP that were sent again before they were answered: not in "
	 "kpod_dns_queries_total.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(dns_slot_row, repeated)},
	{"kpod_dns_untracked_queries_total",
	 "DNS questions over UDP that are not counted because too many are unanswered.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(dns_slot_row, untracked)},
};

static const struct kpod_table tables[] = {
	{.name = "dns",
	 .scope = KPOD_PER_SLOT,
	 .map = "dns_rows",
	 .row_size = sizeof(struct l7_row),
	 .words = KPOD_WORD(l7_row, reserved),
	 KPOD_COLUMNS(columns),
	 KPOD_KEYS(keys),
	 .units = "dns",
	 .unit_capacity = 4096,
	 .unsharded = true},
	{.name = "dns_slots",
	 .scope = KPOD_PER_SLOT,
	 .map = "dns_slot_rows",
	 .row_size = sizeof(struct dns_slot_row),
	 .words = KPOD_WORD(dns_slot_row, units),
	 KPOD_COLUMNS(slot_columns)},
};

static const struct kpod_attachment attachments[] = {
	{.name = "cgroup_skb",
	 .walked = "dns_questions",
	 KPOD_STEPS({"kpod_dns_expire", KPOD_WALK}, {"kpod_dns_ingress", KPOD_ATTACH_CGROUP},
		    {"kpod_dns_egress", KPOD_ATTACH_CGROUP})},
};

const struct kpod_collector kpod_collector_dns = {
	.name = "dns",
	.help = "DNS questions over UDP and their answers",
	.owner = "the cgroup of the socket, at either end",
	.since = "5.10",
	.profile = KPOD_STANDARD,
	KPOD_EMBEDDED(dns),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
};

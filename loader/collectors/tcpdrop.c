/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <string.h>

#include <bpf/btf.h>

#include "base/collector.h"

#include "bpf/tcpdrop.h"

KPOD_OBJECT(tcpdrop);

#define NAMES_MAX 512
#define NAME_SIZE 48

static char texts[NAMES_MAX][NAME_SIZE];
static const char *names[NAMES_MAX];
static struct kpod_names reasons = {.names = names};

/* The enumerators of a type, without what all of them begin with, in lower case. */
static void add_names(const struct btf *btf, const char *type, const char *prefix)
{
	int id = btf__find_by_name_kind(btf, type, BTF_KIND_ENUM);
	const struct btf_type *t = id < 0 ? NULL : btf__type_by_id(btf, (__u32)id);
	const struct btf_enum *e = t ? btf_enum(t) : NULL;
	size_t first = reasons.count, size = strlen(prefix);

	for (int i = 0; t && i < btf_vlen(t); i++) {
		const char *name = btf__name_by_offset(btf, e[i].name_off);
		size_t at = first + (__u32)e[i].val;

		if (strncmp(name, prefix, size) || at >= NAMES_MAX)
			continue;
		for (size_t c = 0; c < NAME_SIZE - 1 && name[size + c]; c++)
			texts[at][c] = (char)tolower(name[size + c]);
		if (at >= reasons.count)
			reasons.count = at + 1;
	}
}

/*
 * The running kernel's, by number. Where they end (at "max") those of subsystems begin, one for
 * each; kpod_drop_name() in bpf/drop.bpf.h numbers them so too.
 */
static const struct kpod_names *reason_names(void)
{
	struct btf *btf = reasons.count ? NULL : btf__load_vmlinux_btf();

	if (!btf)
		return &reasons;
	add_names(btf, "skb_drop_reason", "SKB_DROP_REASON_");
	reasons.count -= reasons.count > 0;
	add_names(btf, "skb_drop_reason_subsys", "SKB_DROP_REASON_SUBSYS_");
	for (size_t i = 0; i < NAMES_MAX; i++)
		names[i] = texts[i];
	names[0] = "unknown";
	btf__free(btf);
	return &reasons;
}

static const struct kpod_key keys[] = {{.label = "reason", .values = reason_names}};

static const struct kpod_column columns[] = {
	{"kpod_tcp_dropped_packets_total",
	 "TCP packets the kernel dropped, by its reason (enum skb_drop_reason), as it handled "
	 "them: "
	 "several segments may be one. A packet that belongs to no socket (yet) is the host's; "
	 "before kernel 6.11 that is so of most that were received.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(tcpdrop_row, packets)},
};

static const struct kpod_table tables[] = {
	{.name = "tcpdrop",
	 .scope = KPOD_PER_SLOT,
	 .map = "tcpdrop_rows",
	 .row_size = sizeof(struct tcpdrop_row),
	 .words = KPOD_WORD(tcpdrop_row, reserved),
	 KPOD_COLUMNS(columns),
	 KPOD_KEYS(keys),
	 .units = "tcpdrop",
	 .unit_capacity = 4096,
	 .unsharded = true},
};

static const struct kpod_attachment attachments[] = {
	{.name = "tracepoint",
	 .where = KPOD_TRACEPOINTS_PREEMPT,
	 KPOD_STEPS({"kpod_tcpdrop_free_tp", KPOD_ATTACH})},
	{.name = "tp_btf", KPOD_STEPS({"kpod_tcpdrop_free", KPOD_ATTACH})},
};

const struct kpod_collector kpod_collector_tcpdrop = {
	.name = "tcpdrop",
	.help = "TCP packets dropped, by reason",
	.owner = "the cgroup that made the receiving or sending socket; without one, the host",
	.since = "5.17",
	.profile = KPOD_STANDARD,
	KPOD_EMBEDDED(tcpdrop),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
};

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/collector.h"

#include "bpf/irq.h"
#include "bpf/units.h"

KPOD_OBJECT(hardirqs);

static const struct kpod_column columns[] = {
	{"kpod_hardirq_duration_seconds",
	 "Time that handlers of interrupts ran, by name as in /proc/interrupts. Interrupts without "
	 "a registered handler (on x86 the local timer and those between CPUs) are not in it.",
	 KPOD_TIME_HISTOGRAM(irq_row, duration, ns)},
};

static const struct kpod_key keys[] = {{.label = "irq", .words = KPOD_UNIT_WORDS}};

static const struct kpod_column stolen_columns[] = {
	{"kpod_hardirq_stolen_seconds_total",
	 "Time that handlers of interrupts ran while a task of the container had the CPU, whoever "
	 "the work was for. What interrupted a softirq is in that one's stolen time too.",
	 .kind = KPOD_COUNTER, .decimals = KPOD_SECONDS, .word = KPOD_WORD(irq_stolen_row, ns)},
};

static const struct kpod_table tables[] = {
	{.name = "hardirqs",
	 .scope = KPOD_PER_NODE,
	 .map = "hardirq_rows",
	 .row_size = sizeof(struct irq_row),
	 .words = KPOD_WORD(irq_row, reserved),
	 KPOD_COLUMNS(columns),
	 KPOD_KEYS(keys),
	 .units = "hardirq",
	 .unit_capacity = 512,
	 .unsharded = true},
	{.name = "hardirqs_stolen",
	 .scope = KPOD_PER_SLOT,
	 .map = "irq_stolen_rows",
	 .row_size = sizeof(struct irq_stolen_row),
	 .words = KPOD_WORD(irq_stolen_row, reserved),
	 KPOD_COLUMNS(stolen_columns)},
};

static const struct kpod_attachment attachments[] = {
	{.name = "tp_btf",
	 KPOD_STEPS({"kpod_hardirqs_entry", KPOD_ATTACH}, {"kpod_hardirqs_exit", KPOD_ATTACH})},
};

const struct kpod_collector kpod_collector_hardirqs = {
	.name = "hardirqs",
	.help = "handlers of interrupts by name, and the time they take from containers",
	.owner = "the node; of stolen time, the task that had the CPU (not idle or kernel threads)",
	.since = "5.11",
	.profile = KPOD_STANDARD,
	KPOD_EMBEDDED(hardirqs),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
	.sized_by_cpu = "irq_begins",
};

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/collector.h"

#include "bpf/irq.h"

KPOD_OBJECT(softirqs);

static const struct kpod_names *vectors(void)
{
	static const char *const names[KPOD_SOFTIRQS] = {
		"hi",	    "timer",   "net_tx", "net_rx",  "block",
		"irq_poll", "tasklet", "sched",	 "hrtimer", "rcu",
	};
	static const struct kpod_names all = {names, KPOD_COUNT(names)};

	return &all;
}

static const struct kpod_column columns[] = {
	{"kpod_softirq_duration_seconds",
	 "Time that softirqs ran, interrupts that came meanwhile included.",
	 KPOD_TIME_HISTOGRAM(irq_row, duration, ns)},
};

static const struct kpod_key keys[] = {{.label = "vector", .values = vectors}};

static const struct kpod_column stolen_columns[] = {
	{"kpod_softirq_stolen_seconds_total",
	 "Time that softirqs ran while a task of the container had the CPU, whoever the work was "
	 "for. Part of what the scheduler counts as the task's own time.",
	 .kind = KPOD_COUNTER, .decimals = KPOD_SECONDS, .word = KPOD_WORD(irq_stolen_row, ns)},
};

static const struct kpod_table tables[] = {
	{.name = "softirqs",
	 .scope = KPOD_PER_NODE,
	 .map = "softirq_rows",
	 .row_size = sizeof(struct irq_row),
	 .words = KPOD_WORD(irq_row, reserved),
	 KPOD_COLUMNS(columns),
	 KPOD_KEYS(keys),
	 .direct = KPOD_SOFTIRQS},
	{.name = "softirqs_stolen",
	 .scope = KPOD_PER_SLOT,
	 .map = "irq_stolen_rows",
	 .row_size = sizeof(struct irq_stolen_row),
	 .words = KPOD_WORD(irq_stolen_row, reserved),
	 KPOD_COLUMNS(stolen_columns)},
};

static const struct kpod_attachment attachments[] = {
	{.name = "tp_btf",
	 KPOD_STEPS({"kpod_softirqs_entry", KPOD_ATTACH}, {"kpod_softirqs_exit", KPOD_ATTACH})},
};

const struct kpod_collector kpod_collector_softirqs = {
	.name = "softirqs",
	.help = "softirqs by vector, and the time they take from containers",
	.owner = "the node; of stolen time, the task that had the CPU (not idle or kernel threads)",
	.since = "5.11",
	.profile = KPOD_STANDARD,
	KPOD_EMBEDDED(softirqs),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
	.sized_by_cpu = "irq_begins",
};

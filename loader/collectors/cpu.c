/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/collector.h"
#include "cgroups/slots.h"
#include "kernel/load.h"
#include "kernel/renewal.h"

#include "bpf/cpu.h"

KPOD_OBJECT(cpu);

enum { CPU_TABLE, PAIRS_TABLE };

/* ---- the rows of pairs: whose they still are ----------------------------------------------- */

static int open_pairs(struct kpod_loaded *l, struct kpod_slots *slots, const struct kpod_options *o)
{
	struct kpod_renewal *r;
	int err;

	if (!o->culprits)
		return 0;
	r = calloc(1, sizeof(*r));
	err = r ? kpod_renewal_open(r, &l->tables[PAIRS_TABLE], slots->bpf->max_containers,
				    o->renew_ns)
		: -ENOMEM;
	if (err)
		free(r);
	else
		l->state = r;
	return err;
}

static void close_pairs(struct kpod_loaded *l)
{
	kpod_renewal_close(l->state);
	free(l->state);
}

static uint64_t wait_of(struct kpod_loaded_table *t, uint32_t unit)
{
	const struct cpu_pair_row *row = kpod_rows_of(&t->rows, unit);

	return row ? __atomic_load_n(&row->wait_ns, __ATOMIC_RELAXED) : 0;
}

/* Whether a slot is, for good, not any more what it was in this generation. */
static bool is_gone(struct kpod_slots *s, uint32_t slot, uint32_t generation)
{
	const struct kpod_slot_info *info = kpod_slot_info(s, slot);

	return !info || info->generation != generation || (info->died_ns && !s->visible[slot]);
}

/* What a victim has waited for a culprit that is not named any more is in its row `earlier`. */
static void retire(struct kpod_renewal *r, uint32_t unit)
{
	const struct kpod_unit *u = kpod_rows_of(&r->table->units, unit);
	const struct kpod_unit heir = {.key = {.slot = u->key.slot,
					       .minor = (uint32_t)KPOD_CULPRIT_EARLIER,
					       .major = u->key.major >> 32 << 32},
				       .words = {KPOD_CULPRIT_EARLIER}};

	kpod_renewal_retire(r, unit, &heir);
}

static void look_at(struct kpod_renewal *r, struct kpod_slots *s, uint32_t unit)
{
	const struct kpod_unit *u = kpod_rows_of(&r->table->units, unit);
	uint64_t growth = kpod_renewal_growth(r, unit, wait_of(r->table, unit));

	if (kpod_slot_info(s, u->key.slot)->generation != u->key.major >> 32)
		kpod_unit_free(r->table, unit); /* of a CPU that was offline at the victim's end */
	else if (u->words[0] == KPOD_CULPRIT_OTHER)
		r->ranks[u->key.slot].other_growth = growth;
	else if (u->words[0] == KPOD_CULPRIT_EARLIER)
		;
	else if (is_gone(s, (uint32_t)u->words[0], (uint32_t)(u->words[0] >> 32)))
		retire(r, unit);
	else
		kpod_renewal_add_named(r, unit, u, growth);
}

static void read_pairs(struct kpod_loaded *l, struct kpod_slots *s)
{
	struct kpod_loaded_table *t = &l->tables[PAIRS_TABLE], *cpu = &l->tables[CPU_TABLE];
	uint64_t now = kpod_clock(CLOCK_MONOTONIC);
	struct kpod_renewal *r = l->state;

	kpod_renewal_begin(r, now);
	for (uint32_t unit = 1; unit < t->unit_count; unit++) {
		const struct kpod_unit *u = kpod_rows_of(&t->units, unit);

		if (u && u->born_ns && u->born_ns + KPOD_SETTLE_NS <= now)
			look_at(r, s, unit);
	}
	for (uint32_t slot = 0; slot < s->scanned; slot++) {
		uint32_t coldest = kpod_renewal_take_coldest(r, slot, s->bpf->config.culprits);
		struct cpu_row *row = kpod_rows_of(&cpu->rows, slot);

		if (coldest)
			retire(r, coldest);
		if (row && row->pairs != r->ranks[slot].named)
			__atomic_store_n(&row->pairs, r->ranks[slot].named, __ATOMIC_RELAXED);
	}
	kpod_renewal_end(r, now);
}

static const struct kpod_source pairs_source = {
	.open = open_pairs, .read = read_pairs, .close = close_pairs};

/* ---- the declaration ----------------------------------------------------------------------- */

#define WAIT "kpod_cpu_runqueue_wait_seconds_total"
#define WAIT_HELP                                                                                  \
	"Time runnable but not running, by who held the CPU meanwhile: a task of the same "        \
	"container (self), of another (other), of no container, or an interrupt (host), or "       \
	"nobody (idle)."
#define SWITCHES "kpod_cpu_context_switches_total"
#define SWITCHES_HELP                                                                              \
	"Switches away from a task: it blocked (voluntary), was preempted or yielded "             \
	"(involuntary), or was the idle task (idle, host only)."

#define FAULTS "kpod_memory_page_faults_total"
#define FAULTS_HELP "Page faults: without (minor) and with (major) a wait for a disk."

static const struct kpod_column columns[] = {
	{"kpod_cpu_oncpu_seconds_total",
	 "Time on a CPU, as the scheduler accounts it (se.sum_exec_runtime).", .kind = KPOD_COUNTER,
	 .decimals = KPOD_SECONDS, .word = KPOD_WORD(cpu_row, oncpu_ns)},
	{SWITCHES, SWITCHES_HELP, "kind", "voluntary", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(cpu_row, switches[KPOD_SWITCH_VOLUNTARY])},
	{SWITCHES, SWITCHES_HELP, "kind", "involuntary", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(cpu_row, switches[KPOD_SWITCH_INVOLUNTARY])},
	{SWITCHES, SWITCHES_HELP, "kind", "idle", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(cpu_row, switches[KPOD_SWITCH_IDLE])},
	{WAIT, WAIT_HELP, "held_by", "self", .kind = KPOD_COUNTER, .decimals = KPOD_SECONDS,
	 .word = KPOD_WORD(cpu_row, wait_ns[KPOD_HELD_SELF])},
	{WAIT, WAIT_HELP, "held_by", "other", .kind = KPOD_COUNTER, .decimals = KPOD_SECONDS,
	 .word = KPOD_WORD(cpu_row, wait_ns[KPOD_HELD_OTHER])},
	{WAIT, WAIT_HELP, "held_by", "host", .kind = KPOD_COUNTER, .decimals = KPOD_SECONDS,
	 .word = KPOD_WORD(cpu_row, wait_ns[KPOD_HELD_HOST])},
	{WAIT, WAIT_HELP, "held_by", "idle", .kind = KPOD_COUNTER, .decimals = KPOD_SECONDS,
	 .word = KPOD_WORD(cpu_row, wait_ns[KPOD_HELD_IDLE])},
	{"kpod_cpu_runqueue_latency_seconds",
	 "Time runnable but not running before each stint on a CPU (sched_info.run_delay).",
	 KPOD_TIME_HISTOGRAM(cpu_row, wait, wait_ns)},
	{"kpod_cpu_untracked_stints_total",
	 "Stints of tasks without a task record: waits that moved between CPUs may be short.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(cpu_row, untracked)},
	{FAULTS, FAULTS_HELP, "kind", "minor", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(cpu_row, faults[KPOD_FAULT_MINOR])},
	{FAULTS, FAULTS_HELP, "kind", "major", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(cpu_row, faults[KPOD_FAULT_MAJOR])},
};

#define PAIRS_HELP                                                                                 \
	"Time runnable but not running while a task of another container held the CPU, by that "   \
	"container, the culprit; together held_by=\"other\" of "                                   \
	"kpod_cpu_runqueue_wait_seconds_total. culprit_scope is also other: all that have no row " \
	"(--cpu-culprits), and earlier: those that had one and are not named any more."

static const struct kpod_column pairs_columns[] = {
	{"kpod_cpu_runqueue_wait_by_culprit_seconds_total", PAIRS_HELP, .kind = KPOD_COUNTER,
	 .decimals = KPOD_SECONDS, .word = KPOD_WORD(cpu_pair_row, wait_ns)},
};

static const char *const culprits[] = {"other", "earlier"};

static const struct kpod_names *culprit_names(void)
{
	static const struct kpod_names names = {culprits, KPOD_COUNT(culprits)};

	return &names;
}

static const struct kpod_key pairs_keys[] = {
	{.label = "culprit", .values = culprit_names, .owner = true}};

static const struct kpod_table tables[] = {
	[CPU_TABLE] = {.name = "cpu",
		       .scope = KPOD_PER_SLOT,
		       .map = "cpu_rows",
		       .row_size = sizeof(struct cpu_row),
		       .words = KPOD_WORD(cpu_row, pairs),
		       KPOD_COLUMNS(columns)},
	[PAIRS_TABLE] = {.name = "cpu_pairs",
			 .scope = KPOD_PER_SLOT,
			 .map = "cpu_pair_rows",
			 .row_size = sizeof(struct cpu_pair_row),
			 .words = KPOD_WORD(cpu_pair_row, reserved),
			 KPOD_COLUMNS(pairs_columns),
			 KPOD_KEYS(pairs_keys),
			 .units = "cpu_pairs",
			 .unit_capacity = 4096,
			 .units_per_slot = 4,
			 .switched_by = KPOD_SWITCH(culprits),
			 .unsharded = true},
};

static const struct kpod_attachment attachments[] = {
	{.name = "tp_btf twins",
	 .where = KPOD_TRACEPOINTS_PREEMPT,
	 KPOD_STEPS({"kpod_cpu_fork", KPOD_ATTACH_TWIN}, {"kpod_cpu_fork2", KPOD_ATTACH_TWIN},
		    {"kpod_cpu_move", KPOD_ATTACH_TWIN}, {"kpod_cpu_move2", KPOD_ATTACH_TWIN},
		    {"kpod_cpu_adopt", KPOD_RUN_ONCE}, {"kpod_cpu_switch", KPOD_ATTACH},
		    {"kpod_cpu_flush", KPOD_PER_CPU})},
	{.name = "tp_btf",
	 KPOD_STEPS({"kpod_cpu_fork", KPOD_ATTACH}, {"kpod_cpu_move", KPOD_ATTACH},
		    {"kpod_cpu_adopt", KPOD_RUN_ONCE}, {"kpod_cpu_switch", KPOD_ATTACH},
		    {"kpod_cpu_flush", KPOD_PER_CPU})},
};

const struct kpod_collector kpod_collector_cpu = {
	.name = "cpu",
	.help = "run-queue latency, context switches, time on CPU and page faults",
	.owner = "the task that leaves the CPU; of a wait, the task that waited",
	.since = "5.12",
	KPOD_EMBEDDED(cpu),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
	.sized_by_cpu = "cpu_stints",
	.source = &pairs_source,
};

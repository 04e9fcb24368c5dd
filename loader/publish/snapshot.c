/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "kernel/privileges.h"
#include "publish/schema.h"
#include "publish/snapshot.h"
#include "sources/cgroupfs.h"

struct loader_row {
	uint64_t slots_used, slots_dead, slots_capacity;
	uint64_t slots_exhausted, slots_evicted, cgroups_full, paths_truncated;
	uint64_t others_used, others_max, others_refused, user_refused, too_deep;
	uint64_t snapshots, rung, failures, rows_unmapped, flush_failures, walk_failures;
	uint64_t snapshot_ns, snapshot_size, ring_size;
	uint64_t cpu_ns;
	uint64_t sees_all_tasks;
};

#define COLUMN(kind_, field, name, help, ...)                                                      \
	{                                                                                          \
		name, help, .kind = kind_, .word = KPOD_WORD(loader_row, field), ##__VA_ARGS__     \
	}

#define REFUSED "kpod_slots_refused_total"
#define REFUSED_HELP                                                                               \
	"Cgroups outside pods without a slot of their own, because all of these (share) or those " \
	"of one login user (user) had as many as they may have: counted as what is above them."

static const struct kpod_column columns[] = {
	COLUMN(KPOD_GAUGE, slots_used, "kpod_slots_used",
	       "Containers with a slot, the host included."),
	COLUMN(KPOD_GAUGE, slots_dead, "kpod_slots_dead",
	       "Of these, containers that ended and whose last totals are still shown."),
	COLUMN(KPOD_GAUGE, slots_capacity, "kpod_slots_capacity", "Slots there are."),
	COLUMN(KPOD_COUNTER, slots_exhausted, "kpod_slots_exhausted_total",
	       "Containers found while no slot was free: counted as the host until one is."),
	COLUMN(KPOD_GAUGE, others_used, "kpod_slots_others_used",
	       "Slots in use by units, containers and machines outside pods."),
	COLUMN(KPOD_GAUGE, others_max, "kpod_slots_others_max",
	       "Slots that units, containers and machines outside pods may use together "
	       "(--others-share)."),
	COLUMN(KPOD_COUNTER, others_refused, REFUSED, REFUSED_HELP, .label = "reason",
	       .value = "share"),
	COLUMN(KPOD_COUNTER, user_refused, REFUSED, REFUSED_HELP, .label = "reason",
	       .value = "user"),
	COLUMN(KPOD_COUNTER, too_deep, "kpod_cgroups_too_deep_total",
	       "Cgroups that would have had a slot if they were not more than 16 levels below the "
	       "root of the hierarchy: counted as what is above them."),
	COLUMN(KPOD_COUNTER, slots_evicted, "kpod_slots_evicted_total",
	       "Dead containers dropped before their time because slots were short."),
	COLUMN(KPOD_COUNTER, cgroups_full, "kpod_cgroups_map_full_total",
	       "Cgroups that did not fit into the kernel map: counted as the host."),
	COLUMN(KPOD_COUNTER, paths_truncated, "kpod_cgroup_paths_truncated_total",
	       "Cgroups whose path is longer than a slot can hold: without a name if they are of a "
	       "pod, else counted as what is above them."),
	COLUMN(KPOD_COUNTER, snapshots, "kpod_snapshots_total",
	       "Snapshots written before this one."),
	COLUMN(KPOD_COUNTER, rung, "kpod_snapshots_rung_total",
	       "Snapshots taken because a reader of the segment rang the doorbell."),
	COLUMN(KPOD_COUNTER, failures, "kpod_snapshot_failures_total",
	       "Snapshots that could not be written."),
	COLUMN(KPOD_COUNTER, rows_unmapped, "kpod_rows_unmapped_total",
	       "Rows left out of a snapshot because their map could not be mapped."),
	COLUMN(KPOD_COUNTER, flush_failures, "kpod_flush_failures_total",
	       "CPUs whose running task could not be booked before a snapshot."),
	COLUMN(KPOD_COUNTER, walk_failures, "kpod_walk_failures_total",
	       "Walks over sockets or tasks that failed: their numbers come with a later "
	       "snapshot."),
	COLUMN(KPOD_GAUGE, snapshot_ns, "kpod_snapshot_duration_seconds",
	       "How long the snapshot before this one took.", .decimals = KPOD_SECONDS),
	COLUMN(KPOD_GAUGE, snapshot_size, "kpod_snapshot_size_bytes",
	       "Ring bytes of the snapshot before this one."),
	COLUMN(KPOD_GAUGE, ring_size, "kpod_ring_size_bytes", "Capacity of the ring."),
	COLUMN(KPOD_COUNTER, cpu_ns, "kpod_loader_cpu_seconds_total",
	       "CPU time of the loader itself, user and system.", .decimals = KPOD_SECONDS),
	COLUMN(KPOD_GAUGE, sees_all_tasks, "kpod_loader_sees_all_tasks",
	       "1 if the loader is in the node's PID namespace (hostPID: true). With 0, the time "
	       "on "
	       "CPU and the TCP bytes of tasks and connections older than the loader are short, "
	       "and "
	       "interfaces and file systems are missing unless --proc is the node's procfs."),
};

#define FILE_WORDS 4
#define NAME_WORDS 4	  /* of a program */
#define COLLECTOR_WORDS 3 /* of its collector */

struct units_row {
	uint64_t used, capacity, exhausted, lost, evicted;
};

static const struct kpod_column units_columns[] = {
	{"kpod_table_units", "Combinations of container and key that have rows.",
	 .kind = KPOD_GAUGE, .word = KPOD_WORD(units_row, used)},
	{"kpod_table_units_capacity", "Combinations there is room for.", .kind = KPOD_GAUGE,
	 .word = KPOD_WORD(units_row, capacity)},
	{"kpod_table_units_exhausted_total",
	 "Events counted as the host's, or in table cpu_pairs as culprit_scope other and in table "
	 "tcp_peers as peer_address other, because the table had no room for another combination "
	 "of "
	 "container and key.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(units_row, exhausted)},
	{"kpod_table_events_lost_total",
	 "Events not counted at all because the table had no room for them as the host's, or as "
	 "other, either.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(units_row, lost)},
	{"kpod_table_units_evicted_total",
	 "Combinations of an ended container and a key that were dropped before their time because "
	 "the "
	 "table had no room.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(units_row, evicted)},
};

static const struct kpod_column files_columns[] = {
	{"kpod_cgroup_read_errors_total",
	 "Cgroup files that could not be read or understood. Files that are not there are no "
	 "error.",
	 .kind = KPOD_COUNTER, .word = 0},
};

#define ESTIMATE " Measured in one second of ten, and taken to be so in all ten."

static const struct kpod_column programs_columns[] = {
	{"kpod_bpf_program_run_seconds_total",
	 "Time in which a BPF program ran, the measuring included." ESTIMATE, .kind = KPOD_COUNTER,
	 .decimals = KPOD_SECONDS, .word = 0},
	{"kpod_bpf_program_runs_total", "How often a BPF program ran." ESTIMATE,
	 .kind = KPOD_COUNTER, .word = 1},
	{"kpod_bpf_program_misses_total",
	 "Events not counted because they came while the program ran on the same CPU (the kernel's "
	 "recursion_misses; none before 6.1). Where another program stands in, 0.",
	 .kind = KPOD_COUNTER, .word = 2},
};

static const struct kpod_key programs_keys[] = {
	{.label = "program", .words = NAME_WORDS},
	{.label = "collector", .words = COLLECTOR_WORDS},
};

static const struct kpod_column collectors_columns[] = {
	{"kpod_collector_map_bytes",
	 "Kernel memory of the collector's BPF maps; of those that all share, at the first.",
	 .kind = KPOD_GAUGE, .word = 0},
	{"kpod_collector_sheds_total",
	 "How often the collector was unloaded because BPF programs took too much time. Its totals "
	 "are not shown meanwhile, and go on when it is back.",
	 .kind = KPOD_COUNTER, .word = 1},
};

static const struct kpod_column overhead_columns[] = {
	{"kpod_bpf_overhead_ratio",
	 "Share of the node's CPU time that BPF programs took when it was last measured.",
	 .kind = KPOD_GAUGE, .decimals = 9, .word = 0},
	{"kpod_bpf_overhead_max_ratio",
	 "Above which collectors are shed: --max-overhead, or 50 ms of CPU time a second on a node "
	 "where that is more.",
	 .kind = KPOD_GAUGE, .decimals = 9, .word = 1},
};

static const struct kpod_key files_keys[] = {{.label = "file", .words = FILE_WORDS}};

static const struct kpod_key units_keys[] = {{.label = "table", .words = 2}};

const struct kpod_table kpod_own_tables[KPOD_OWN_TABLES] = {
	[KPOD_OWN_LOADER] = {.name = "loader",
			     .scope = KPOD_PER_NODE,
			     .words = sizeof(struct loader_row) / 8,
			     KPOD_COLUMNS(columns)},
	[KPOD_OWN_UNITS] = {.name = "units",
			    .scope = KPOD_PER_NODE,
			    .words = sizeof(struct units_row) / 8,
			    KPOD_COLUMNS(units_columns),
			    KPOD_KEYS(units_keys)},
	[KPOD_OWN_FILES] = {.name = "files",
			    .scope = KPOD_PER_NODE,
			    .words = 1,
			    KPOD_COLUMNS(files_columns),
			    KPOD_KEYS(files_keys)},
	[KPOD_OWN_PROGRAMS] = {.name = "programs",
			       .scope = KPOD_PER_NODE,
			       .words = 3,
			       KPOD_COLUMNS(programs_columns),
			       KPOD_KEYS(programs_keys)},
	[KPOD_OWN_COLLECTORS] = {.name = "collectors",
				 .scope = KPOD_PER_NODE,
				 .words = 2,
				 KPOD_COLUMNS(collectors_columns),
				 .keys = &programs_keys[1],
				 .key_count = 1},
	[KPOD_OWN_OVERHEAD] = {.name = "overhead",
			       .scope = KPOD_PER_NODE,
			       .words = 2,
			       KPOD_COLUMNS(overhead_columns)},
};

static int write_own(struct kpod_publisher *p)
{
	const struct kpod_control *ctl = p->bpf->control;
	struct loader_row row = {
		.slots_used = p->slots->used,
		.slots_dead = p->slots->dead,
		.slots_capacity = p->bpf->max_containers,
		.slots_exhausted = ctl ? ctl->slots_exhausted : 0,
		.slots_evicted = p->slots->evicted,
		.others_used = ctl ? ctl->others_used : 0,
		.others_max = p->bpf->config.others_max,
		.others_refused = ctl ? ctl->others_refused : 0,
		.user_refused = ctl ? ctl->user_refused : 0,
		.too_deep = ctl ? ctl->too_deep : 0,
		.cgroups_full = ctl ? ctl->cgroups_full : 0,
		.paths_truncated = ctl ? ctl->paths_truncated : 0,
		.snapshots = p->stats.snapshots,
		.rung = p->stats.rung,
		.failures = p->stats.failures,
		.rows_unmapped = p->stats.rows_unmapped,
		.flush_failures = p->bpf->flush_failures,
		.walk_failures = p->bpf->walk_failures,
		.snapshot_ns = p->stats.last_ns,
		.snapshot_size = p->stats.last_size,
		.ring_size = p->writer.capacity,
		.cpu_ns = kpod_clock(CLOCK_PROCESS_CPUTIME_ID),
		.sees_all_tasks = kpod_sees_all_tasks(),
	};

	return kpod_writer_row(&p->writer, KPOD_OWN_LOADER, 0, 0, (const uint64_t *)&row,
			       sizeof(row) / 8);
}

static int write_file_errors(struct kpod_publisher *p, const struct kpod_loaded *l)
{
	uint64_t words[FILE_WORDS + 1];
	const char *file;
	int err = 0;

	for (size_t i = 0; !err && (file = kpod_cgroup_file_errors(l, i, &words[FILE_WORDS]));
	     i++) {
		memset(words, 0, 8 * FILE_WORDS);
		memcpy(words, file, strnlen(file, 8 * FILE_WORDS));
		err = kpod_writer_row(&p->writer, KPOD_OWN_FILES, 0, 0, words, FILE_WORDS + 1);
	}
	return err;
}

static int write_costs(struct kpod_publisher *p, const struct kpod_loaded *l)
{
	uint64_t words[NAME_WORDS + COLLECTOR_WORDS + 3] = {};
	uint64_t *collector = words + NAME_WORDS, *values = collector + COLLECTOR_WORDS;
	int err = 0;

	memcpy(collector, l->collector->name, strnlen(l->collector->name, 8 * COLLECTOR_WORDS));
	for (size_t i = 0; !err && i < l->program_count; i++) {
		const struct kpod_program *program = &l->programs[i];

		memcpy(words, program->name, sizeof(program->name));
		values[0] = p->governor->able ? program->run_ns : KPOD_NO_VALUE;
		values[1] = p->governor->able ? program->runs : KPOD_NO_VALUE;
		values[2] = program->misses;
		err = kpod_writer_row(&p->writer, KPOD_OWN_PROGRAMS, 0, 0, words,
				      KPOD_COUNT(words));
	}
	values[0] = l->map_bytes;
	values[1] = l->sheds;
	if (!err && l->collector->object)
		err = kpod_writer_row(&p->writer, KPOD_OWN_COLLECTORS, 0, 0, collector,
				      COLLECTOR_WORDS + 2);
	return err;
}

static int write_overhead(struct kpod_publisher *p)
{
	uint64_t words[] = {(uint64_t)(p->governor->share * 1e9),
			    (uint64_t)(p->governor->bound * 1e9)};

	return p->governor->share > 0 ? kpod_writer_row(&p->writer, KPOD_OWN_OVERHEAD, 0, 0, words,
							KPOD_COUNT(words))
				      : 0;
}

static int write_units(struct kpod_publisher *p, struct kpod_loaded_table *t)
{
	char key[16] = "";
	const struct kpod_unit *none = kpod_rows_of(&t->units, 0);
	struct units_row row = {.used = t->units_used,
				.capacity = t->unit_count - 1,
				.exhausted = none ? none->words[0] : 0,
				.lost = none ? none->words[1] : 0,
				.evicted = t->units_evicted};
	uint64_t words[sizeof(key) / 8 + sizeof(row) / 8];

	memcpy(key, t->table->name, strnlen(t->table->name, sizeof(key)));
	memcpy(words, key, sizeof(key));
	memcpy(words + sizeof(key) / 8, &row, sizeof(row));
	return kpod_writer_row(&p->writer, KPOD_OWN_UNITS, 0, 0, words, KPOD_COUNT(words));
}

/* Adds the shards of one unit to the words; rows are not locked, and each word is read whole. */
static void add_rows(uint64_t *words, const struct kpod_table *table, const char *rows,
		     uint32_t shards)
{
	for (uint32_t shard = 0; shard < shards; shard++) {
		const uint64_t *row = (const void *)(rows + (size_t)shard * table->row_size);

		for (uint32_t i = 0; i < table->words; i++)
			words[i] += __atomic_load_n(&row[i], __ATOMIC_RELAXED);
	}
}

static bool has_counted(const uint64_t *words, const struct kpod_table *table)
{
	uint64_t any = 0;

	for (uint32_t i = 0; i < table->words; i++)
		any |= words[i];
	return any;
}

/* An address as text, IPv4 as such; or the value that stands for it. */
static void write_address(const struct kpod_key *k, const __u64 *words, uint64_t *key)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	const struct kpod_names *values = k->values ? k->values() : NULL;
	const uint8_t *address = (const void *)words;
	char text[INET6_ADDRSTRLEN] = "";

	if (values && ~words[0] < values->count)
		snprintf(text, sizeof(text), "%s", values->names[~words[0]]);
	else if (!memcmp(address, mapped, sizeof(mapped)))
		inet_ntop(AF_INET, address + sizeof(mapped), text, sizeof(text));
	else
		inet_ntop(AF_INET6, address, text, sizeof(text));
	memset(key, 0, k->words * sizeof(*key));
	memcpy(key, text, strnlen(text, k->words * sizeof(*key)));
}

/* The words of a unit as a row has them. */
static void write_keys(const struct kpod_table *t, const __u64 *words, uint64_t *key)
{
	for (size_t i = 0; i < t->key_count; i++) {
		const struct kpod_key *k = &t->keys[i];
		uint32_t size = k->words ? k->words : 1;

		if (k->address) {
			write_address(k, words, key);
			words += 2;
		} else {
			memcpy(key, words, size * sizeof(*key));
			words += size;
		}
		key += size;
	}
}

/* The slot of a unit and, in key, its key words. False: the unit is not in use. */
static bool identify(struct kpod_loaded_table *t, uint32_t unit, uint64_t now, uint32_t *slot,
		     uint64_t *key)
{
	const struct kpod_unit *u;

	*slot = t->table->scope == KPOD_PER_SLOT ? unit : 0;
	if (t->table->direct)
		key[0] = unit;
	if (!t->table->units)
		return true;
	u = kpod_rows_of(&t->units, unit);
	if (!u || !u->born_ns || u->born_ns + KPOD_SETTLE_NS > now)
		return false;
	t->units_used++;
	*slot = u->key.slot;
	write_keys(t->table, u->words, key);
	return true;
}

/* The table of the schema that a slot's row goes to: pods may have one of their own. */
static uint16_t table_of(const struct kpod_publisher *p, const struct kpod_table *table,
			 uint16_t index, uint32_t slot)
{
	return index +
	       (table->inclusive && kpod_slot_info(p->slots, slot)->kind == KPOD_CGROUP_POD);
}

/* Rows of a source, as it has read them. */
static int write_kept(struct kpod_publisher *p, uint16_t index, const struct kpod_loaded_table *t)
{
	uint32_t slot, generation, count = kpod_key_words(t->table) + t->table->words;
	const uint64_t *words;
	int err = 0;

	for (size_t i = 0; !err && (words = kpod_kept_row(&t->kept, i, &slot, &generation)); i++)
		err = kpod_writer_row(&p->writer, table_of(p, t->table, index, slot), slot,
				      generation, words, count);
	return err;
}

/* What disks of one name have counted for a slot, from the newest on, is one row. */
static int write_disk(struct kpod_publisher *p, uint16_t index, struct kpod_loaded_table *t,
		      const struct kpod_disk_unit *first, size_t count)
{
	uint32_t keys = kpod_key_words(t->table), newest = first->unit;

	memcpy(p->words, first->key, keys * 8);
	memset(p->words + keys, 0, t->table->words * 8);
	for (size_t i = 0; i < count; i++) {
		const char *rows = kpod_rows_of(&t->rows, first[i].unit);

		if (rows)
			add_rows(p->words + keys, t->table, rows, t->shards);
		else
			p->stats.rows_unmapped++;
		/* Disks that come and go must not take all units. */
		if (i && kpod_disk_is_successor(&first[i - 1], &first[i]))
			kpod_unit_fold(t, first[i].unit, newest);
		else
			newest = first[i].unit;
	}
	if (!has_counted(p->words + keys, t->table))
		return 0;
	return kpod_writer_row(&p->writer, table_of(p, t->table, index, first->slot), first->slot,
			       kpod_slot_info(p->slots, first->slot)->generation, p->words,
			       keys + t->table->words);
}

/* Of a table by disks: those that are there now, each once. */
static int write_disks(struct kpod_publisher *p, uint16_t index, struct kpod_loaded_table *t)
{
	uint64_t now = kpod_clock(CLOCK_MONOTONIC);
	struct kpod_disks *d = &p->disks;
	int err = 0;

	t->units_used = 0;
	kpod_disks_begin(d);
	for (uint32_t unit = 1; !err && unit < t->unit_count; unit++) {
		struct kpod_disk_unit found = {.unit = unit};

		if (!identify(t, unit, now, &found.slot, found.key))
			continue;
		found.born_ns = ((const struct kpod_unit *)kpod_rows_of(&t->units, unit))->born_ns;
		if (!kpod_disks_has(d, found.key))
			t->units_used -= kpod_unit_free(t, unit);
		else if (p->slots->visible[found.slot])
			err = kpod_disks_add(d, &found);
	}
	kpod_disks_group(d);
	for (size_t i = 0, count; !err && i < d->count; i += count) {
		count = kpod_disks_alike(d, i);
		err = write_disk(p, index, t, &d->of[i], count);
	}
	return err ? err : write_units(p, t);
}

/*
 * A container is there before it does anything: a series that begins with its first event has lost
 * that event for whoever makes rates of it. Units, of which a node has many that do nothing, and
 * pods' own cgroups, in which nothing runs, have rows when there is something in them.
 */
static bool shows_zero(const struct kpod_publisher *p, const struct kpod_table *table,
		       uint32_t slot)
{
	uint32_t kind = kpod_slot_info(p->slots, slot)->kind;

	return table->scope == KPOD_PER_SLOT && !table->units && !table->direct &&
	       (kind == KPOD_CGROUP_CONTAINER || kind == KPOD_CGROUP_POD_CONTAINER ||
		kind == KPOD_CGROUP_MACHINE);
}

static int write_table(struct kpod_publisher *p, uint16_t index, struct kpod_loaded_table *t)
{
	uint32_t units = t->table->scope == KPOD_PER_SLOT && !t->table->units
				 ? p->slots->scanned
				 : kpod_unit_count(p->bpf, t->table);
	uint32_t keys = kpod_key_words(t->table);
	uint64_t now = kpod_clock(CLOCK_MONOTONIC);

	if (!t->table->map)
		return write_kept(p, index, t);
	if (t->table->disks)
		return write_disks(p, index, t);
	t->units_used = 0;
	for (uint32_t unit = 0; unit < units; unit++) {
		const void *at;
		uint32_t slot;
		int err;

		if (!identify(t, unit, now, &slot, p->words) ||
		    (t->table->scope == KPOD_PER_SLOT && !p->slots->visible[slot]))
			continue;
		at = kpod_rows_of(&t->rows, unit);
		if (!at) {
			p->stats.rows_unmapped++;
			continue;
		}
		memset(p->words + keys, 0, t->table->words * 8);
		add_rows(p->words + keys, t->table, at, t->shards);
		if (!has_counted(p->words + keys, t->table) && !shows_zero(p, t->table, slot))
			continue;
		err = kpod_writer_row(&p->writer, table_of(p, t->table, index, slot), slot,
				      kpod_slot_info(p->slots, slot)->generation, p->words,
				      keys + t->table->words);
		if (err)
			return err;
	}
	return t->table->units ? write_units(p, t) : 0;
}

/* Never later than the snapshot says that it is. */
static uint64_t wall_time(const struct kpod_publisher *p, uint64_t boottime_ns)
{
	uint64_t at = kpod_wall_of(&p->slots->wall, boottime_ns);

	return at < p->begun_realtime_ns ? at : p->begun_realtime_ns;
}

static int write_slots(struct kpod_publisher *p)
{
	for (uint32_t slot = 0; slot < p->slots->scanned; slot++) {
		const struct kpod_slot_info *info = kpod_slot_info(p->slots, slot);
		const struct kpod_birth *birth = &p->slots->births[slot];
		struct kpod_slot record;
		int err;

		if (!p->slots->visible[slot] || !info)
			continue;
		record = (struct kpod_slot){
			.slot = slot,
			.generation = info->generation,
			.cgroup_id = info->cgroup_id,
			.born_ns = info->born_ns,
			.died_ns = info->died_ns,
			.kind = info->kind,
			.path_size = info->path_size < KPOD_SLOT_PATH ? info->path_size : 0,
			.counted_ns = wall_time(p, birth->counted_ns),
			.cgroup_ns = wall_time(p, birth->cgroup_ns),
			.network_ns = wall_time(p, birth->network_ns),
		};
		err = kpod_writer_slot(&p->writer, &record, info->path);
		if (err)
			return err;
	}
	return 0;
}

static int write_snapshot(struct kpod_publisher *p)
{
	uint16_t index = KPOD_OWN_TABLES;
	int err = kpod_writer_begin(&p->writer, p->begun_monotonic_ns, p->begun_realtime_ns);

	err = err ? err : write_slots(p);
	err = err ? err : write_own(p);
	err = err ? err : write_overhead(p);
	for (size_t i = 0; i < p->bpf->loaded_count; i++) {
		struct kpod_loaded *l = &p->bpf->loaded[i];

		err = err ? err : write_file_errors(p, l);
		err = err ? err : write_costs(p, l);
		for (size_t t = 0; t < l->collector->table_count; t++) {
			if (!err && l->attachment)
				err = write_table(p, index, &l->tables[t]);
			index += 1 + l->collector->tables[t].inclusive;
		}
	}
	return err ? err : kpod_writer_end(&p->writer);
}

static int encode_schema(struct kpod_publisher *p)
{
	return kpod_schema_encode(p->bpf, &p->slots->wall, p->options->min_interval_ns, &p->schema,
				  &p->schema_size);
}

static int make_segment(struct kpod_publisher *p, struct kpod_writer *w, uint64_t capacity)
{
	struct kpod_segment_options options = {
		.path = p->options->segment,
		.schema = p->schema,
		.schema_size = p->schema_size,
		.ring_capacity = capacity,
		.interval_ns = p->options->interval_ns,
		.stale_after_ns = KPOD_STALE_AFTER_NS,
		.start_monotonic_ns = p->start_monotonic_ns,
		.start_realtime_ns = kpod_wall_of(&p->slots->wall, p->start_boottime_ns),
		.sequence = p->stats.snapshots,
	};

	return kpod_writer_open(w, &options);
}

/* The same snapshot again, into a new segment of this capacity or, if need be, a larger one. */
static int renew(struct kpod_publisher *p, uint64_t capacity, const char *why)
{
	struct kpod_writer old = p->writer;
	int err = -ENOSPC;

	for (; err == -ENOSPC && capacity <= p->options->ring_max; capacity *= 2) {
		err = make_segment(p, &p->writer, capacity);
		err = err ? err : write_snapshot(p);
		err = err ? err : kpod_writer_publish(&p->writer);
		if (err)
			kpod_writer_abandon(&p->writer);
	}
	if (err) {
		p->writer = old;
		return err;
	}
	kpod_info("%s: a new segment, with a ring of %llu bytes", why,
		  (unsigned long long)p->writer.capacity);
	kpod_heartbeat_of(p->heartbeat, p->writer.header);
	kpod_writer_close(&old);
	return 0;
}

static bool was_removed(const struct kpod_publisher *p)
{
	return !p->writer.building[0] && access(p->writer.path, F_OK) && errno == ENOENT;
}

/* The same snapshot, into a new segment with what the schema and the header say now. */
static int renew_schema(struct kpod_publisher *p, const char *why)
{
	void *schema = p->schema;
	size_t size = p->schema_size;
	int err = encode_schema(p);

	err = err ? err : renew(p, p->writer.capacity, why);
	if (err) {
		free(p->schema != schema ? p->schema : NULL);
		p->schema = schema;
		p->schema_size = size;
		return err;
	}
	free(schema);
	return 0;
}

int kpod_publisher_snapshot(struct kpod_publisher *p)
{
	uint64_t start = kpod_clock(CLOCK_MONOTONIC);
	int err;

	/* Before anything is read: nothing in it is older than it says. */
	p->begun_monotonic_ns = start;
	p->begun_realtime_ns = kpod_clock(CLOCK_REALTIME);
	p->clock_was_set |= kpod_wall_look(&p->slots->wall) && p->schema;
	kpod_slots_scan(p->slots, start);
	kpod_sources_begin(p->bpf, p->slots);
	kpod_bpf_flush(p->bpf, p->slots->scanned);
	kpod_programs_read(p->bpf);
	kpod_sources_read(p->bpf, p->slots);
	err = p->clock_was_set ? renew_schema(p, "the clock was set") : write_snapshot(p);
	if (err == -ENOSPC && !p->clock_was_set)
		err = renew(p, 2 * p->writer.capacity, "a snapshot needs more room");
	else if (!err && was_removed(p))
		err = renew(p, p->writer.capacity, "somebody removed the segment");
	if (err) {
		p->stats.failures++;
		return err;
	}
	p->clock_was_set = false;
	p->stats.snapshots++;
	p->stats.last_ns = kpod_clock(CLOCK_MONOTONIC) - start;
	p->stats.last_size = p->writer.tail - p->writer.begin;
	return 0;
}

int kpod_publisher_renew(struct kpod_publisher *p)
{
	int err = renew_schema(p, "other collectors run");

	p->stats.failures += err != 0;
	return err;
}

int kpod_publisher_open(struct kpod_publisher *p)
{
	uint32_t longest = 0;
	int err;

	p->start_monotonic_ns = kpod_clock(CLOCK_MONOTONIC);
	p->start_boottime_ns = kpod_clock(CLOCK_BOOTTIME);
	for (size_t i = 0; i < p->bpf->loaded_count; i++) {
		const struct kpod_collector *c = p->bpf->loaded[i].collector;

		for (size_t t = 0; t < c->table_count; t++)
			if (c->tables[t].words + kpod_key_words(&c->tables[t]) > longest)
				longest = c->tables[t].words + kpod_key_words(&c->tables[t]);
	}
	kpod_disks_open(&p->disks, KPOD_SYS_BLOCK);
	p->words = calloc(longest + 1, sizeof(*p->words));
	if (!p->words)
		return -ENOMEM;
	err = encode_schema(p);
	err = err ? err : make_segment(p, &p->writer, p->options->ring_size);
	if (!err)
		kpod_heartbeat_of(p->heartbeat, p->writer.header);
	err = err ? err : kpod_publisher_snapshot(p);
	/* A first snapshot that outgrew its segment has published its successor already. */
	if (!err && p->writer.building[0])
		err = kpod_writer_publish(&p->writer);
	return err;
}

void kpod_publisher_close(struct kpod_publisher *p)
{
	kpod_heartbeat_of(p->heartbeat, NULL);
	kpod_writer_close(&p->writer);
	free(p->schema);
	free(p->words);
	kpod_disks_close(&p->disks);
	memset(p, 0, sizeof(*p));
}

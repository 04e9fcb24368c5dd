/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Collectors in the kernel: their objects, programs and maps. Knows the declarations of
 * base/collector.h and is told which collectors there are. Functions return 0 or -errno unless they
 * say else.
 */
#ifndef KPOD_LOADER_KERNEL_LOAD_H
#define KPOD_LOADER_KERNEL_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/collector.h"
#include "base/kept.h"
#include "bpf/slots.h"
#include "bpf/units.h"
#include "kernel/rows.h"
#include "options.h"

struct bpf_link;
struct bpf_object;
struct kpod_tasks_answer;
struct kpod_slots;

struct kpod_loaded_table {
	const struct kpod_table *table;
	struct kpod_rows rows;
	uint32_t shards;
	/* With units only: */
	struct kpod_rows units;		    /* struct kpod_unit */
	int index_fd, free_fd, reserved_fd; /* the table's own, as those of its rows are */
	uint32_t unit_count;
	uint32_t units_used;	     /* as of the last snapshot */
	uint64_t units_evicted;	     /* of ended containers, for want of free ones */
	uint64_t exhausted_relieved; /* events without a unit when the last were evicted */
	/* Of a source only: */
	struct kpod_kept kept;
};

/* Totals of a program, which outlive its unloading. */
struct kpod_program {
	char name[32]; /* not NUL-terminated if it is that long */
	uint64_t run_ns, runs, misses;
	uint64_t seen_ns, seen_runs, seen_misses; /* as the kernel had them last */
	uint32_t id;
};

struct kpod_loaded {
	const struct kpod_collector *collector;
	const struct kpod_attachment *attachment; /* NULL: it does not run, reason says why */
	const struct kpod_source *source;	  /* of this attachment, or NULL */
	char reason[256];
	bool has_nothing;    /* it runs, but there is nothing for it to read; reason says why */
	uint64_t started_ns; /* CLOCK_BOOTTIME: when it began to count */
	struct bpf_object *object;
	struct bpf_link **links;
	int *per_cpu; /* program descriptors */
	int *walks;   /* link descriptors */
	size_t link_count, per_cpu_count, walk_count;
	struct kpod_loaded_table *tables; /* also while it is shed: totals go on afterwards */
	void *state;			  /* the source's; NULL: it is not open */
	/* The governor's: */
	struct kpod_program *programs;
	size_t program_count;
	uint64_t map_bytes;
	uint64_t cost_ns; /* in the last window */
	uint64_t sheds;
	uint64_t shed_at; /* which one in all; 0: it is not shed */
};

struct kpod_bpf {
	struct kpod_config config;
	enum kpod_preemption preemption;
	uint32_t max_containers; /* slot 0 included */
	int cpus;
	int cgroups_fd, free_slots_fd, control_fd; /* -1: the cgroup collector does not run */
	int roots_fd, groups_fd, instances_fd;	   /* likewise */
	int tracefs;				   /* -1: no program has needed it */
	struct kpod_rows slots;
	struct kpod_control *control;
	struct kpod_loaded *loaded;
	size_t loaded_count;
	uint64_t flush_failures, walk_failures;
	uint64_t snapshots;		 /* whose sources were begun */
	struct kpod_tasks_answer *tasks; /* sources/tasks.h; NULL: nobody needs it */
};

/*
 * Lists the collectors that are asked for without loading any: for their declarations. -EINVAL:
 * there is no such collector, and one line on stderr has said which.
 */
int kpod_bpf_describe(struct kpod_bpf *bpf, const struct kpod_options *options);

/* Loads and attaches every collector; what cannot is left with its reason. Fails on no memory. */
int kpod_bpf_open(struct kpod_bpf *bpf, const struct kpod_options *options);
void kpod_bpf_close(struct kpod_bpf *bpf);

/*
 * One collector, while the others run. What cannot load is left with its reason. The rows that
 * kpod_collector_shed() has left go on with whichever attachment works now.
 */
void kpod_collector_load(struct kpod_bpf *bpf, struct kpod_loaded *l, struct kpod_slots *slots,
			 const struct kpod_options *options);
void kpod_collector_unload(struct kpod_loaded *l);

/* Likewise, but the rows of its programs stay as they are until it is loaded again or unloaded. */
void kpod_collector_shed(struct kpod_loaded *l);

/* Runs the per-CPU programs and the walks, so that the maps are current. */
void kpod_bpf_flush(struct kpod_bpf *bpf, uint32_t slots);

/* Opens what collectors read themselves; what cannot be opened is left with its reason. */
void kpod_sources_open(struct kpod_bpf *bpf, struct kpod_slots *slots,
		       const struct kpod_options *options);
void kpod_sources_begin(struct kpod_bpf *bpf, struct kpod_slots *slots);
void kpod_sources_read(struct kpod_bpf *bpf, struct kpod_slots *slots);

/*
 * Reads the iterator behind a link's descriptor to its end. One whose program writes a byte for
 * each element lets others have the CPU after KPOD_WALK_SLICE of them.
 */
int kpod_iterate(int link_fd);

/* How many units a table has, whether in use or not. */
uint32_t kpod_unit_count(const struct kpod_bpf *bpf, const struct kpod_table *table);

/* Frees what a table keeps of a slot that is no more. False: not all, as the kernel refused. */
bool kpod_table_forget(struct kpod_loaded_table *t, uint32_t slot);

/* Frees a unit whose key is no more. False: the kernel refused, it is as it was. */
bool kpod_unit_free(struct kpod_loaded_table *t, uint32_t unit);

/* Adds what unit `from` has counted to `to`, and frees `from`. */
void kpod_unit_fold(struct kpod_loaded_table *t, uint32_t from, uint32_t to);

/* Adds what unit `from` has counted to `to`. False: neither has changed. */
bool kpod_unit_move(struct kpod_loaded_table *t, uint32_t from, uint32_t to);

/* The unit of a key, 0 if it has none. */
uint32_t kpod_unit_find(const struct kpod_loaded_table *t, const struct kpod_unit_key *key);

/*
 * Of a unit whose key may still have events: programs find it no more, and no snapshot shows it,
 * but nobody gets it either, as a program that had found it may still be adding to it. False: the
 * kernel refused, it is as it was.
 */
bool kpod_unit_hide(struct kpod_loaded_table *t, uint32_t unit);

/* Gives a unit the key and the words of another. False: likewise. */
bool kpod_unit_rename(struct kpod_loaded_table *t, uint32_t unit, const struct kpod_unit *as);

/* Frees a unit that was hidden in an earlier snapshot. False: the kernel refused, try again. */
bool kpod_unit_release(struct kpod_loaded_table *t, uint32_t unit);

/*
 * If events have found no unit free since the last call: frees the units of all slots for which
 * `dead_snapshots` is at least `enough`.
 */
void kpod_table_relieve(struct kpod_loaded_table *t, const uint8_t *dead_snapshots, uint8_t enough);

#endif

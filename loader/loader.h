/* SPDX-License-Identifier: Apache-2.0 */
/* What the loader's parts know of each other. Functions return 0 or -errno unless they say else. */
#ifndef KPOD_LOADER_H
#define KPOD_LOADER_H

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#include "collector.h"
#include "kept.h"

#include "../bpf/slots.h"
#include "../bpf/units.h"
#include "../shared/writer.h"

#define KPOD_VERSION "0.1.0"
#define KPOD_SECOND 1000000000ULL

struct bpf_object;
struct kpod_slots;
struct bpf_link;

struct kpod_options {
	const char *segment;
	uint64_t interval_ns;
	uint64_t tombstone_ns; /* how long a dead container's totals stay */
	uint32_t max_containers;
	uint64_t ring_size;
	uint64_t ring_max;
	bool pods_only;
	bool print;
	bool verbose;
	enum kpod_profile profile;
	const char *proc;	    /* the host's procfs */
	const char *collectors;	    /* instead of a profile: names, separated by commas */
	double max_overhead;	    /* of BPF programs, in percent of the node's CPU time */
	uint64_t governor_tick_ns;  /* a second but in tests */
	const char *inject_failure; /* test builds: this collector does not load */
};

/* ---- bpf.c: objects, programs, maps -------------------------------------------------------- */

/*
 * A map of rows, mapped window by window as slots come into use, so that the loader's memory grows
 * with the containers of the node and not with --max-containers.
 */
struct kpod_rows {
	int fd;
	uint32_t unit_size; /* bytes of all rows of one unit */
	uint32_t windows;
	void **window;
};

#define KPOD_WINDOW_UNITS 64

struct kpod_loaded_table {
	const struct kpod_table *table;
	struct kpod_rows rows;
	uint32_t shards;
	/* With units only: */
	struct kpod_rows units; /* struct kpod_unit */
	int index_fd, free_fd;
	uint32_t units_used; /* as of the last snapshot */
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
	char reason[256];
	struct bpf_object *object;
	struct bpf_link **links;
	int *per_cpu; /* program descriptors */
	int *walks;   /* link descriptors */
	size_t link_count, per_cpu_count, walk_count;
	struct kpod_loaded_table *tables;
	void *state; /* the source's; NULL: it is not open */
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
	uint32_t max_containers; /* slot 0 included */
	int cpus;
	int cgroups_fd, free_slots_fd, control_fd; /* -1: the cgroup collector does not run */
	struct kpod_rows slots;
	struct kpod_control *control;
	struct kpod_loaded *loaded;
	size_t loaded_count;
	uint64_t flush_failures, walk_failures;
};

extern const char *const kpod_profile_names[KPOD_PROFILES];

/*
 * Lists the collectors that are asked for without loading any: for their declarations. -EINVAL:
 * there is no such collector, and one line on stderr has said which.
 */
int kpod_bpf_describe(struct kpod_bpf *bpf, const struct kpod_options *options);

/* Loads and attaches every collector; what cannot is left with its reason. Fails on no memory. */
int kpod_bpf_open(struct kpod_bpf *bpf, const struct kpod_options *options);
void kpod_bpf_close(struct kpod_bpf *bpf);

/* One collector, while the others run. What cannot load is left with its reason. */
void kpod_collector_load(struct kpod_bpf *bpf, struct kpod_loaded *l, struct kpod_slots *slots,
			 const struct kpod_options *options);
void kpod_collector_unload(struct kpod_loaded *l);

/* Runs the per-CPU programs and the walks, so that the maps are current. */
void kpod_bpf_flush(struct kpod_bpf *bpf, uint32_t slots);

/* Opens what collectors read themselves; what cannot be opened is left with its reason. */
void kpod_sources_open(struct kpod_bpf *bpf, struct kpod_slots *slots,
		       const struct kpod_options *options);
void kpod_sources_read(struct kpod_bpf *bpf, struct kpod_slots *slots);

/* The rows of a unit, NULL if they cannot be mapped (counted by the caller). */
void *kpod_rows_of(struct kpod_rows *rows, uint32_t unit);

/* How many units a table has, whether in use or not. */
uint32_t kpod_unit_count(const struct kpod_bpf *bpf, const struct kpod_table *table);

/* Frees what a table keeps of a slot that is no more. False: not all, as the kernel refused. */
bool kpod_table_forget(struct kpod_loaded_table *t, uint32_t slot);

/* ---- collectors/syscall.c ------------------------------------------------------------------ */

/* Which calls are measured by name; NULL: those that matter most. On an error one line on stderr
 * has said which. */
int kpod_syscalls_choose(const char *comma_separated);

/* ---- slots.c: who has which slot ----------------------------------------------------------- */

/* A birth record this old is visible to every CPU, whatever its memory model. */
#define KPOD_SETTLE_NS 1000000

enum kpod_slot_use { KPOD_SLOT_FREE, KPOD_SLOT_USED, KPOD_SLOT_DRAINING };

struct kpod_slots {
	struct kpod_bpf *bpf;
	uint8_t *use;		 /* enum kpod_slot_use, by slot */
	uint8_t *seen;		 /* has ever been in use */
	uint8_t *visible;	 /* belongs into this snapshot */
	uint8_t *dead_snapshots; /* in how many it was dead */
	uint32_t scanned;	 /* slots looked at; the rest was never in use */
	uint32_t used, dead, free;
	uint64_t evicted;	   /* dead slots freed before their time, for want of free ones */
	uint64_t walked_exhausted; /* slots_exhausted when the tree was last walked */
	uint64_t start_ns;
	uint64_t tombstone_ns;
	char root[PATH_MAX]; /* of the cgroup2 hierarchy */
};

/* Finds the cgroup2 mount and enters what exists. -ENOENT: no cgroup2 is mounted. */
int kpod_slots_open(struct kpod_slots *s, struct kpod_bpf *bpf, uint64_t tombstone_ns);
void kpod_slots_close(struct kpod_slots *s);

/* Before each snapshot: notes births and deaths, frees what has been dead long enough. */
void kpod_slots_scan(struct kpod_slots *s, uint64_t now_ns);

struct kpod_slot_info *kpod_slot_info(struct kpod_slots *s, uint32_t slot);

/* ---- governor.c: what it costs ------------------------------------------------------------- */

struct kpod_governor {
	struct kpod_bpf *bpf;
	struct kpod_slots *slots;
	const struct kpod_options *options;
	bool able;	/* run time can be measured */
	bool helpless;	/* there was nothing left to shed */
	int window_fd;	/* while the statistics are on */
	int window_err; /* why the last window could not be measured */
	uint64_t ticks, opened_ns, closed_ns;
	double share; /* of the node's CPU time, in the last window */
	uint64_t sheds;
	unsigned int calm, patience; /* in windows */
};

/* All must be loaded. One line on stderr if run time cannot be measured. */
void kpod_governor_open(struct kpod_governor *g, struct kpod_bpf *bpf, struct kpod_slots *slots,
			const struct kpod_options *options);

/* Before each snapshot: notes what programs have missed, governed or not. */
void kpod_programs_look(struct kpod_bpf *bpf);

/* Measures, sheds and restores. True: other collectors run now, so the schema is another. */
bool kpod_governor_tick(struct kpod_governor *g);
void kpod_governor_close(struct kpod_governor *g);

/* ---- snapshot.c: maps to segment ----------------------------------------------------------- */

struct kpod_stats {
	uint64_t snapshots, failures, rows_unmapped;
	uint64_t last_ns;   /* how long the last snapshot took */
	uint64_t last_size; /* its bytes in the ring */
};

struct kpod_publisher {
	const struct kpod_options *options;
	struct kpod_bpf *bpf;
	struct kpod_slots *slots;
	const struct kpod_governor *governor;
	struct kpod_writer writer;
	struct kpod_stats stats;
	void *schema;
	size_t schema_size;
	uint64_t start_monotonic_ns, start_realtime_ns;
	uint64_t begun_monotonic_ns, begun_realtime_ns; /* of the snapshot */
	uint64_t *words;				/* scratch: the longest row */
};

/* Makes the segment, takes the first snapshot and publishes it. */
int kpod_publisher_open(struct kpod_publisher *p);
int kpod_publisher_snapshot(struct kpod_publisher *p);

/* A new segment, because other collectors run now. */
int kpod_publisher_renew(struct kpod_publisher *p);
void kpod_publisher_close(struct kpod_publisher *p);

/* The loader's own tables, the first of every schema. */
#define KPOD_OWN_TABLES 6
extern const struct kpod_table kpod_own_tables[KPOD_OWN_TABLES];

/* Words that a table's keys take in a row of the segment. */
uint32_t kpod_key_words(const struct kpod_table *table);

/* ---- schema.c ------------------------------------------------------------------------------ */

/* The schema document of shared/README.md; *document is malloc'ed. */
int kpod_schema_encode(const struct kpod_bpf *bpf, void **document, size_t *size);

/* ---- view.c: people's view of a segment ---------------------------------------------------- */

struct kpod_view;

struct kpod_view *kpod_view_open(const char *path);
void kpod_view_close(struct kpod_view *view);

/* All rows of the last snapshot. -ENODATA: not LIVE, and one line on stderr has said so. */
int kpod_view_dump(struct kpod_view *view, bool json, FILE *out);

/* Bytes as a JSON string, printable ASCII: what is not is escaped byte by byte. */
void kpod_print_text(FILE *out, const char *text, size_t size);

/* A schema document as JSON. */
int kpod_view_schema(const void *document, size_t size, FILE *out);

/* Rates since the last call, the busiest slots first. */
int kpod_view_rates(struct kpod_view *view, FILE *out);

/* ---- privileges.c -------------------------------------------------------------------------- */

/* "" if the process may load BPF programs, else what it lacks. */
const char *kpod_missing_privilege(void);

/* False in a PID namespace of its own: iterators over tasks and their sockets end at its bounds. */
bool kpod_sees_all_tasks(void);
#define KPOD_OWN_PIDS                                                                              \
	"in a PID namespace of its own: tasks and connections older than the loader are not "      \
	"adopted (hostPID: true)"

/* For good, once all is attached; `loads`: collectors are to be loaded again later. */
void kpod_privileges_drop(const struct kpod_bpf *bpf, bool loads);

/* ---- doctor.c ------------------------------------------------------------------------------ */

/* Prints a line for everything it looks at; returns the exit status, 0 if all is well. */
int kpod_doctor(const struct kpod_options *options);

/* ---- verify.c ------------------------------------------------------------------------------ */

/* For tests: tries all programs and attachments there are. Returns the exit status. */
int kpod_verify(const struct kpod_options *options);

/* ---- events.c ------------------------------------------------------------------------------ */

/* Prints a line for each exec and exit until SIGINT or SIGTERM. On an error stderr has a line. */
int kpod_events_exec(bool json);

/* ---- main.c -------------------------------------------------------------------------------- */

uint64_t kpod_clock(clockid_t clock);
__attribute__((format(printf, 1, 2))) void kpod_log(const char *format, ...);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A collector: what it measures, how it attaches, and its tables, declared once. Everything else
 * (loading, schema, snapshots, help texts) is generic and made from this.
 */
#ifndef KPOD_LOADER_BASE_COLLECTOR_H
#define KPOD_LOADER_BASE_COLLECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/types.h>

#include "bpf/histogram.h"

enum kpod_column_kind { KPOD_COUNTER, KPOD_GAUGE, KPOD_HISTOGRAM };

struct kpod_column {
	const char *name; /* metric name, base units */
	const char *help;
	const char *label; /* a constant label, or NULL; columns of one name differ in value only */
	const char *value;
	const char *label2; /* another, or NULL */
	const char *value2;
	enum kpod_column_kind kind;
	uint8_t decimals;   /* 9: the word counts nanoseconds and is shown in seconds */
	uint16_t word;	    /* of a histogram: its first bucket */
	uint16_t sum;	    /* histograms: first word of the sum, … */
	uint16_t sum_words; /* … and how many words it is spread over */
	bool lasts;	    /* of a source's gauges: still true when the container has ended */
};

#define KPOD_WORD(row, field) (offsetof(struct row, field) / 8)
#define KPOD_SECONDS 9
#define KPOD_MICROSECONDS 6 /* what the word counts, shown in seconds */
#define KPOD_TIME_HISTOGRAM(row, field, sum_field)                                                 \
	.kind = KPOD_HISTOGRAM, .decimals = KPOD_SECONDS, .word = KPOD_WORD(row, field),           \
	.sum = KPOD_WORD(row, sum_field), .sum_words = sizeof(((struct row *)0)->sum_field) / 8

/* Since when the totals of a table count. */
enum kpod_since {
	KPOD_SINCE_COLLECTOR, /* since the collector runs and the slot is there */
	KPOD_SINCE_CGROUP,    /* the kernel counts them, since the cgroup is there */
	KPOD_SINCE_NETWORK,   /* likewise, since the network interface is there */
};

enum kpod_scope { KPOD_PER_SLOT, KPOD_PER_NODE };

struct kpod_names {
	const char *const *names;
	size_t count;
};

/* A label whose value differs from row to row. */
struct kpod_key {
	const char *label;
	const struct kpod_names *(*values)(void); /* by number; NULL: the number itself, or text */
	uint8_t words; /* of 8 bytes that hold it as text, NUL-padded; 0: it is a number */
	bool address;  /* text, which a unit has as an IPv6 address, or ~i for value i: two words */
	/*
	 * Only of the first key: the number is an owner's slot and, above it, its generation, and
	 * the labels of that owner are shown, each with `label`_ before its name; or it is ~i for
	 * name i of the values, which is then its `label`_scope.
	 */
	bool owner;
};

/*
 * Rows are the source's, or in a BPF ARRAY, [unit][shard]. A unit is
 *   - the slot, or, in tables of the node, 0;
 *   - the number in the only key, where there are `direct` of them; or
 *   - what bpf/units.bpf.h has handed out for a slot and key, in tables with `units`.
 * Gauges are set to zero before the collector's walks, which are to count them anew.
 */
struct kpod_table {
	const char *name;
	enum kpod_scope scope;
	enum kpod_since since;
	const char *map;   /* NULL: filled by the loader itself, or by the collector's source */
	uint32_t row_size; /* bytes of a row; in a map, a multiple of 64 */
	uint32_t words;	   /* of a row that are exported, from its start */
	const struct kpod_column *columns;
	size_t column_count;
	const struct kpod_key *keys;
	size_t key_count;
	uint32_t direct;
	const char *units;	 /* KPOD_UNITS(this) of the BPF object */
	uint32_t unit_capacity;	 /* of these, a multiple of 64; or, if that is more, … */
	uint32_t units_per_slot; /* … so many for each of --max-containers */
	uint32_t switched_by;	 /* KPOD_SWITCH() of what is 0 where there are no rows; or 0 */
	bool unsharded;		 /* one row a unit; all CPUs add to it atomically */
	bool disks; /* of counters, by units; the first key is the name that a disk had then */
	/*
	 * A row counts what is below its cgroup too. Rows of pods, whose containers have their own,
	 * are then a table of their own that follows this one, with names of their own (kpod_pod_…
	 * for kpod_cgroup_… and kpod_…): whoever sums over containers cannot take a pod for one
	 * more.
	 */
	bool inclusive;
};

/* Words that a table's keys take in a row of the segment. */
uint32_t kpod_key_words(const struct kpod_table *table);

/* A number of struct kpod_config, which does not begin with one of these. */
#define KPOD_SWITCH(field) offsetof(struct kpod_config, field)

#define KPOD_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define KPOD_COLUMNS(array) .columns = (array), .column_count = KPOD_COUNT(array)
#define KPOD_KEYS(array) .keys = (array), .key_count = KPOD_COUNT(array)

enum kpod_step_kind {
	KPOD_ATTACH,	    /* to the hook that its section names */
	KPOD_ATTACH_CGROUP, /* to the root of the cgroup2 hierarchy, beside those of others */
	KPOD_TAIL_CALL,	    /* into the map PROGRAM_call, for others of the object */
	KPOD_ATTACH_TWIN,   /* likewise; two that stand in for each other, so misses lose nothing */
	KPOD_RUN_ONCE,	    /* an iterator, read to its end */
	KPOD_PER_CPU,	    /* a raw_tp program, run on every CPU before each snapshot */
	KPOD_WALK,	    /* an iterator, read to its end before each snapshot */
	KPOD_LOAD,	    /* nothing more: the collector's source runs it */
	KPOD_CHECK,	    /* a syscall program, run once: -errno if the attachment cannot work */
};

struct kpod_step {
	const char *program;
	enum kpod_step_kind kind;
};

/* While a task is preempted in a program, the kernel leaves that out for others of its CPU. */
enum kpod_preemption {
	KPOD_NOTHING_PREEMPTS,
	KPOD_FUNCTIONS_PREEMPT,	  /* it may be in programs of functions (fentry, fexit), … */
	KPOD_TRACEPOINTS_PREEMPT, /* … and in those of tp_btf: since 7.0 */
};

struct kpod_cgroup_walk;
struct kpod_source;

/*
 * One way to attach; steps are taken in order. Programs that no step names are not loaded, and an
 * attachment without steps loads no object.
 */
struct kpod_attachment {
	const char *name;
	const struct kpod_step *steps;
	size_t step_count;
	const char *walked; /* the map whose elements its KPOD_WALK is for, or NULL */
	const char *omit;   /* a map that none of them uses and old kernels cannot make, or NULL */
	const char *lacks;  /* for people: what it does not do as well as the best, or NULL */
	enum kpod_preemption where;	     /* only for kernels that preempt these programs */
	const struct kpod_source *source;    /* in place of the collector's, or NULL */
	const struct kpod_cgroup_walk *walk; /* of kpod_cgroup_walk_source */
};

enum kpod_profile { KPOD_MINIMAL, KPOD_STANDARD, KPOD_COMPREHENSIVE, KPOD_PROFILES };

extern const char *const kpod_profile_names[KPOD_PROFILES];

struct bpf_object;
struct kpod_loaded;
struct kpod_options;
struct kpod_slots;

/*
 * Rows that the loader reads from files. Works beside a BPF object, or without one; then its only
 * attachment has no steps.
 */
struct kpod_source {
	/* Once all slots are known. -errno: it is down. May leave a note in l->reason. */
	int (*open)(struct kpod_loaded *l, struct kpod_slots *slots, const struct kpod_options *o);
	/* What may take long is begun early in a snapshot, in a thread, or NULL. */
	void (*begin)(struct kpod_loaded *l, struct kpod_slots *slots);
	void (*read)(struct kpod_loaded *l, struct kpod_slots *slots); /* for each snapshot */
	void (*close)(struct kpod_loaded *l);
};

struct kpod_collector {
	const char *name;
	const char *help;
	const char *owner;	     /* for people: whose an event is */
	const char *since;	     /* for people: the oldest kernel that has all it needs */
	enum kpod_profile profile;   /* the smallest that has it */
	const unsigned char *object; /* the BPF object file, or NULL */
	const unsigned char *object_end;
	const struct kpod_attachment *attachments; /* best first; the first that works is used */
	size_t attachment_count;
	const struct kpod_table *tables;
	size_t table_count;
	int (*prepare)(struct bpf_object *object); /* before it loads; -errno; or NULL */
	void (*started)(void);			   /* when it is attached, or NULL */
	bool makes_slots;	   /* its programs give containers the slots that all others need */
	bool never_shed;	   /* what it counts is rare, and nobody else tells of it */
	const char *sized_by_cpu;  /* a map with one element per possible CPU, or NULL */
	const char *sized_by_slot; /* a map with one element per slot, or NULL */
	const char *sized_by_sockets; /* a map with --max-sockets elements, or NULL */
	const struct kpod_source *source;
	uint64_t capabilities; /* that its source needs at work, a bit each; beside CAP_BPF */
	const struct kpod_cgroup_files *files; /* of kpod_cgroup_source */
};

/* All that there are, in the order in which they load; collectors/registry.c defines them. The
 * one that makes the slots is first. */
extern const struct kpod_collector *const kpod_collectors[];
extern const size_t kpod_collector_count;

#define KPOD_STEPS(...)                                                                            \
	.steps = (const struct kpod_step[]){__VA_ARGS__},                                          \
	.step_count = KPOD_COUNT(((const struct kpod_step[]){__VA_ARGS__}))

/*
 * Embeds build/bpf/NAME.bpf.o, which the build makes from bpf/NAME.bpf.c. Hidden, so that its
 * address is not taken from the global offset table: on arm64 the linker gives all local labels of
 * a section one entry there, and the object would be 0 bytes long.
 */
#define KPOD_OBJECT(name)                                                                          \
	__asm__(".pushsection .rodata\n.balign 16\n" #name "_object:\n.incbin \"" #name            \
		".bpf.o\"\n" #name "_object_end:\n.byte 0\n.popsection\n");                        \
	extern const unsigned char name##_object[] __attribute__((visibility("hidden"))),          \
		name##_object_end[] __attribute__((visibility("hidden")))
#define KPOD_EMBEDDED(name) .object = name##_object, .object_end = name##_object_end

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the C half of the aggregator offers to the Python half. build.py gives this file to cffi as
 * it is, so below the includes it holds plain declarations only.
 *
 * Everything here is single-threaded. Memory: Python owns the plan and the render state (ffi.new),
 * and frees snapshots (ffi.gc).
 */
#ifndef KPOD_NATIVE_H
#define KPOD_NATIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../../shared/reader.h"

/* What a scrape can be answered with, and how the bytes of labels and values are written in it. */
enum kpod_format { KPOD_TEXT, KPOD_OPENMETRICS, KPOD_PROTOBUF, KPOD_FORMATS };
enum kpod_encoding { KPOD_AS_TEXT, KPOD_AS_PROTOBUF, KPOD_ENCODINGS };

/*
 * Ours, and the same rows under cAdvisor's names; owners have labels of their own on each. On rows
 * of others that name an owner, it has those of KPOD_NAMED, which is no page.
 */
enum kpod_page { KPOD_OWN, KPOD_CADVISOR, KPOD_NAMED, KPOD_PAGES };

/* A piece of kpod_plan.text. */
struct kpod_text {
	uint32_t at;
	uint32_t size;
};

/* A value that a key's number stands for: escaped; as it is. */
struct kpod_value {
	struct kpod_text encoded[KPOD_ENCODINGS];
};

/*
 * A label whose value is a key word of the row: an index into values, or itself if there are none.
 * With text_words the value is the text in so many words, NUL-padded. With names_owner, which only
 * the first key has, the word names an owner, whose labels of KPOD_NAMED it is; or it is ~i for
 * value i, which is then whole labels, as kpod_snapshot_label() wants them.
 */
struct kpod_key {
	struct kpod_text
		label[KPOD_ENCODINGS]; /* ,name=" or the name's field and the value's tag */
	struct kpod_text prefix;       /* of the value; protobuf: it is in the label for text */
	uint32_t first_value;
	uint32_t value_count;
	uint32_t text_words;
	bool names_owner;
};

/* Since when totals count: since the loader counts for their owner, its cgroup is there, or its
 * network interfaces may be. */
enum kpod_since { KPOD_SINCE_COLLECTOR, KPOD_SINCE_CGROUP, KPOD_SINCE_NETWORK, KPOD_SINCES };

/* What the schema says of a table's rows. */
struct kpod_shape {
	uint32_t first_key;
	uint32_t key_count;
	uint32_t key_words; /* that the keys take in a row */
	uint32_t word_count;
	bool per_slot;
	enum kpod_since since;
	uint64_t started_ns; /* CLOCK_REALTIME: of the collector; 0: that is not known */
};

/* Where a value starts from: from nothing, the sample before it, or the time counting began (ns).
 */
enum kpod_base { KPOD_FROM_ZERO, KPOD_FROM_PREVIOUS, KPOD_FROM_CREATED };

/*
 * The value is the sum of `count` words from `first`, plus what it starts from, divided by
 * 10^decimals. This one form is counter and gauge (one word) as well as cumulative bucket, count
 * and sum, and time of creation. In text, it is a line: head, keys, labels of the row, value. In
 * protobuf, it is a Metric, and a histogram's value is its sum.
 */
struct kpod_sample {
	struct kpod_text head; /* name{ and constant labels; protobuf: constant labels */
	uint32_t first;
	uint32_t count;
	uint32_t decimals;
	enum kpod_base base;
	uint32_t histogram;   /* protobuf: index into histograms */
	uint32_t field;	      /* protobuf: of Metric, where the value goes */
	uint32_t optional;    /* 1 + the word that says whether there is a value; 0: there is */
	uint32_t counts;      /* of a container that has ended, there is no sample if these words */
	uint32_t count_words; /* are all zero; none: there is */
	bool opens;	      /* text: the head has no label, so what follows it needs no comma */
	bool created;	      /* protobuf: with the time of creation */
};

/* An upper bound, and how many buckets end at or below it. */
struct kpod_bound {
	double le;
	uint32_t buckets;
};

/* What protobuf shows of a histogram beyond its sum. */
struct kpod_histogram {
	uint32_t word;
	uint32_t buckets;
	int32_t schema;
	int32_t first_index; /* of bucket 1 in this schema; bucket 0 is the zero bucket */
	double zero_threshold;
	uint32_t first_bound;
	uint32_t bound_count; /* 0: no classic buckets */
	bool native;
};

/* A family in one format. */
struct kpod_view {
	struct kpod_text
		header; /* HELP, TYPE and UNIT lines; protobuf: all fields but the metrics */
	uint32_t first_sample;
	uint32_t sample_count;
	uint32_t line_size;  /* no line or Metric is longer, the labels of the row not counted */
	uint32_t heads_size; /* of all samples */
};

struct kpod_family {
	struct kpod_view views[KPOD_FORMATS];
	/* Of rows that have no slot, as kpod_snapshot_label() wants them. */
	struct kpod_text labels[KPOD_ENCODINGS];
	uint32_t table;
	uint32_t tables; /* from that one on, all of one shape, whose rows it has */
};

/*
 * A schema, made ready for rendering as one page. Python has checked every index and size in it.
 */
struct kpod_plan {
	enum kpod_page page;
	const char *text; /* readable to KPOD_TEXT_PAD bytes beyond its end */
	const struct kpod_shape *shapes;
	uint32_t shape_count;
	const struct kpod_key *keys;
	const struct kpod_value *values;
	const struct kpod_family *families;
	uint32_t family_count;
	const struct kpod_sample *samples;
	const struct kpod_histogram *histograms;
	const struct kpod_bound *bounds;
};

/* A SLOT record of a snapshot; path is not NUL-terminated. */
struct kpod_owner {
	uint32_t slot;
	uint32_t generation;
	uint64_t cgroup_id;
	uint64_t born_ns;
	uint64_t died_ns;
	uint32_t kind;
	uint32_t path_size;
	const char *path;
	uint64_t since_ns[KPOD_SINCES]; /* CLOCK_REALTIME */
	uint64_t digest;		/* once it has ended: of its rows */
	uint64_t settled; /* the first snapshot since which they are the same and shown */
	bool waits;	  /* it has ended, and too many others of its pod have */
	/* In the snapshot's own text; without text, the owner is not on that page. */
	struct kpod_text labels[KPOD_PAGES][KPOD_ENCODINGS];
};

struct kpod_row_ref {
	const uint64_t *words; /* keys, then values */
	const struct kpod_owner *owner;
};

/* One whole snapshot, its rows in order of their tables. Immutable once it is labelled. */
struct kpod_snapshot {
	uint64_t sequence;
	uint64_t monotonic_ns;
	uint64_t realtime_ns;
	uint64_t created_ns; /* of what has no owner: the loader's start */
	struct kpod_owner *owners;
	uint32_t owner_count;
	uint32_t unlabelled; /* owners that have no labels */
	uint32_t orphans;    /* rows whose slot is not in the snapshot: left out */
	uint32_t hidden;     /* rows whose owner has no labels: taken out */
	uint32_t ended;	     /* rows whose owner has ended, and which all readers have: taken out */
	uint32_t waiting;    /* owners that have ended, and are too many of their pod: taken out */
	struct kpod_row_ref *rows;
	uint32_t *first_row; /* by table; one more at the end */
	char *labels;
	size_t labels_size;
	size_t labels_room;
	uint64_t *data; /* the records */
};

/*
 * Takes the snapshot that the reader holds. Owners keep the labels they had in `previous`, which
 * may be NULL. NULL: the reader's state says why (a row of the wrong size, no memory).
 */
struct kpod_snapshot *kpod_snapshot_new(struct kpod_reader *reader, const struct kpod_plan *plan,
					const struct kpod_snapshot *previous);
void kpod_snapshot_free(struct kpod_snapshot *snapshot);

/* Since when the totals of a row count, CLOCK_REALTIME. `owner` may be NULL. */
uint64_t kpod_snapshot_created(const struct kpod_snapshot *snapshot, const struct kpod_shape *shape,
			       const struct kpod_owner *owner);

/*
 * Labels of one owner on one page, all that is between the constant labels and the value: as text,
 * ,name="value",name="value"} and a space, or for KPOD_NAMED without these; as protobuf, fields of
 * Metric. Both may be empty: the owner has none. False: longer than KPOD_LABELS_MAX, or no memory.
 */
bool kpod_snapshot_label(struct kpod_snapshot *snapshot, uint32_t owner, enum kpod_page page,
			 const char *text, size_t text_size, const char *protobuf,
			 size_t protobuf_size);

/* The owner that a word names: its slot and, above it, its generation. NULL: it is not there. */
const struct kpod_owner *kpod_snapshot_owner(const struct kpod_snapshot *snapshot, uint64_t word);

/*
 * Takes out the rows of owners without text on our page, those that name such an owner or one that
 * is not there, and the rows of owners that have ended and had the same rows in snapshot `seen`. Of
 * what is left of a pod's containers that have ended, no more than `ended_max` are shown, those
 * that ended last; when readers have these it is the others' turn. To be called once, after the
 * labelling. False: no memory.
 */
bool kpod_snapshot_hide(struct kpod_snapshot *snapshot, const struct kpod_plan *plan, uint64_t seen,
			uint32_t ended_max);

/* How many series are shown of a family, and how many series and about how many bytes of all. */
struct kpod_limits {
	uint64_t per_family;
	uint64_t series;
	uint64_t bytes;
};

/*
 * By family of the plan: how many rows of its table are looked at, and how many series of others
 * are cut. Whole rows that are too many in the text format are left out: the last ones of a
 * family, the last families. None of a family that has no value in any row. `left`: what at least
 * is left of the limits for others.
 */
void kpod_snapshot_show(const struct kpod_snapshot *snapshot, const struct kpod_plan *plan,
			const struct kpod_limits *limits, uint32_t *shown, uint64_t *cut,
			struct kpod_limits *left);

/* Where a rendering is; zeroed at the start. */
struct kpod_cursor {
	uint32_t family;
	uint32_t row; /* of the family's table */
	uint32_t sample;
	bool inside; /* the family's header has been written */
	uint64_t value;
	uint64_t samples; /* written so far */
};

/*
 * Writes the next piece of an exposition, of whole lines or messages, into KPOD_CHUNK_SIZE bytes:
 * text format 0.0.4, OpenMetrics 1.0 without its end mark, or length-delimited
 * io.prometheus.client.MetricFamily. Returns its size, 0 at the end.
 */
size_t kpod_render(struct kpod_cursor *at, const struct kpod_plan *plan,
		   const struct kpod_snapshot *snapshot, const uint32_t *shown,
		   enum kpod_format format, char *out);

/*
 * The last minutes of every container, for the page at /: a ring of KPOD_HISTORY_POINTS points, and
 * of each point KPOD_QUANTITIES values of a container. A counter's value is its rate since the
 * point before.
 */
enum kpod_quantity {
	KPOD_CPU,
	KPOD_WAIT,
	KPOD_THROTTLED,
	KPOD_MEMORY,
	KPOD_BLOCK_IO,
	KPOD_RETRANSMITS,
	KPOD_DROPS,
	KPOD_QUANTITIES
};

/* A column that is added up into a quantity. Python has checked table and word. */
struct kpod_history_source {
	enum kpod_quantity quantity;
	uint32_t table;
	uint32_t word; /* behind the keys */
	double scale;
	bool gauge;
	bool optional;
};

#define KPOD_HISTORY_POINTS 60
#define KPOD_HISTORY_OWNERS_MAX 2048

struct kpod_track {
	uint32_t slot;
	uint32_t generation;
	uint64_t cgroup_id;
	uint64_t first; /* the number of its first point */
	double totals[KPOD_QUANTITIES];
	float values[KPOD_QUANTITIES][KPOD_HISTORY_POINTS]; /* NaN: not known */
};

struct kpod_history {
	uint64_t points; /* taken so far; point n is at n % KPOD_HISTORY_POINTS */
	uint64_t at_ns[KPOD_HISTORY_POINTS];
	struct kpod_track **tracks; /* in order of their slots */
	uint32_t track_count;
	uint32_t untracked; /* containers beyond KPOD_HISTORY_OWNERS_MAX at the last point */
};

struct kpod_history *kpod_history_new(void);
void kpod_history_free(struct kpod_history *h);

/*
 * Takes a point. Tracks go with the containers that have ended or are not shown. All of it goes if
 * the snapshot is another loader's: kpod_history_clear(). False: no memory, and nothing has
 * changed.
 */
bool kpod_history_add(struct kpod_history *h, const struct kpod_snapshot *s,
		      const struct kpod_plan *plan, const struct kpod_history_source *sources,
		      uint32_t source_count);
void kpod_history_clear(struct kpod_history *h);

/* By owner of the snapshot: the index of its track, or UINT32_MAX. */
void kpod_history_find(const struct kpod_history *h, const struct kpod_snapshot *s,
		       uint32_t *tracks);

/* The sum over some tracks, by point from the oldest on; NaN where none of them knows it. */
void kpod_history_sum(const struct kpod_history *h, const uint32_t *tracks, uint32_t count,
		      enum kpod_quantity quantity, double out[KPOD_HISTORY_POINTS]);

/*
 * Table cells of one row, <td>text<svg><path></svg></td> for each quantity, and the last values.
 * Returns the size of what is in `out`, at most KPOD_HISTORY_CELLS_SIZE.
 */
size_t kpod_history_cells(const struct kpod_history *h, const uint32_t *tracks, uint32_t count,
			  double last[KPOD_QUANTITIES], char *out);

/* The value for people, with its unit; "-" if it is not known. At most 32 bytes. */
size_t kpod_history_text(enum kpod_quantity quantity, double value, char *out);

/* The d of a path over `width` and `height` units; at most KPOD_HISTORY_PATH_SIZE bytes. */
size_t kpod_history_path(const struct kpod_history *h, enum kpod_quantity quantity,
			 const double values[KPOD_HISTORY_POINTS], uint32_t width, uint32_t height,
			 char *out);

#define KPOD_HISTORY_PATH_SIZE 1024
#define KPOD_HISTORY_CELLS_SIZE 8192

/*
 * For good: no new privileges, and EPERM for system calls that serving metrics never makes. Before
 * there are threads. -errno: the kernel has no filters.
 */
int kpod_confine(void);

/*
 * For good: files may be made, changed and removed below these directories only, a list that ends
 * with NULL, and signals go to children only (Linux 6.12 and later). Before there are threads.
 * Returns the version of the kernel's Landlock, 0 if it has none, or -errno.
 */
int kpod_landlock(const char *const *writable);

#define KPOD_TEXT_PAD 160     /* how far beyond the end of a text its bytes may be read */
#define KPOD_LABELS_MAX 16384 /* of an owner */
#define KPOD_LINE_MAX 32768   /* kpod_view.line_size, and a header */
#define KPOD_CHUNK_SIZE 65536
#define KPOD_HISTOGRAM_BUCKETS_MAX 1024

#endif

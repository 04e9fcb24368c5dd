/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mounts of each container, from /proc/PID/mountinfo of one of its processes, and statfs() of each
 * through /proc/PID/root. Nothing is kept open: an open file would keep a volume from being
 * unmounted.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/capability.h>

#include "base/clock.h"
#include "base/parse.h"
#include "cgroups/slots.h"
#include "shared/abi.h"
#include "sources/pass.h"
#include "sources/statfs.h"
#include "sources/tasks.h"

KPOD_OBJECT(tasks);

struct filesystem_row {
	uint64_t size, used, available, inodes, inodes_used;
};

struct filesystem_reads_row {
	uint64_t errors, cut;
	uint64_t failed, waiting, unasked, many, long_name, same_name; /* left out */
};

#define POINT_WORDS 16 /* 128 bytes of a mount point; the most that a key may have */
#define TEXT_MAX (256 << 10)
#define LINES_MAX 4096

/* What is needed of each line of mountinfo to see which mounts hide which. */
struct line {
	uint64_t id, parent;
	struct kpod_span point;
};

struct state {
	struct kpod_tasks tasks;
	struct kpod_bpf *bpf;
	struct kpod_pass *pass;
	struct kpod_statfs *statfs;
	uint64_t wait_until_ns;
	bool late;			    /* the last pass took longer than was waited for it */
	struct filesystem_reads_row *reads; /* two: the snapshot's, and the pass's */
	/* The pass's, while it runs: */
	struct kpod_task_slot *slots;
	size_t slot_count, line_count;
	struct line lines[LINES_MAX];
	char text[TEXT_MAX];
};

/* File systems that hold no data; and overlay, which is a container's image on the node's disk. */
static const char *const no_disks[] = {
	"autofs",     "binfmt_misc", "bpf",	 "cgroup",   "cgroup2", "configfs",
	"debugfs",    "devpts",	     "devtmpfs", "efivarfs", "fusectl", "hugetlbfs",
	"mqueue",     "nsfs",	     "overlay",	 "proc",     "pstore",	"rpc_pipefs",
	"securityfs", "selinuxfs",   "sysfs",	 "tracefs",
};

static bool is_below(const char *point, const char *directory)
{
	size_t size = strlen(directory);

	return !strncmp(point, directory, size) && (!point[size] || point[size] == '/');
}

/* Whether the mount is a container's own business: not its root, not what a runtime hides /proc
 * with. */
static bool is_wanted(const struct kpod_mount *mount, const char *point)
{
	for (size_t i = 0; i < KPOD_COUNT(no_disks); i++)
		if (kpod_span_is(mount->type, no_disks[i]))
			return false;
	return strcmp(point, "/") && strcmp(point, "/dev") && !is_below(point, "/proc") &&
	       !is_below(point, "/sys");
}

static bool is_same_span(struct kpod_span a, struct kpod_span b)
{
	return a.size == b.size && !memcmp(a.at, b.at, a.size);
}

/* Whether a path is a directory above another; both are escaped in one way. */
static bool is_above(struct kpod_span above, struct kpod_span path)
{
	return above.size < path.size && !memcmp(above.at, path.at, above.size) &&
	       (above.size == 1 || path.at[above.size] == '/');
}

/*
 * Whether a path look-up does not come to this mount: something is mounted on its root; or on a
 * directory above it, on the same mount; or what it is mounted on is hidden so.
 */
static bool is_hidden(const struct state *s, const struct line *mount)
{
	for (int depth = 0; mount && depth < 32; depth++) {
		const struct line *parent = NULL;

		for (size_t i = 0; i < s->line_count; i++) {
			const struct line *l = &s->lines[i];

			if (!depth && l->parent == mount->id && l != mount &&
			    is_same_span(l->point, mount->point))
				return true;
			if (l->parent == mount->parent && is_above(l->point, mount->point))
				return true;
			if (l->id == mount->parent && l != mount)
				parent = l;
		}
		mount = parent;
	}
	return false;
}

static bool parse_line(struct kpod_span text, struct kpod_mount *mount, struct line *line)
{
	if (!kpod_parse_mount(text, mount))
		return false;
	line->point = mount->point;
	return kpod_number(mount->id, &line->id) && kpod_number(mount->parent, &line->parent);
}

static void add_mount(struct state *s, struct kpod_statfs_map *map, struct kpod_span text)
{
	char point[KPOD_STATFS_POINT];
	struct kpod_mount mount;
	struct line line;
	int err;

	if (!parse_line(text, &mount, &line))
		return;
	if (!kpod_unescape(mount.point, point, sizeof(point))) {
		s->reads[1].long_name++;
		return;
	}
	if (!is_wanted(&mount, point))
		return;
	err = kpod_statfs_map_mount(map, &mount, is_hidden(s, &line));
	s->reads[1].many += err == -E2BIG;
	s->reads[1].long_name += err == -ENAMETOOLONG;
	s->reads[1].failed += err == -ENOMEM;
}

/* The mounts of a container, as one of its processes sees them. */
static void find_mounts(struct state *s, struct kpod_statfs_map *map,
			const struct kpod_statfs_container *c)
{
	int process = kpod_tasks_open_process(&s->tasks, c->slot);
	ssize_t size =
		process < 0 ? process : kpod_task_read(process, "mountinfo", s->text, TEXT_MAX);
	struct kpod_span text = {.at = s->text}, rest, line;
	struct kpod_mount mount;

	if (process >= 0)
		close(process);
	if (size < 0) { /* it has ended, or does not let us see it */
		s->reads[1].errors += size != -ESRCH && size != -ENOENT && size != -EINVAL;
		return;
	}
	text.size = (size_t)size;
	if (size == TEXT_MAX) { /* the last line was cut */
		const char *end = memrchr(s->text, '\n', TEXT_MAX);

		text.size = end ? (size_t)(end + 1 - s->text) : 0;
		s->reads[1].many++;
	}
	s->line_count = 0;
	for (rest = text; s->line_count < LINES_MAX && kpod_next_line(&rest, &line);)
		s->line_count += parse_line(line, &mount, &s->lines[s->line_count]);
	if (!kpod_statfs_map_container(map, c))
		return;
	while (kpod_next_line(&text, &line))
		add_mount(s, map, line);
}

/* In the pass's thread: finds all mounts, has them asked, and stays until that is done. */
static void run_pass(void *context)
{
	struct state *s = context;
	struct kpod_statfs_map *map;

	if (!kpod_tasks_find(&s->tasks, s->bpf))
		return;
	map = kpod_statfs_map_new();
	for (size_t i = 0; map && i < s->slot_count && !kpod_pass_is_stopping(s->pass); i++) {
		const struct kpod_task_slot *slot = &s->slots[i];
		const struct kpod_task *task = &s->tasks.of[slot->slot];
		struct kpod_statfs_container c = {slot->slot, slot->generation, task->pid,
						  task->start_ns};

		if (task->since_ns && slot->kind != KPOD_CGROUP_UNIT &&
		    task->mnt != s->tasks.of[0].mnt)
			find_mounts(s, map, &c);
	}
	if (!map)
		return;
	kpod_statfs_ask(s->statfs, map);
	while (!kpod_pass_is_stopping(s->pass) && !kpod_statfs_is_settled(s->statfs))
		;
}

static int open_process(void *context, const struct kpod_statfs_container *c)
{
	const struct state *s = context;

	return kpod_task_open(s->tasks.proc, c->pid, c->start_ns);
}

/* What a snapshot puts its rows into. */
struct showing {
	struct state *s;
	struct kpod_slots *slots;
	struct kpod_kept *kept;
};

static void add_row(struct state *s, struct kpod_kept *kept, const struct kpod_statfs_seen *m)
{
	uint64_t *row = kpod_kept_add(kept, m->slot, m->generation), *words = row + POINT_WORDS;
	const struct kpod_statfs_values *v = &m->values;

	if (!row)
		return;
	s->reads[0].cut += !kpod_kept_text(row, POINT_WORDS, m->point, strlen(m->point));
	words[KPOD_WORD(filesystem_row, size)] = v->size;
	words[KPOD_WORD(filesystem_row, used)] = v->size - v->free;
	words[KPOD_WORD(filesystem_row, available)] = v->available;
	if (v->inodes) { /* btrfs has no such limit */
		words[KPOD_WORD(filesystem_row, inodes)] = v->inodes;
		words[KPOD_WORD(filesystem_row, inodes_used)] = v->inodes - v->inodes_free;
	}
	s->reads[0].same_name += !kpod_kept_settle(kept);
}

static void show(void *context, const struct kpod_statfs_seen *m)
{
	struct showing *to = context;
	const struct kpod_slot_info *info = kpod_slot_info(to->slots, m->slot);
	struct filesystem_reads_row *reads = &to->s->reads[0];

	if (!info || !to->slots->visible[m->slot] || info->died_ns ||
	    info->generation != m->generation)
		return;
	if (m->state == KPOD_STATFS_ANSWERED && m->values.size)
		add_row(to->s, to->kept, m);
	reads->waiting += m->state == KPOD_STATFS_WAITING;
	reads->unasked += m->state == KPOD_STATFS_UNASKED;
	reads->failed += m->state == KPOD_STATFS_FAILED && m->err != -ENOENT &&
			 m->err != -ENOTDIR && m->err != -ESRCH;
}

static void begin_pass(struct kpod_loaded *l, struct kpod_slots *slots)
{
	struct state *s = l->state;

	if (!kpod_pass_wait(s->pass, 0))
		return;
	s->late = false;
	s->slot_count = kpod_tasks_begin(&s->tasks, slots, s->slots);
	s->reads[0].errors += !kpod_pass_begin(s->pass);
	s->wait_until_ns = kpod_clock(CLOCK_MONOTONIC) + KPOD_PASS_PATIENCE_NS;
}

static void read_all(struct kpod_loaded *l, struct kpod_slots *slots)
{
	struct kpod_kept *kept = &l->tables[0].kept, *own = &l->tables[1].kept;
	struct state *s = l->state;
	uint64_t *reads;

	s->late = !kpod_pass_wait(s->pass, s->late ? 0 : s->wait_until_ns);
	kpod_kept_begin(kept);
	kpod_statfs_visit(s->statfs, show, &(struct showing){s, slots, kept});
	kpod_kept_begin(own);
	reads = kpod_kept_add(own, 0, 0);
	for (size_t i = 0; reads && i < sizeof(*s->reads) / 8; i++)
		reads[i] = ((uint64_t *)&s->reads[0])[i] +
			   __atomic_load_n((uint64_t *)&s->reads[1] + i, __ATOMIC_RELAXED);
}

static void close_state(struct kpod_loaded *l)
{
	struct state *s = l->state;

	/* What does not come back keeps all this; there is no end to wait for. */
	if ((s->pass && !kpod_pass_close(s->pass)) || (s->statfs && !kpod_statfs_free(s->statfs)))
		return;
	kpod_tasks_close(&s->tasks, s->bpf);
	free(s->reads);
	free(s->slots);
	free(s);
}

static int open_state(struct kpod_loaded *l, struct kpod_slots *slots, const struct kpod_options *o)
{
	uint32_t count = slots->bpf->max_containers;
	struct state *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	l->state = s;
	s->bpf = slots->bpf;
	s->reads = calloc(2, sizeof(*s->reads));
	s->slots = calloc(count, sizeof(*s->slots));
	s->pass = kpod_pass_new(run_pass, s);
	s->statfs = kpod_statfs_new(open_process, s);
	if (!s->reads || !s->slots || !s->pass || !s->statfs)
		return -ENOMEM;
	return kpod_tasks_open(&s->tasks, l, slots->bpf, o);
}

static const struct kpod_source source = {
	.open = open_state, .begin = begin_pass, .read = read_all, .close = close_state};

#define TO(field) .kind = KPOD_GAUGE, .word = KPOD_WORD(filesystem_row, field)

static const struct kpod_column columns[] = {
	{"kpod_filesystem_size_bytes",
	 "Size of the file system at a mount point of the container (statfs f_blocks).", TO(size)},
	{"kpod_filesystem_used_bytes",
	 "File system space in use, by this container or anybody else (statfs f_blocks - f_bfree).",
	 TO(used)},
	{"kpod_filesystem_available_bytes",
	 "File system space available to unprivileged processes (statfs f_bavail).", TO(available)},
	{"kpod_filesystem_inodes",
	 "Inodes of the file system (statfs f_files); no sample where it has no limit or does not "
	 "say.",
	 TO(inodes)},
	{"kpod_filesystem_inodes_used",
	 "Inodes of the file system that are in use (statfs f_files - f_ffree).", TO(inodes_used)},
};

static const struct kpod_key keys[] = {{.label = "mountpoint", .words = POINT_WORDS}};

#define READS(field) .kind = KPOD_COUNTER, .word = KPOD_WORD(filesystem_reads_row, field)

#define LEFT_OUT(why, field)                                                                       \
	{                                                                                          \
		"kpod_filesystem_left_out_total",                                                  \
			"Mounts of containers left out of a snapshot, by reason: error (open() "   \
			"or "                                                                      \
			"statfs() failed), no_answer (asked, but without an answer for a "         \
			"minute), "                                                                \
			"unasked (the threads that may ask wait for other volumes of the "         \
			"container, or all are busy), too_many (over 32 in a container), "         \
			"name_too_long (a mount point of over 1023 bytes), same_name (two whose "  \
			"first 128 bytes are alike).",                                             \
			"reason", why, READS(field)                                                \
	}

static const struct kpod_column reads_columns[] = {
	{"kpod_filesystem_read_errors_total", "Containers whose list of mounts could not be read.",
	 READS(errors)},
	{"kpod_filesystem_names_cut_total", "Mount points shown as their first 128 bytes.",
	 READS(cut)},
	LEFT_OUT("error", failed),
	LEFT_OUT("no_answer", waiting),
	LEFT_OUT("unasked", unasked),
	LEFT_OUT("too_many", many),
	LEFT_OUT("name_too_long", long_name),
	LEFT_OUT("same_name", same_name),
};

static const struct kpod_table tables[] = {
	{.name = "filesystem",
	 .scope = KPOD_PER_SLOT,
	 .row_size = sizeof(struct filesystem_row),
	 .words = sizeof(struct filesystem_row) / 8,
	 KPOD_COLUMNS(columns),
	 KPOD_KEYS(keys)},
	{.name = "filesystem_reads",
	 .scope = KPOD_PER_NODE,
	 .row_size = sizeof(struct filesystem_reads_row),
	 .words = sizeof(struct filesystem_reads_row) / 8,
	 KPOD_COLUMNS(reads_columns)},
};

static const struct kpod_attachment attachments[] = {KPOD_TASKS_ATTACHMENTS};

const struct kpod_collector kpod_collector_filesystem = {
	.name = "filesystem",
	.help = "size and use of each container's volumes, by statfs()",
	.owner = "the container that has it mounted",
	.since = "5.10",
	.profile = KPOD_STANDARD,
	KPOD_EMBEDDED(tasks),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
	.sized_by_slot = "tasks",
	.capabilities = 1ULL << CAP_SYS_PTRACE | 1ULL << CAP_DAC_READ_SEARCH,
	.source = &source,
};

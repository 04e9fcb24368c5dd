/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mounts of each container, from /proc/PID/mountinfo of one of its processes, and statfs() of each
 * through /proc/PID/root. Nothing is kept open: an open file would keep a volume from being
 * unmounted.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/capability.h>

#include "base/parse.h"
#include "cgroups/slots.h"
#include "shared/abi.h"
#include "sources/statfs.h"
#include "sources/tasks.h"

KPOD_OBJECT(tasks);

struct filesystem_row {
	uint64_t size, used, available, inodes, inodes_used;
};

struct filesystem_reads_row {
	uint64_t errors, timeouts, left_out, cut;
};

#define POINT_WORDS 16 /* 128 bytes of a mount point; the most that a key may have */
#define MOUNTS_MAX 32
#define TEXT_MAX (256 << 10)

struct state {
	struct kpod_tasks tasks;
	struct kpod_statfs *statfs;
	struct filesystem_reads_row reads;
	bool timed_out; /* in this pass: one time-out is what a snapshot waits at most */
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

static void add_mount(struct state *s, struct kpod_statfs_batch *batch, struct kpod_span line)
{
	struct kpod_statfs_mount m = {};
	struct kpod_mount mount;

	if (!kpod_parse_mount(line, &mount) || !kpod_number(mount.id, &m.id) ||
	    mount.device.size >= sizeof(m.device))
		return;
	if (!kpod_unescape(mount.point, m.point, sizeof(m.point))) {
		s->reads.left_out++;
		return;
	}
	if (!is_wanted(&mount, m.point))
		return;
	if (batch->count == KPOD_STATFS_MOUNTS) {
		s->reads.left_out++;
		return;
	}
	memcpy(m.device, mount.device.at, mount.device.size);
	batch->mounts[batch->count++] = m;
}

/* Fills in the batch. False: the process has ended, or does not let us see it. */
static bool find_mounts(struct state *s, struct kpod_statfs_batch *batch, uint32_t slot)
{
	struct kpod_span text = {.at = s->text}, line;
	ssize_t size;

	batch->process = kpod_task_open(&s->tasks, slot);
	size = batch->process < 0 ? batch->process
				  : kpod_task_read(batch->process, "mountinfo", s->text, TEXT_MAX);
	if (size < 0) {
		s->reads.errors += size != -ESRCH && size != -ENOENT && size != -EINVAL;
		if (batch->process >= 0)
			close(batch->process);
		return false;
	}
	text.size = (size_t)size;
	while (kpod_next_line(&text, &line)) {
		if (!text.size && size == TEXT_MAX) /* this line was cut */
			s->reads.left_out++;
		else
			add_mount(s, batch, line);
	}
	return true;
}

static void add_row(struct state *s, struct kpod_kept *kept, uint32_t slot, uint32_t generation,
		    const struct kpod_statfs_mount *m)
{
	uint64_t *row = kpod_kept_add(kept, slot, generation), *words = row + POINT_WORDS;

	if (!row)
		return;
	s->reads.cut += !kpod_kept_text(row, POINT_WORDS, m->point, strlen(m->point));
	words[KPOD_WORD(filesystem_row, size)] = m->size;
	words[KPOD_WORD(filesystem_row, used)] = m->size - m->free;
	words[KPOD_WORD(filesystem_row, available)] = m->available;
	if (m->inodes) { /* btrfs has no such limit */
		words[KPOD_WORD(filesystem_row, inodes)] = m->inodes;
		words[KPOD_WORD(filesystem_row, inodes_used)] = m->inodes - m->inodes_free;
	}
	s->reads.left_out += !kpod_kept_settle(kept);
}

/* False: it was not looked at, and what was known of it is as true as before. */
static bool read_slot(struct state *s, struct kpod_kept *kept, uint32_t slot, uint32_t generation)
{
	struct kpod_statfs_batch *batch = s->timed_out ? NULL : kpod_statfs_batch(s->statfs);
	const struct kpod_statfs_batch *answers;
	size_t asked;

	if (!batch) {
		s->reads.timeouts += !s->timed_out;
		return !s->timed_out;
	}
	if (!find_mounts(s, batch, slot))
		return true;
	asked = batch->count;
	answers = kpod_statfs_ask(s->statfs);
	for (size_t i = 0; i < answers->count; i++) {
		const struct kpod_statfs_mount *m = &answers->mounts[i];

		if (!m->err && m->size)
			add_row(s, kept, slot, generation, m);
		s->reads.timeouts += m->err == -ETIMEDOUT;
		s->reads.errors += m->err && m->err != -ETIMEDOUT && m->err != -ENOENT &&
				   m->err != -ENOTDIR && m->err != -ESRCH;
	}
	s->timed_out = answers->count < asked;
	s->reads.timeouts += s->timed_out;
	return true;
}

static void read_all(struct kpod_loaded *l, struct kpod_slots *slots)
{
	struct kpod_kept *kept = &l->tables[0].kept, *own = &l->tables[1].kept;
	struct state *s = l->state;
	uint64_t *reads;

	kpod_tasks_find(&s->tasks, slots->bpf);
	s->timed_out = false;
	kpod_kept_begin(kept);
	for (uint32_t slot = 1; slot < slots->scanned; slot++) {
		const struct kpod_slot_info *info = kpod_slot_info(slots, slot);
		const struct kpod_task *task = &s->tasks.of[slot];

		if (!info || !slots->visible[slot] || info->died_ns || !task->start_ns ||
		    info->kind == KPOD_CGROUP_UNIT || task->mnt == s->tasks.of[0].mnt)
			continue;
		if (!read_slot(s, kept, slot, info->generation))
			kpod_kept_keep(kept, slot, info->generation, false);
	}
	kpod_kept_begin(own);
	reads = kpod_kept_add(own, 0, 0);
	if (reads)
		memcpy(reads, &s->reads, sizeof(s->reads));
}

static void close_state(struct kpod_loaded *l)
{
	struct state *s = l->state;

	kpod_tasks_close(&s->tasks);
	if (s->statfs)
		kpod_statfs_free(s->statfs);
	free(s);
}

static int open_state(struct kpod_loaded *l, struct kpod_slots *slots, const struct kpod_options *o)
{
	struct state *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	l->state = s;
	s->statfs = kpod_statfs_new();
	if (!s->statfs)
		return -ENOMEM;
	return kpod_tasks_open(&s->tasks, l, slots->bpf->max_containers, o);
}

static const struct kpod_source source = {open_state, read_all, close_state};

#define TO(field) .kind = KPOD_GAUGE, .word = KPOD_WORD(filesystem_row, field)

static const struct kpod_column columns[] = {
	{"kpod_filesystem_size_bytes", "Size of the file system of a container's mount.", TO(size)},
	{"kpod_filesystem_used_bytes", "Of this, in use, by whomever.", TO(used)},
	{"kpod_filesystem_available_bytes", "Of this, free to who is not root.", TO(available)},
	{"kpod_filesystem_inodes", "Inodes of the file system; none: it has no limit.", TO(inodes)},
	{"kpod_filesystem_inodes_used", "Of these, in use.", TO(inodes_used)},
};

static const struct kpod_key keys[] = {{.label = "mountpoint", .words = POINT_WORDS}};

#define READS(field) .kind = KPOD_COUNTER, .word = KPOD_WORD(filesystem_reads_row, field)

static const struct kpod_column reads_columns[] = {
	{"kpod_filesystem_read_errors_total", "Containers and mounts that could not be looked at.",
	 READS(errors)},
	{"kpod_filesystem_timeouts_total",
	 "Mounts left out of a snapshot because they did not answer within a second, or had not "
	 "before; containers, while too many such mounts are waited for.",
	 READS(timeouts)},
	{"kpod_filesystem_left_out_total",
	 "Mounts left out of a snapshot: more than 32 in a container, two of one name, or a mount "
	 "point of over 1023 bytes.",
	 READS(left_out)},
	{"kpod_filesystem_names_cut_total", "Mount points shown as their first 128 bytes.",
	 READS(cut)},
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

/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "sources/cgroupfs.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "cgroups/slots.h"
#include "kernel/load.h"

#define TEXT_MAX 65536
#define LOOK_AGAIN_NS (30 * KPOD_SECOND) /* for files that were not there */

enum { NOT_OPEN = -1, NOT_THERE = -2 };

struct reader {
	const struct kpod_cgroup_files *spec;
	int root;
	int *fds;	      /* [slot][file] */
	uint64_t *look_again; /* [slot]: when to try what was not there */
	uint32_t *generation; /* [slot]: whose all this is */
	uint64_t *errors;     /* [file] */
	uint32_t slots;
};

/* Of the process, so all readers share them; the loader has one thread that reads cgroups. */
static char text[TEXT_MAX];
static uint64_t files_open, files_max;

static int *fd_of(struct reader *r, uint32_t slot, size_t file)
{
	return &r->fds[slot * r->spec->count + file];
}

static void close_file(int *fd)
{
	if (*fd >= 0) {
		close(*fd);
		files_open--;
	}
	*fd = NOT_OPEN;
}

static void forget(struct reader *r, uint32_t slot)
{
	for (size_t i = 0; i < r->spec->count; i++)
		close_file(fd_of(r, slot, i));
	r->look_again[slot] = 0;
}

/* The slot's directory, by its inode too: a later one may have its name. -ENOENT: it is gone. */
static int open_directory(const struct reader *r, const struct kpod_slot_info *info)
{
	struct stat st;
	int fd;

	if (info->path_size < 2)
		return -ENOENT;
	fd = openat(r->root, info->path + 1, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (!fstat(fd, &st) && st.st_ino == info->cgroup_id)
		return fd;
	close(fd);
	return -ENOENT;
}

static bool is_gone(const struct reader *r, const struct kpod_slot_info *info)
{
	int fd = open_directory(r, info);

	if (fd >= 0)
		close(fd);
	return fd == -ENOENT;
}

/*
 * The file's text; its size, or -errno. Opens the directory when it has to and leaves that to the
 * caller to close.
 */
static ssize_t read_file(struct reader *r, const struct kpod_slot_info *info, size_t file, int *fd,
			 int *directory)
{
	int once = *fd;
	ssize_t size;

	if (*fd < 0) {
		if (*directory < 0)
			*directory = open_directory(r, info);
		if (*directory < 0)
			return *directory;
		once = openat(*directory, r->spec->files[file].name,
			      O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		if (once < 0)
			return -errno;
		if (files_open < files_max) {
			files_open++;
			*fd = once;
		}
	}
	size = pread(once, text, sizeof(text), 0);
	size = size < 0 ? -errno : size;
	if (*fd < 0)
		close(once);
	return size;
}

/* Of a text that was cut, only the whole lines. */
static size_t whole_lines(size_t size)
{
	const char *end = memrchr(text, '\n', size);

	return end ? (size_t)(end + 1 - text) : 0;
}

static void parse_lines(struct reader *r, struct kpod_kept *kept, uint32_t slot, size_t file,
			struct kpod_span rest)
{
	const struct kpod_cgroup_file *f = &r->spec->files[file];
	struct kpod_span line;

	while (kpod_next_line(&rest, &line)) {
		uint64_t *row = kpod_kept_add(kept, slot, r->generation[slot]);

		if (row && r->spec->key(line, row))
			r->errors[file] += kpod_parse_line(line, f->fields, f->field_count,
							   row + kept->key_words) > 0;
		if (row)
			kpod_kept_settle(kept);
	}
}

/* What a file could not give is absent from the row, and nothing else. False: the cgroup is gone.
 */
static bool read_slot(struct reader *r, struct kpod_kept *kept, uint32_t slot,
		      const struct kpod_slot_info *info, uint64_t now)
{
	const struct kpod_cgroup_files *spec = r->spec;
	uint64_t *row = spec->key ? NULL : kpod_kept_add(kept, slot, r->generation[slot]);
	bool again = now >= r->look_again[slot], gone = false;
	size_t rows = kept->now.count - (row != NULL);
	int directory = -1;

	for (size_t i = 0; i < spec->count && !gone && (row || spec->key); i++) {
		const struct kpod_cgroup_file *f = &spec->files[i];
		int *fd = fd_of(r, slot, i);
		ssize_t size;

		if (*fd == NOT_THERE && !again)
			continue;
		size = read_file(r, info, i, fd, &directory);
		if (size < 0) {
			close_file(fd);
			gone = (size == -ENOENT || size == -ENODEV) && is_gone(r, info);
			if (size == -ENOENT || size == -ENODEV || size == -EOPNOTSUPP) {
				*fd = NOT_THERE;
				if (again)
					r->look_again[slot] = now + LOOK_AGAIN_NS +
							      slot % 64 * (LOOK_AGAIN_NS / 64);
			} else {
				r->errors[i]++;
			}
			continue;
		}
		if (size == TEXT_MAX) {
			size = (ssize_t)whole_lines(TEXT_MAX);
			r->errors[i]++;
		}
		if (spec->key)
			parse_lines(r, kept, slot, i, (struct kpod_span){text, (size_t)size});
		else
			r->errors[i] += !size || kpod_parse((struct kpod_span){text, (size_t)size},
							    f->fields, f->field_count,
							    row + kept->key_words);
	}
	if (directory >= 0)
		close(directory);
	if (gone)
		kept->now.count = rows;
	else if (row && spec->derive)
		spec->derive(row + kept->key_words);
	if (row && !gone)
		kpod_kept_settle(kept);
	return !gone;
}

static void read_all(struct kpod_loaded *l, struct kpod_slots *slots)
{
	struct kpod_kept *kept = &l->tables[0].kept;
	struct reader *r = l->state;
	uint64_t now = kpod_clock(CLOCK_MONOTONIC);

	kpod_kept_begin(kept);
	if (r->spec->begin)
		r->spec->begin();
	for (uint32_t slot = 1; slot < slots->scanned; slot++) {
		const struct kpod_slot_info *info = kpod_slot_info(slots, slot);

		if (!info || !slots->visible[slot]) {
			forget(r, slot);
			continue;
		}
		if (r->generation[slot] != info->generation)
			forget(r, slot);
		r->generation[slot] = info->generation;
		if (!info->died_ns && read_slot(r, kept, slot, info, now))
			continue;
		forget(r, slot);
		kpod_kept_keep(kept, slot, info->generation, true);
	}
}

static void close_reader(struct kpod_loaded *l)
{
	struct reader *r = l->state;

	for (uint32_t slot = 0; r->fds && slot < r->slots; slot++)
		forget(r, slot);
	if (r->root >= 0)
		close(r->root);
	free(r->fds);
	free(r->look_again);
	free(r->generation);
	free(r->errors);
	free(r);
}

void kpod_cgroup_note_controller(struct kpod_loaded *l, int root, const char *path)
{
	const char *controller = l->collector->files->controller;
	struct kpod_span rest = {text, 0}, word;
	int fd = controller ? openat(root, "cgroup.controllers", O_RDONLY | O_CLOEXEC) : -1;
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text));

	if (fd >= 0)
		close(fd);
	if (size < 0)
		return;
	rest.size = (size_t)size;
	for (struct kpod_span line; kpod_next_line(&rest, &line);)
		while (kpod_next_word(&line, &word))
			if (kpod_span_is(word, controller))
				return;
	l->has_nothing = true;
	snprintf(l->reason, sizeof(l->reason),
		 "nothing to read: no controller '%s' in %.100s/cgroup.controllers: boot with "
		 "systemd.unified_cgroup_hierarchy=1%s",
		 controller, path, strcmp(controller, "memory") ? "" : " cgroup_enable=memory");
}

static int open_reader(struct kpod_loaded *l, struct kpod_slots *slots,
		       const struct kpod_options *options)
{
	struct reader *r = calloc(1, sizeof(*r));
	struct rlimit limit;
	size_t files;

	(void)options;
	if (!r)
		return -ENOMEM;
	l->state = r;
	r->spec = l->collector->files;
	r->slots = slots->bpf->max_containers;
	files = r->slots * r->spec->count;
	r->root = open(slots->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	r->fds = malloc(files * sizeof(*r->fds));
	r->look_again = calloc(r->slots, sizeof(*r->look_again));
	r->generation = calloc(r->slots, sizeof(*r->generation));
	r->errors = calloc(r->spec->count, sizeof(*r->errors));
	if (r->root < 0)
		return -errno;
	if (!r->fds || !r->look_again || !r->generation || !r->errors)
		return -ENOMEM;
	for (size_t i = 0; i < files; i++)
		r->fds[i] = NOT_OPEN;
	kpod_cgroup_note_controller(l, r->root, slots->root);
	if (!getrlimit(RLIMIT_NOFILE, &limit))
		files_max = limit.rlim_cur > KPOD_DESCRIPTORS_RESERVED
				    ? limit.rlim_cur - KPOD_DESCRIPTORS_RESERVED
				    : 0;
	return 0;
}

const struct kpod_source kpod_cgroup_source = {
	.open = open_reader, .read = read_all, .close = close_reader};

const char *kpod_cgroup_file_errors(const struct kpod_loaded *l, size_t i, uint64_t *errors)
{
	const struct reader *r = l->state;

	if (!r || l->source != &kpod_cgroup_source || i >= r->spec->count)
		return NULL;
	*errors = r->errors[i];
	return r->spec->files[i].name;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A slot's life: FREE -(kernel: mkdir)-> USED -(kernel: rmdir)-> USED and dead -(tombstone)->
 * DRAINING -(one snapshot)-> zeroed, FREE. While it drains, no look-up finds it any more and cached
 * look-ups are void (epoch), but a program that had it in hand may still be adding to its rows.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "base/cgroup2.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/parse.h"
#include "cgroups/slots.h"

#define DEPTH_MAX 32
#define SHOWN_SNAPSHOTS 2 /* the last totals of a container have been in so many before they go */

struct kpod_slot_info *kpod_slot_info(struct kpod_slots *s, uint32_t slot)
{
	return kpod_rows_of(&s->bpf->slots, slot);
}

static void name_tail(char tail[KPOD_NAME_TAIL], const char *name)
{
	size_t size = strlen(name), kept = size < KPOD_NAME_TAIL ? size : KPOD_NAME_TAIL;

	memset(tail, 0, KPOD_NAME_TAIL);
	memcpy(tail + KPOD_NAME_TAIL - kept, name + size - kept, kept);
}

/* Whoever it is counts as the host, and the tree is walked again when there is room. */
static void left_out(struct kpod_slots *s)
{
	__atomic_fetch_add(&s->bpf->control->slots_exhausted, 1, __ATOMIC_RELAXED);
}

/* Taken for nothing: the next scan gives it back. */
static void return_slot(struct kpod_slots *s, uint32_t slot)
{
	s->seen[slot] = 1;
	s->use[slot] = KPOD_SLOT_DRAINING;
}

/* Gives a cgroup that existed before us its slot; a pod has that of what is above it. */
static void enter(struct kpod_slots *s, int dir, const char *name, uint64_t id,
		  struct kpod_cgroup entry, const char *path)
{
	struct kpod_slot_info *info = NULL;
	struct stat st;
	int err;

	if (entry.kind != KPOD_CGROUP_POD) {
		if (bpf_map_lookup_and_delete_elem(s->bpf->free_slots_fd, NULL, &entry.slot)) {
			left_out(s);
			return;
		}
		info = kpod_slot_info(s, entry.slot);
		if (!info) {
			left_out(s);
			return_slot(s, entry.slot);
			return;
		}
		info->path_size = (uint32_t)strnlen(path, KPOD_SLOT_PATH - 1);
		memcpy(info->path, path, info->path_size);
		info->path[info->path_size] = '\0';
		info->kind = entry.kind;
		info->died_ns = 0;
		info->born_ns = s->start_ns;
		__atomic_store_n(&info->cgroup_id, id, __ATOMIC_RELEASE);
	}
	err = bpf_map_update_elem(s->bpf->cgroups_fd, &id, &entry, BPF_NOEXIST) ? -errno : 0;
	if (err) {
		if (err != -EEXIST) /* else the kernel was faster */
			__atomic_fetch_add(&s->bpf->control->cgroups_full, 1, __ATOMIC_RELAXED);
		if (info) {
			info->cgroup_id = 0;
			return_slot(s, entry.slot);
		}
		return;
	}
	/* Removed before the entry was there for rmdir to find: nobody else would notice. */
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) || st.st_ino != id) {
		if (info)
			info->died_ns = kpod_clock(CLOCK_MONOTONIC);
		else
			bpf_map_delete_elem(s->bpf->cgroups_fd, &id);
	}
}

static void walk(struct kpod_slots *s, int parent, const char *name, char *path, size_t size,
		 struct kpod_cgroup above, int depth)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *child;

	if (!dir) {
		if (errno != ENOENT)
			left_out(s);
		if (fd >= 0)
			close(fd);
		return;
	}
	while (depth < DEPTH_MAX && (child = readdir(dir))) {
		struct kpod_cgroup known;
		char tail[KPOD_NAME_TAIL];
		struct stat st;
		size_t longer;
		uint64_t id;

		if (child->d_type != DT_DIR || child->d_name[0] == '.' ||
		    fstatat(fd, child->d_name, &st, AT_SYMLINK_NOFOLLOW))
			continue;
		longer = size + 1 + strlen(child->d_name);
		if (longer >= PATH_MAX)
			continue;
		path[size] = '/';
		strcpy(path + size + 1, child->d_name);
		id = st.st_ino;
		if (bpf_map_lookup_elem(s->bpf->cgroups_fd, &id, &known)) {
			name_tail(tail, child->d_name);
			known = (struct kpod_cgroup){above.slot, kpod_classify(above.kind, tail)};
			if (s->bpf->config.pods_only && known.kind != KPOD_CGROUP_POD &&
			    known.kind != KPOD_CGROUP_POD_CONTAINER)
				known.kind = KPOD_CGROUP_HOST;
			if (known.kind != KPOD_CGROUP_HOST) {
				enter(s, fd, child->d_name, id, known, path);
				bpf_map_lookup_elem(s->bpf->cgroups_fd, &id, &known); /* its slot */
			}
		}
		walk(s, fd, child->d_name, path, longer,
		     known.kind == KPOD_CGROUP_HOST ? above : known, depth + 1);
		path[size] = '\0';
	}
	closedir(dir);
}

static void walk_tree(struct kpod_slots *s)
{
	char path[PATH_MAX] = "";

	s->walked_exhausted = s->bpf->control->slots_exhausted;
	walk(s, AT_FDCWD, s->root, path, 0, (struct kpod_cgroup){}, 0);
	__atomic_fetch_add(&s->bpf->control->epoch, 1, __ATOMIC_SEQ_CST);
}

int kpod_slots_open(struct kpod_slots *s, struct kpod_bpf *bpf, uint64_t tombstone_ns)
{
	struct kpod_slot_info *host;
	int err;

	memset(s, 0, sizeof(*s));
	s->bpf = bpf;
	s->tombstone_ns = tombstone_ns;
	s->start_ns = kpod_clock(CLOCK_MONOTONIC);
	err = kpod_find_cgroup2(s->root, sizeof(s->root));
	if (err)
		return err;
	s->use = calloc(4, bpf->max_containers);
	if (!s->use)
		return -ENOMEM;
	s->seen = s->use + bpf->max_containers;
	s->visible = s->seen + bpf->max_containers;
	s->dead_snapshots = s->visible + bpf->max_containers;
	if (bpf->cgroups_fd < 0)
		return 0; /* no slots without the cgroup programs; nobody would fill them */
	host = kpod_slot_info(s, 0);
	if (!host)
		return -ENOMEM;
	host->cgroup_id = KPOD_ROOT_ID;
	host->born_ns = s->start_ns;
	host->path[0] = '/';
	host->path_size = 1;
	walk_tree(s);
	return 0;
}

void kpod_slots_close(struct kpod_slots *s)
{
	free(s->use);
	memset(s, 0, sizeof(*s));
}

/*
 * From now on nobody finds the slot; its rows are zeroed one snapshot later. False: the kernel
 * refused, so it is tried again with the next snapshot.
 */
static bool drain(struct kpod_slots *s, uint32_t slot, const struct kpod_slot_info *info)
{
	uint64_t id = info->cgroup_id;

	if (bpf_map_delete_elem(s->bpf->cgroups_fd, &id) && errno != ENOENT)
		return false;
	__atomic_fetch_add(&s->bpf->control->epoch, 1, __ATOMIC_SEQ_CST);
	s->use[slot] = KPOD_SLOT_DRAINING;
	return true;
}

/* False: as above. */
static bool release(struct kpod_slots *s, uint32_t slot, struct kpod_slot_info *info)
{
	bool done = true;

	for (size_t i = 0; i < s->bpf->loaded_count; i++) {
		struct kpod_loaded *l = &s->bpf->loaded[i];

		for (size_t t = 0; l->attachment && t < l->collector->table_count; t++)
			done &= kpod_table_forget(&l->tables[t], slot);
	}
	if (!done)
		return false;
	info->generation++;
	info->died_ns = 0;
	info->cgroup_id = 0;
	s->dead_snapshots[slot] = 0;
	/* The map's lock orders all this before whoever takes the slot. */
	if (bpf_map_update_elem(s->bpf->free_slots_fd, NULL, &slot, BPF_ANY))
		return false;
	s->use[slot] = KPOD_SLOT_FREE;
	return true;
}

static void scan_one(struct kpod_slots *s, uint32_t slot, uint64_t now, bool scarce)
{
	struct kpod_slot_info *info = kpod_slot_info(s, slot);
	uint64_t died;

	s->visible[slot] = 0;
	if (!info)
		return;
	if (s->use[slot] == KPOD_SLOT_DRAINING && !release(s, slot, info)) {
		s->used++;
		return;
	}
	if (!__atomic_load_n(&info->cgroup_id, __ATOMIC_ACQUIRE))
		return;
	s->seen[slot] = 1;
	s->used++;
	if (slot && info->born_ns + KPOD_SETTLE_NS > now)
		return;
	s->use[slot] = KPOD_SLOT_USED;
	s->visible[slot] = 1;
	died = __atomic_load_n(&info->died_ns, __ATOMIC_RELAXED);
	if (!died)
		return;
	s->dead++;
	if (s->dead_snapshots[slot] >= SHOWN_SNAPSHOTS &&
	    (scarce || now - died > s->tombstone_ns)) {
		if (!drain(s, slot, info))
			return;
		s->evicted += now - died <= s->tombstone_ns;
		s->visible[slot] = 0;
	} else if (s->dead_snapshots[slot] < SHOWN_SNAPSHOTS) {
		s->dead_snapshots[slot]++;
	}
}

bool kpod_slots_are_scarce(const struct kpod_slots *s)
{
	uint32_t all = s->bpf->max_containers;

	return s->used > all - all / 8;
}

void kpod_slots_scan(struct kpod_slots *s, uint64_t now)
{
	uint32_t all = s->bpf->max_containers, slot = 0;
	bool scarce = kpod_slots_are_scarce(s);

	s->used = s->dead = 0;
	if (s->bpf->cgroups_fd < 0)
		return;
	/*
	 * Slots are handed out lowest first and only we give them back, so while one of a window
	 * has never been seen in use, none of the next window has been.
	 */
	for (bool full = true; full && slot < all;) {
		for (uint32_t i = 0; i < KPOD_WINDOW_UNITS; i++, slot++) {
			scan_one(s, slot, now, scarce);
			full = full && s->seen[slot];
		}
	}
	s->scanned = slot;
	s->free = all - s->used;
	for (size_t i = 0; i < s->bpf->loaded_count; i++) {
		const struct kpod_loaded *l = &s->bpf->loaded[i];

		for (size_t t = 0; l->attachment && t < l->collector->table_count; t++)
			kpod_table_relieve(&l->tables[t], s->dead_snapshots, SHOWN_SNAPSHOTS);
	}
	/* Containers that got none while there were none: they get theirs now. */
	if (s->bpf->control->slots_exhausted != s->walked_exhausted && s->free > all / 8)
		walk_tree(s);
}

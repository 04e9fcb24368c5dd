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

#define USER_WALK_MAX 1024 /* cgroups of a user that a walk looks at */
#define SHOWN_SNAPSHOTS 2  /* the last totals of a container have been in so many before they go */

struct kpod_slot_info *kpod_slot_info(struct kpod_slots *s, uint32_t slot)
{
	return kpod_rows_of(&s->bpf->slots, slot);
}

/* ---- the roots of nodes -------------------------------------------------------------------- */

/*
 * Services that root runs and below which the kubelet has its pods when the container runtime or
 * the kubelet was told to use cgroupfs; nobody else makes cgroups there.
 */
static const char *const services[] = {
	"/system.slice/k3s.service",
	"/system.slice/k3s-agent.service",
	"/system.slice/rke2-server.service",
	"/system.slice/rke2-agent.service",
	"/system.slice/k0scontroller.service",
	"/system.slice/k0sworker.service",
	"/system.slice/snap.microk8s.daemon-kubelite.service",
	"/system.slice/snap.microk8s.daemon-containerd.service",
	"/system.slice/containerd.service",
	"/system.slice/crio.service",
	"/system.slice/docker.service",
	"/runtime.slice/containerd.service",
};

static int add_root(struct kpod_slots *s, const char *path, size_t size)
{
	struct kpod_root *roots, root = {};
	const uint8_t one = 1;

	while (size && path[size - 1] == '/')
		size--;
	if (!size || size >= sizeof(root.path)) /* the hierarchy's own root always is one */
		return 0;
	memcpy(root.path, path, size);
	roots = reallocarray(s->roots, s->root_count + 1, sizeof(*roots));
	if (!roots)
		return -ENOMEM;
	s->roots = roots;
	roots[s->root_count++] = root;
	if (s->bpf->roots_fd >= 0 && bpf_map_update_elem(s->bpf->roots_fd, &root, &one, BPF_ANY))
		return -errno;
	return 0;
}

/*
 * The size of the part of a cgroup's path above the kubelet's root that it is below; -1: it is not.
 * In kind, k3d, k3s and MicroK8s the loader's own pod so tells where all others are, and nobody but
 * the kubelet can have put it there.
 */
ssize_t kpod_node_of(const char *path)
{
	for (const char *at = path; *at == '/'; at += 1 + strcspn(at + 1, "/")) {
		char part[KPOD_NAME_HEAD] = "";
		size_t size = strcspn(at + 1, "/");

		if (size >= sizeof(part) || at[1 + size] != '/')
			continue;
		memcpy(part, at + 1, size);
		if (kpod_is_kubelet(part))
			return at - path;
	}
	return -1;
}

static int add_own_root(struct kpod_slots *s)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char *line = NULL;
	size_t room = 0;
	int err = 0;

	while (f && getline(&line, &room, f) > 0) {
		ssize_t size = strncmp(line, "0::", 3) ? -1 : kpod_node_of(line + 3);

		if (size > 0)
			err = add_root(s, line + 3, (size_t)size);
	}
	free(line);
	if (f)
		fclose(f);
	return err;
}

static int add_list(struct kpod_slots *s, const char *list,
		    int (*add)(struct kpod_slots *, const char *, size_t))
{
	int err = 0;

	while (!err && list && *list) {
		size_t size = strcspn(list, ",");

		err = add(s, list, size);
		list += size + (list[size] == ',');
	}
	return err;
}

static int add_instances(struct kpod_slots *s, const char *prefix, size_t size)
{
	struct kpod_group group = {};
	const uint8_t one = 1;

	memcpy(group.prefix, prefix, size < sizeof(group.prefix) ? size : sizeof(group.prefix) - 1);
	if (s->bpf->instances_fd < 0)
		return 0;
	return bpf_map_update_elem(s->bpf->instances_fd, &group, &one, BPF_ANY) ? -errno : 0;
}

static bool is_root(const struct kpod_slots *s, const char *path)
{
	for (size_t i = 0; i < s->root_count; i++)
		if (!strcmp(s->roots[i].path, path))
			return true;
	return false;
}

static bool leads_to_root(const struct kpod_slots *s, const char *path, size_t size)
{
	for (size_t i = 0; i < s->root_count; i++)
		if (!strncmp(s->roots[i].path, path, size) && s->roots[i].path[size] == '/')
			return true;
	return false;
}

/* ---- the walk over what exists ------------------------------------------------------------- */

static void read_name(struct kpod_name *out, const char *name)
{
	size_t size = strlen(name), kept = size < KPOD_NAME_TAIL ? size : KPOD_NAME_TAIL;

	memset(out, 0, sizeof(*out));
	memcpy(out->tail + KPOD_NAME_TAIL - kept, name + size - kept, kept);
	memcpy(out->head, name, size < KPOD_NAME_HEAD ? size : KPOD_NAME_HEAD - 1);
}

static void count(__u64 *counter, int n)
{
	__atomic_fetch_add(counter, (__u64)n, __ATOMIC_SEQ_CST);
}

/* Whoever it is counts as what is above it, and the tree is walked again when there is room. */
static void note_exhausted(struct kpod_slots *s)
{
	count(&s->bpf->control->slots_exhausted, 1);
}

static struct kpod_slot_info *user_of(struct kpod_slots *s, const struct kpod_cgroup *above)
{
	return above->kind == KPOD_CGROUP_USER ? kpod_slot_info(s, above->slot) : NULL;
}

/* As take_slot() of bpf/cgroup.bpf.c. */
static uint32_t take_slot(struct kpod_slots *s, uint32_t kind, const struct kpod_cgroup *above)
{
	struct kpod_control *ctl = s->bpf->control;
	struct kpod_slot_info *user = user_of(s, above);
	uint32_t slot = 0;

	if (user && user->children >= KPOD_USER_SLOTS) {
		count(&ctl->user_refused, 1);
		return 0;
	}
	if (!kpod_is_kubelets(kind) &&
	    __atomic_load_n(&ctl->others_used, __ATOMIC_RELAXED) >= s->bpf->config.others_max) {
		count(&ctl->others_refused, 1);
		return 0;
	}
	if (bpf_map_lookup_and_delete_elem(s->bpf->free_slots_fd, NULL, &slot)) {
		note_exhausted(s);
		return 0;
	}
	if (slot >= s->end)
		s->end = slot + 1;
	if (!kpod_is_kubelets(kind))
		count(&ctl->others_used, 1);
	if (user)
		__atomic_fetch_add(&user->children, 1, __ATOMIC_RELAXED);
	return slot;
}

/* What the slot counts for in the budget. */
static void leave_budget(struct kpod_slots *s, const struct kpod_slot_info *info)
{
	struct kpod_slot_info *user = info->user ? kpod_slot_info(s, info->user) : NULL;

	if (!kpod_is_kubelets(info->kind))
		count(&s->bpf->control->others_used, -1);
	if (user && user->generation == info->user_generation)
		__atomic_fetch_sub(&user->children, 1, __ATOMIC_RELAXED);
}

static void give_back(struct kpod_slots *s, uint32_t slot, struct kpod_slot_info *info)
{
	leave_budget(s, info);
	info->cgroup_id = 0;
	bpf_map_update_elem(s->bpf->free_slots_fd, NULL, &slot, BPF_ANY);
}

/* A slot for a cgroup that existed before us, or that there was none for; 0: none. */
static uint32_t fill_slot(struct kpod_slots *s, uint64_t id, uint32_t kind,
			  const struct kpod_cgroup *above, const char *path, size_t path_size)
{
	uint32_t slot = take_slot(s, kind, above);
	struct kpod_slot_info *info = slot ? kpod_slot_info(s, slot) : NULL;
	struct kpod_slot_info *user = user_of(s, above);

	if (!info) {
		if (slot)
			note_exhausted(s);
		return 0;
	}
	info->path_size = (uint32_t)(path_size < KPOD_SLOT_PATH - 1 ? path_size : 0);
	memcpy(info->path, path, info->path_size);
	info->path[info->path_size] = '\0';
	info->kind = kind == KPOD_CGROUP_USER ? KPOD_CGROUP_UNIT : kind;
	info->children = 0;
	info->user = user ? above->slot : 0;
	info->user_generation = user ? user->generation : 0;
	info->died_ns = 0;
	info->born_ns = s->walked_ns;
	__atomic_store_n(&info->cgroup_id, id, __ATOMIC_RELEASE);
	return slot;
}

static uint32_t group_slot(struct kpod_slots *s, const struct kpod_group *group, uint64_t id,
			   const char *path, size_t path_size)
{
	const struct kpod_cgroup nobody = {};
	uint32_t slot;

	if (!bpf_map_lookup_elem(s->bpf->groups_fd, group, &slot))
		return slot;
	slot = fill_slot(s, id, KPOD_CGROUP_UNIT, &nobody, path, path_size);
	if (!slot || !bpf_map_update_elem(s->bpf->groups_fd, group, &slot, BPF_NOEXIST))
		return slot;
	/* The kernel program made the group in this moment, or there are too many. */
	give_back(s, slot, kpod_slot_info(s, slot));
	return bpf_map_lookup_elem(s->bpf->groups_fd, group, &slot) ? 0 : slot;
}

struct walk {
	struct kpod_slots *s;
	bool pods; /* the first pass: only what is a kubelet's, and the way there */
	char path[PATH_MAX];
	unsigned int left; /* cgroups of a user that are still looked at */
};

struct place {
	const char *name; /* of the directory */
	struct kpod_cgroup above;
	bool node;
	int level;
};

/* Whether a cgroup has all that it is to have. */
static bool is_settled(struct kpod_slots *s, const struct kpod_cgroup *known, uint32_t kind,
		       uint64_t id)
{
	const struct kpod_slot_info *info = kpod_slot_info(s, known->slot);

	if (kind != KPOD_CGROUP_HOST && known->kind != kind)
		return false;
	return kind == KPOD_CGROUP_HOST || kind == KPOD_CGROUP_KUBELET ||
	       !kpod_is_wanted(s->bpf->config.others, kind) || known->flags & KPOD_CGROUP_SHARED ||
	       (info && info->cgroup_id == id);
}

/* The entry of a cgroup that the kernel program did not make, or made without a slot. */
static struct kpod_cgroup enter(struct walk *w, int dir, const struct kpod_name *name,
				const char *text, const struct place *place, uint32_t kind,
				uint64_t id, size_t size, const struct kpod_cgroup *known)
{
	struct kpod_slots *s = w->s;
	struct kpod_cgroup entry = {.slot = place->above.slot,
				    .kind = (uint16_t)(kind ? kind : place->above.kind),
				    .flags = is_root(s, w->path) ? KPOD_CGROUP_NODE : 0};
	struct kpod_slot_info *info = known ? kpod_slot_info(s, known->slot) : NULL;
	struct kpod_group group;
	struct stat st;
	int shared = kind == KPOD_CGROUP_UNIT ? kpod_group_of(name, &group) : 0;
	uint8_t one;
	bool own = false;

	if (shared && !bpf_map_lookup_elem(s->bpf->instances_fd, &group, &one))
		shared = 0;
	if (info && info->cgroup_id == id && !(known->flags & KPOD_CGROUP_SHARED)) {
		/* Made before the kernel program knew what is above it. */
		entry.slot = known->slot;
		info->kind = kind;
	} else if (kind == KPOD_CGROUP_HOST || kind == KPOD_CGROUP_KUBELET ||
		   !kpod_is_wanted(s->bpf->config.others, kind)) {
		/* No slot. */
	} else if (shared) {
		uint32_t slot =
			group_slot(s, &group, id, w->path, size - strlen(text) + (size_t)shared);

		entry.slot = slot ? slot : entry.slot;
		entry.flags |= slot ? KPOD_CGROUP_SHARED : 0;
	} else {
		uint32_t slot = fill_slot(s, id, kind, &place->above, w->path, size);

		if (!slot && !entry.flags && place->above.kind == KPOD_CGROUP_USER)
			return place->above;
		own = slot;
		entry.slot = slot ? slot : entry.slot;
	}
	if (bpf_map_update_elem(s->bpf->cgroups_fd, &id, &entry, known ? BPF_EXIST : BPF_NOEXIST)) {
		if (errno != EEXIST && errno != ENOENT) /* else the kernel program was faster */
			count(&s->bpf->control->cgroups_full, 1);
		if (own)
			give_back(s, entry.slot, kpod_slot_info(s, entry.slot));
		return bpf_map_lookup_elem(s->bpf->cgroups_fd, &id, &entry) ? place->above : entry;
	}
	/* Removed before the entry was there for rmdir to find: nobody else would notice. */
	if (fstatat(dir, text, &st, AT_SYMLINK_NOFOLLOW) || st.st_ino != id) {
		if (own)
			kpod_slot_info(s, entry.slot)->died_ns = kpod_clock(CLOCK_MONOTONIC);
		else if (!known)
			bpf_map_delete_elem(s->bpf->cgroups_fd, &id);
	}
	return entry;
}

static void walk(struct walk *w, int parent, size_t size, const struct place *place);

static void visit(struct walk *w, int fd, const char *text, uint64_t id, size_t size,
		  const struct place *place, int flags)
{
	struct kpod_slots *s = w->s;
	struct place below = {.name = text, .above = place->above, .level = place->level + 1};
	bool leads = leads_to_root(s, w->path, size), root = is_root(s, w->path), known;
	struct kpod_cgroup entry;
	struct kpod_name name;
	uint32_t kind;

	read_name(&name, text);
	kind = kpod_classify(place->above.kind, flags, &name);
	if (s->bpf->config.others == KPOD_OTHERS_NONE && !kpod_is_kubelets(kind))
		kind = KPOD_CGROUP_HOST;
	/* As is_too_long() of bpf/cgroup.bpf.c, which knows no exact size. */
	if (kind != KPOD_CGROUP_HOST && size >= KPOD_SLOT_PATH - 1) {
		if (w->pods == kpod_is_kubelets(kind) && s->walked_ns == s->start_ns)
			count(&s->bpf->control->paths_truncated, 1);
		if (!kpod_is_kubelets(kind))
			kind = KPOD_CGROUP_HOST;
	}
	if (w->pods && !leads && !root && !kpod_is_kubelets(kind) &&
	    place->above.kind != KPOD_CGROUP_KUBELET)
		return;
	if (kind != KPOD_CGROUP_HOST || root) {
		known = !bpf_map_lookup_elem(s->bpf->cgroups_fd, &id, &entry);
		if (!known || !is_settled(s, &entry, kind, id))
			entry = enter(w, fd, &name, text, place, kind, id, size,
				      known ? &entry : NULL);
		below.above = entry;
		below.node = root;
	}
	if (kind == KPOD_CGROUP_USER)
		w->left = USER_WALK_MAX;
	/* Below these is nothing with a slot, however much there is. */
	if (kpod_is_last(below.above.kind) && !root && !leads)
		return;
	if (!w->pods && kind == KPOD_CGROUP_POD)
		return;
	walk(w, fd, size, &below);
}

static void walk(struct walk *w, int parent, size_t size, const struct place *place)
{
	int fd = openat(parent, place->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	char start[16] = "";
	struct dirent *child;
	int flags;

	if (!dir) {
		if (errno != ENOENT)
			note_exhausted(w->s);
		if (fd >= 0)
			close(fd);
		return;
	}
	memcpy(start, place->name, strnlen(place->name, sizeof(start) - 1));
	flags = (place->node ? KPOD_PLACE_NODE : 0) | (place->above.slot ? KPOD_PLACE_INNER : 0) |
		kpod_place_below(start);
	while (place->level < KPOD_LEVELS_MAX && (child = readdir(dir))) {
		struct stat st;
		size_t longer;

		if (child->d_type != DT_DIR || child->d_name[0] == '.' ||
		    fstatat(fd, child->d_name, &st, AT_SYMLINK_NOFOLLOW))
			continue;
		if (place->above.kind == KPOD_CGROUP_USER && !w->left--) {
			w->left = 0;
			break;
		}
		longer = size + 1 + strlen(child->d_name);
		if (longer >= PATH_MAX)
			continue;
		w->path[size] = '/';
		strcpy(w->path + size + 1, child->d_name);
		visit(w, fd, child->d_name, st.st_ino, longer, place, flags);
		w->path[size] = '\0';
	}
	closedir(dir);
}

/* Pods first: there are slots for them whatever else there is. */
static void walk_tree(struct kpod_slots *s)
{
	const struct place top = {.name = s->root, .node = true};

	s->walked_ns = s->walked_ns ? kpod_clock(CLOCK_MONOTONIC) : s->start_ns;
	s->walked_exhausted = s->bpf->control->slots_exhausted;
	s->walked_refused = s->bpf->control->others_refused;
	for (int pods = 1; pods >= 0; pods--) {
		struct walk w = {.s = s, .pods = pods};

		walk(&w, AT_FDCWD, 0, &top);
	}
	count(&s->bpf->control->epoch, 1);
}

int kpod_slots_open(struct kpod_slots *s, struct kpod_bpf *bpf, const struct kpod_options *options)
{
	struct kpod_slot_info *host;
	int err;

	memset(s, 0, sizeof(*s));
	s->bpf = bpf;
	s->tombstone_ns = options->tombstone_ns;
	s->start_ns = kpod_clock(CLOCK_MONOTONIC);
	err = kpod_find_cgroup2(s->root, sizeof(s->root));
	if (!err && kpod_is_own_cgroup(s->root))
		err = -EXDEV;
	if (err)
		return err;
	kpod_wall_look(&s->wall);
	s->use = calloc(3, bpf->max_containers);
	s->births = calloc(bpf->max_containers, sizeof(*s->births));
	if (!s->use || !s->births)
		return -ENOMEM;
	s->visible = s->use + bpf->max_containers;
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
	for (size_t i = 0; !err && i < KPOD_COUNT(services); i++)
		err = add_root(s, services[i], strlen(services[i]));
	err = err ? err : add_own_root(s);
	err = err ? err : add_list(s, options->cgroup_roots, add_root);
	err = err ? err : add_list(s, options->instances, add_instances);
	if (!err)
		walk_tree(s);
	return err;
}

const char *kpod_slots_error(int err)
{
	return err == -ENOENT  ? "no cgroup2 hierarchy is mounted: mount one"
	       : err == -EXDEV ? "the only cgroup2 here begins at this container's own cgroup, so "
				 "other containers are not seen: give it the node's /sys/fs/cgroup "
				 "(hostPath)"
			       : strerror(-err);
}

void kpod_slots_close(struct kpod_slots *s)
{
	free(s->use);
	free(s->births);
	free(s->roots);
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

		for (size_t t = 0; l->tables && t < l->collector->table_count; t++)
			done &= kpod_table_forget(&l->tables[t], slot);
	}
	if (!done)
		return false;
	leave_budget(s, info);
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

static uint64_t earlier(uint64_t ns, const struct timespec *other)
{
	uint64_t other_ns = (uint64_t)other->tv_sec * KPOD_SECOND + (uint64_t)other->tv_nsec;

	return other_ns < ns ? other_ns : ns;
}

/*
 * When the cgroup came to be, by CLOCK_BOOTTIME; `unknown` if that cannot be told. The kernel keeps
 * no such time, but an inode is made, with the time of then, when somebody first looks it up
 * (kernfs_get_inode()); no process can be in the cgroup before its directory's is. It is the same
 * for every loader that looks, as long as the kernel keeps the inode in its cache. Once the
 * directory has an attribute (systemd sets some), cgroups that come and go in it move its mtime
 * (kernfs_add_one()), but not the atime that it got with the attribute. What is only read stands
 * still. The earliest of these is the nearest to the truth.
 */
static uint64_t cgroup_birth(const struct kpod_slots *s, const char *path, size_t size, uint64_t id,
			     uint64_t unknown)
{
	static const char *const files[] = {"", "/cgroup.controllers", "/cgroup.events"};
	uint64_t made = UINT64_MAX, now = kpod_clock(CLOCK_REALTIME);
	char full[2 * PATH_MAX];
	struct stat st;

	for (size_t i = 0; i < KPOD_COUNT(files); i++) {
		snprintf(full, sizeof(full), "%s%.*s%s", s->root, (int)size, path, files[i]);
		if (lstat(full, &st) || (i == 0 && id && st.st_ino != id))
			return unknown;
		made = earlier(made, &st.st_mtim);
		made = earlier(made, &st.st_atim);
	}
	if (made > now) /* the clock was set back since */
		return unknown;
	/* Older than the system: the clock was set forward since. */
	return (int64_t)made > s->wall.ahead_ns ? made - (uint64_t)s->wall.ahead_ns : 0;
}

static void note_birth(struct kpod_slots *s, uint32_t slot, const struct kpod_slot_info *info)
{
	struct kpod_birth *b = &s->births[slot];
	const char *above = memrchr(info->path, '/', info->path_size);

	if (b->cgroup_id == info->cgroup_id && b->generation == info->generation)
		return;
	b->cgroup_id = info->cgroup_id;
	b->generation = info->generation;
	b->counted_ns = info->born_ns + kpod_clock(CLOCK_BOOTTIME) - kpod_clock(CLOCK_MONOTONIC);
	b->cgroup_ns = b->counted_ns;
	if (slot)
		b->cgroup_ns = cgroup_birth(s, info->path, info->path_size, info->cgroup_id,
					    b->counted_ns);
	/* Not found by a walk but seen being made: if its inode is older, the clock was set since.
	 */
	if (info->born_ns != s->walked_ns && info->born_ns > s->start_ns &&
	    b->cgroup_ns + KPOD_SECOND / 10 < b->counted_ns)
		b->cgroup_ns = b->counted_ns;
	b->network_ns = b->cgroup_ns;
	/* A pod's containers share its network, which is made after the pod's cgroup. */
	if (info->kind == KPOD_CGROUP_POD_CONTAINER && above && above > info->path)
		b->network_ns =
			cgroup_birth(s, info->path, (size_t)(above - info->path), 0, b->cgroup_ns);
}

static void scan_one(struct kpod_slots *s, uint32_t slot, uint64_t now, bool scarce,
		     bool others_scarce)
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
	s->used++;
	if (slot && info->born_ns + KPOD_SETTLE_NS > now)
		return;
	s->use[slot] = KPOD_SLOT_USED;
	s->visible[slot] = 1;
	note_birth(s, slot, info);
	died = __atomic_load_n(&info->died_ns, __ATOMIC_RELAXED);
	if (!died)
		return;
	s->dead++;
	scarce |= others_scarce && !kpod_is_kubelets(info->kind);
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
	uint64_t others_max = s->bpf->config.others_max, others, end;
	/* Dead pods go later than the dead of others: there are slots that only pods have. */
	bool scarce = s->used > all - all / 16, others_scarce = kpod_slots_are_scarce(s);

	s->used = s->dead = 0;
	if (s->bpf->cgroups_fd < 0)
		return;
	others = s->bpf->control->others_used;
	end = __atomic_load_n(&s->bpf->control->slots_end, __ATOMIC_ACQUIRE);
	end = end > s->end ? end : s->end;
	others_scarce |= others > others_max - others_max / 8;
	/* Slots are handed out lowest first, so what was never in use need not be mapped. */
	for (; slot < all && slot < (end ? end : 1); slot++)
		scan_one(s, slot, now, scarce, others_scarce);
	s->scanned = slot;
	s->free = all - s->used;
	for (size_t i = 0; i < s->bpf->loaded_count; i++) {
		const struct kpod_loaded *l = &s->bpf->loaded[i];

		for (size_t t = 0; l->tables && t < l->collector->table_count; t++)
			kpod_table_relieve(&l->tables[t], s->dead_snapshots, SHOWN_SNAPSHOTS);
	}
	/* Containers that got none while there were none: they get theirs now. */
	if ((s->bpf->control->slots_exhausted != s->walked_exhausted && s->free > all / 8) ||
	    (s->bpf->control->others_refused != s->walked_refused && !others_scarce &&
	     s->free > all / 8))
		walk_tree(s);
}

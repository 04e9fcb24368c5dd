// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Births and deaths of containers. A container's cgroup gets its slot inside the mkdir() that makes
 * it, before any process can be in it, so nothing of a short life is lost; and its record in map
 * `slots` stays until the loader has seen it, so no event can be missed on the way to user space.
 *
 * Both tracepoints run under cgroup_mutex and the trace path's spinlock: one at a time on the node.
 */
#include "infos.bpf.h"

#define NAME_MAX 256

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 1);
	__type(value, __u32);
} free_slots SEC(".maps");

/* Paths of the roots of nodes: the loader knows them from where it runs itself, and --cgroup-root.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct kpod_root);
	__type(value, __u8);
} roots SEC(".maps");

/* Slots of units that are summed (kpod_group_of()). A group stays as long as the loader runs. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct kpod_group);
	__type(value, __u32);
} groups SEC(".maps");

/* Groups that are not summed (--instances). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct kpod_group);
	__type(value, __u8);
} instances SEC(".maps");

/* One mkdir at a time, so these need not be on the small stack. */
static char raw[KPOD_NAME_TAIL + NAME_MAX]; /* the first KPOD_NAME_TAIL bytes stay NUL */
static struct kpod_name name;
static struct kpod_root root;
static struct kpod_group group;
static char whole[KPOD_SLOT_PATH];

/* Global functions are verified by themselves, not anew for each way to get there. */
__noinline int kpod_kind_of_name(__u32 above, __u32 flags)
{
	return kpod_classify(above, flags, &name);
}

__noinline int kpod_group_of_name(void)
{
	return kpod_group_of(&name, &group);
}

/* The size of the name without its NUL; 0: it has none. */
static __always_inline long read_name(struct cgroup *cgrp)
{
	const char *from = BPF_CORE_READ(cgrp, kn, name);
	long size = bpf_probe_read_kernel_str(raw + KPOD_NAME_TAIL, NAME_MAX, from);

	if (size < 1 || size > NAME_MAX)
		return 0;
	/* Copied, so that the verifier sees constant offsets: 7.2 wants them. */
	bpf_probe_read_kernel(name.tail, sizeof(name.tail), raw + size - 1);
	__builtin_memset(name.head, 0, sizeof(name.head));
	bpf_probe_read_kernel_str(name.head, sizeof(name.head), from);
	return size - 1;
}

/* Flags of KPOD_PLACE_…: where a cgroup is. at: the level of its ancestor `above`. */
static __always_inline int place_of(struct cgroup *cgrp, const struct kpod_cgroup *above, int at)
{
	char parent[16] = "";
	int flags = 0;

	bpf_probe_read_kernel_str(parent, sizeof(parent),
				  BPF_CORE_READ(cgrp, self.parent, cgroup, kn, name));
	if (cgrp->level == 1 || (above && at == cgrp->level - 1 && above->flags & KPOD_CGROUP_NODE))
		flags |= KPOD_PLACE_NODE;
	if (above && above->slot)
		flags |= KPOD_PLACE_INNER;
	return flags | kpod_place_below(parent);
}

static __always_inline bool is_root(const char *path)
{
	__builtin_memset(&root, 0, sizeof(root));
	return bpf_probe_read_kernel_str(root.path, sizeof(root.path), path) > 0 &&
	       bpf_map_lookup_elem(&roots, &root);
}

/*
 * Whether a slot has no room for the path. What is cut would say that it is another: of pods
 * nothing is kept of it then, and the rest have no slot.
 */
static __always_inline bool is_too_long(const char *path)
{
	return bpf_probe_read_kernel_str(whole, sizeof(whole), path) == sizeof(whole);
}

/* A free slot within the budget, or 0: it is counted why not. */
static __always_inline __u32 take_slot(struct kpod_control *ctl, __u32 kind,
				       const struct kpod_cgroup *above)
{
	bool other = !kpod_is_kubelets(kind);
	struct kpod_slot_info *user = NULL;
	__u32 slot, by = above ? above->slot : 0;

	if (above && above->kind == KPOD_CGROUP_USER)
		user = bpf_map_lookup_elem(&slots, &by);
	if (user && user->children >= KPOD_USER_SLOTS) {
		__sync_fetch_and_add(&ctl->user_refused, 1);
		return 0;
	}
	if (other && ctl->others_used >= kpod_config.others_max) {
		__sync_fetch_and_add(&ctl->others_refused, 1);
		return 0;
	}
	if (bpf_map_pop_elem(&free_slots, &slot)) {
		__sync_fetch_and_add(&ctl->slots_exhausted, 1);
		return 0;
	}
	if (slot >= ctl->slots_end)
		ctl->slots_end = slot + 1;
	if (other)
		__sync_fetch_and_add(&ctl->others_used, 1);
	if (user)
		__sync_fetch_and_add(&user->children, 1);
	return slot;
}

static __always_inline void give_back(struct kpod_control *ctl, __u32 slot, __u32 kind,
				      const struct kpod_cgroup *above)
{
	__u32 by = above ? above->slot : 0;
	struct kpod_slot_info *user = bpf_map_lookup_elem(&slots, &by);

	if (!kpod_is_kubelets(kind))
		__sync_fetch_and_sub(&ctl->others_used, 1);
	if (user && above && above->kind == KPOD_CGROUP_USER)
		__sync_fetch_and_sub(&user->children, 1);
	bpf_map_push_elem(&free_slots, &slot, 0);
}

/* `cut`: bytes at the end of the path that the slot's does not have. */
static __always_inline void fill_slot(struct kpod_slot_info *info, const char *path, long cut,
				      __u32 kind, __u64 id, const struct kpod_cgroup *above)
{
	long size = bpf_probe_read_kernel_str(info->path, sizeof(info->path), path);
	__u32 length = size > 0 && size < (long)sizeof(info->path) ? size - 1 : 0;
	__u32 by = above ? above->slot : 0;
	struct kpod_slot_info *user = bpf_map_lookup_elem(&slots, &by);

	if (cut > 0 && cut < length)
		length -= cut;
	info->path_size = length;
	info->kind = kind == KPOD_CGROUP_USER ? KPOD_CGROUP_UNIT : kind;
	info->children = 0;
	info->user = info->user_generation = 0;
	if (user && above && above->kind == KPOD_CGROUP_USER) {
		info->user = by;
		info->user_generation = user->generation;
	}
	info->died_ns = 0;
	info->born_ns = bpf_ktime_get_ns();
	info->cgroup_id = id;
}

/* The slot that the group has together; 0: it has none. */
static __always_inline __u32 group_slot(struct kpod_control *ctl, const char *path, long cut,
					__u64 id)
{
	__u32 *known = bpf_map_lookup_elem(&groups, &group), slot;
	struct kpod_slot_info *info;

	if (known)
		return *known;
	slot = take_slot(ctl, KPOD_CGROUP_UNIT, NULL);
	info = slot ? bpf_map_lookup_elem(&slots, &slot) : NULL;
	if (!info)
		return 0;
	fill_slot(info, path, cut, KPOD_CGROUP_UNIT, id, NULL);
	if (!bpf_map_update_elem(&groups, &group, &slot, BPF_NOEXIST))
		return slot;
	/* The loader made the group in this moment, or there are too many. */
	info->cgroup_id = 0;
	give_back(ctl, slot, KPOD_CGROUP_UNIT, NULL);
	known = bpf_map_lookup_elem(&groups, &group);
	return known ? *known : 0;
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(kpod_cgroup_mkdir, struct cgroup *cgrp, const char *path)
{
	struct kpod_control *ctl = kpod_control();
	struct kpod_cgroup *above, entry = {};
	struct kpod_slot_info *info = NULL;
	int at = cgrp->level - 1, shared;
	__u64 id = cgrp->kn->id;
	__u32 slot = 0, kind;
	long size;
	bool node;

	if (!ctl || cgrp->root->hierarchy_id != 0)
		return 0;
	above = kpod_nearest_from(cgrp, &at);
	if (above && above->kind == KPOD_CGROUP_POD_CONTAINER)
		return 0;
	size = read_name(cgrp);
	if (!size)
		return 0;
	kind = kpod_kind_of_name(above ? above->kind : KPOD_CGROUP_HOST, place_of(cgrp, above, at));
	if (kpod_config.others == KPOD_OTHERS_NONE && !kpod_is_kubelets(kind))
		kind = KPOD_CGROUP_HOST;
	if (kind != KPOD_CGROUP_HOST && is_too_long(path)) {
		__sync_fetch_and_add(&ctl->paths_truncated, 1);
		if (!kpod_is_kubelets(kind))
			kind = KPOD_CGROUP_HOST;
	}
	node = is_root(path);
	if (kind == KPOD_CGROUP_HOST && !node)
		return 0;
	if (cgrp->level > KPOD_LEVELS_MAX) {
		__sync_fetch_and_add(&ctl->too_deep, 1);
		return 0;
	}
	shared = kind == KPOD_CGROUP_UNIT ? kpod_group_of_name() : 0;
	if (shared && bpf_map_lookup_elem(&instances, &group))
		shared = 0;
	if (kind == KPOD_CGROUP_HOST || kind == KPOD_CGROUP_KUBELET ||
	    !kpod_is_wanted(kpod_config.others, kind))
		slot = 0;
	else if (shared)
		slot = group_slot(ctl, path, size - shared, id);
	else
		slot = take_slot(ctl, kind, above);
	/* A user could fill the map with these; and below a user's slice nothing depends on them.
	 */
	if (!slot && !node && !kpod_is_kubelets(kind) && above && above->kind == KPOD_CGROUP_USER)
		return 0;
	/* What has no slot of its own has an entry, so that what is below it is known for what it
	 * is. */
	entry.kind = kind ? kind : above ? above->kind : KPOD_CGROUP_HOST;
	entry.slot = slot ? slot : above ? above->slot : 0;
	entry.flags = (node ? KPOD_CGROUP_NODE : 0) | (slot && shared ? KPOD_CGROUP_SHARED : 0);
	if (slot && !shared) {
		info = bpf_map_lookup_elem(&slots, &slot);
		if (!info)
			return 0;
		fill_slot(info, path, 0, kind, id, above);
	}
	if (bpf_map_update_elem(&cgroups, &id, &entry, BPF_ANY)) {
		__sync_fetch_and_add(&ctl->cgroups_full, 1);
		if (info) {
			info->cgroup_id = 0;
			give_back(ctl, slot, kind, above);
		}
	}
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(kpod_cgroup_rmdir, struct cgroup *cgrp, const char *path)
{
	struct kpod_slot_info *info;
	struct kpod_cgroup *entry;
	__u64 id = cgrp->kn->id;

	if (cgrp->root->hierarchy_id != 0)
		return 0;
	entry = bpf_map_lookup_elem(&cgroups, &id);
	if (!entry)
		return 0;
	info = bpf_map_lookup_elem(&slots, &entry->slot);
	if (!info || info->cgroup_id != id || entry->flags & KPOD_CGROUP_SHARED) {
		bpf_map_delete_elem(&cgroups, &id);
		return 0;
	}
	/* The entry stays: tasks that are still exiting belong to the container. */
	info->died_ns = bpf_ktime_get_ns();
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

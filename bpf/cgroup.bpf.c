// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Births and deaths of containers. A container's cgroup gets its slot inside the mkdir() that makes
 * it, before any process can be in it, so nothing of a short life is lost; and its record in map
 * `slots` stays until the loader has seen it, so no event can be missed on the way to user space.
 *
 * Both tracepoints run under cgroup_mutex and the trace path's spinlock: one at a time on the node.
 */
#include "slots.bpf.h"

#define NAME_MAX 256

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 1);
	__type(value, __u32);
} free_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kpod_slot_info);
} slots SEC(".maps");

static char name[KPOD_NAME_TAIL + NAME_MAX]; /* the first KPOD_NAME_TAIL bytes stay NUL */

static __always_inline enum kpod_cgroup_kind kind_of(struct cgroup *cgrp, __u32 above)
{
	enum kpod_cgroup_kind kind;
	char tail[KPOD_NAME_TAIL];
	long size;

	size = bpf_probe_read_kernel_str(name + KPOD_NAME_TAIL, NAME_MAX,
					 BPF_CORE_READ(cgrp, kn, name));
	if (size < 1 || size > NAME_MAX)
		return KPOD_CGROUP_HOST;
	/* Copied, so that the verifier sees constant offsets: 7.2 wants them. */
	bpf_probe_read_kernel(tail, sizeof(tail), name + size - 1);
	kind = kpod_classify(above, tail);
	if (kpod_config.pods_only && kind != KPOD_CGROUP_POD && kind != KPOD_CGROUP_POD_CONTAINER)
		return KPOD_CGROUP_HOST;
	return kind;
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(kpod_cgroup_mkdir, struct cgroup *cgrp, const char *path)
{
	struct kpod_control *ctl = kpod_control();
	struct kpod_cgroup *above, entry = {};
	struct kpod_slot_info *info;
	__u64 id = cgrp->kn->id;
	long size;

	if (!ctl || cgrp->root->hierarchy_id != 0)
		return 0;
	above = kpod_nearest(cgrp);
	entry.kind = kind_of(cgrp, above ? above->kind : KPOD_CGROUP_HOST);
	if (entry.kind == KPOD_CGROUP_HOST)
		return 0;
	if (entry.kind == KPOD_CGROUP_POD) {
		/* What runs in the pod's own cgroup is its parent's, as if the pod were not there.
		 */
		entry.slot = above ? above->slot : 0;
		if (bpf_map_update_elem(&cgroups, &id, &entry, BPF_ANY))
			__sync_fetch_and_add(&ctl->cgroups_full, 1);
		return 0;
	}

	if (bpf_map_pop_elem(&free_slots, &entry.slot)) {
		__sync_fetch_and_add(&ctl->slots_exhausted, 1);
		return 0;
	}
	info = bpf_map_lookup_elem(&slots, &entry.slot);
	if (!info)
		return 0;
	size = bpf_probe_read_kernel_str(info->path, sizeof(info->path), path);
	if (size == sizeof(info->path))
		__sync_fetch_and_add(&ctl->paths_truncated, 1);
	info->path_size = size > 0 ? size - 1 : 0;
	info->kind = entry.kind;
	info->died_ns = 0;
	info->born_ns = bpf_ktime_get_ns();
	info->cgroup_id = id;
	if (bpf_map_update_elem(&cgroups, &id, &entry, BPF_ANY)) {
		info->cgroup_id = 0;
		bpf_map_push_elem(&free_slots, &entry.slot, 0);
		__sync_fetch_and_add(&ctl->cgroups_full, 1);
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
	if (entry->kind == KPOD_CGROUP_POD) {
		bpf_map_delete_elem(&cgroups, &id);
		return 0;
	}
	/* The entry stays: tasks that are still exiting belong to the container. */
	info = bpf_map_lookup_elem(&slots, &entry->slot);
	if (info && info->cgroup_id == id)
		info->died_ns = bpf_ktime_get_ns();
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

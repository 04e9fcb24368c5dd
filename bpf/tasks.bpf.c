// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Run once before each snapshot: finds the oldest process of every container. A task iterator would
 * show the loader's own PID namespace only, so this walks the kernel's list of processes, which is
 * safe to read under RCU, and that every program has.
 */
#include "slots.bpf.h"

#include "tasks.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kpod_task);
} tasks SEC(".maps");

struct kpod_walk walk;

/* The numbers[] of a struct pid have a length that BTF does not know. */
static __always_inline struct upid number_at(struct pid *pid, __u32 level)
{
	struct upid found = {};

	bpf_probe_read_kernel(&found, sizeof(found),
			      (char *)pid + bpf_core_field_offset(struct pid, numbers) +
				      level * bpf_core_type_size(struct upid));
	return found;
}

/*
 * An inode number is given to a new namespace as soon as its old one is gone; a cookie (5.12) never
 * is, and 32 random bits beside the inode number are as good.
 */
static __always_inline __u64 net_of(struct nsproxy *ns)
{
	struct net *net = BPF_CORE_READ(ns, net_ns);

	if (bpf_core_field_exists(net->net_cookie))
		return BPF_CORE_READ(net, net_cookie);
	return (__u64)BPF_CORE_READ(net, hash_mix) << 32 | BPF_CORE_READ(net, ns.inum);
}

/* Global functions are verified by themselves, not anew for each turn of the loop that calls them.
 */
__noinline int kpod_tasks_visit(void)
{
	struct task_struct *task = (void *)walk.next;
	struct kpod_task *known, found = {};
	struct kpod_cgroup *owner;
	struct upid number;
	struct nsproxy *ns;
	struct pid *pid;
	__u64 next;
	__u32 slot;

	if (!task)
		return 0;
	next = (__u64)BPF_CORE_READ(task, tasks.next) -
	       bpf_core_field_offset(struct task_struct, tasks);
	walk.next = next == walk.first ? 0 : next;
	ns = BPF_CORE_READ(task, nsproxy);
	pid = BPF_CORE_READ(task, thread_pid);
	/* On its way out: without namespaces, or without a number. */
	if (!ns || !pid || BPF_CORE_READ(pid, level) < walk.level)
		return 0;
	number = number_at(pid, walk.level);
	if ((__u64)number.ns != walk.ns)
		return 0;
	owner = kpod_nearest(BPF_CORE_READ(task, cgroups, dfl_cgrp));
	slot = owner ? owner->slot : 0;
	if (number.nr == 1)
		slot = 0;
	else if (!slot)
		return 0;
	known = bpf_map_lookup_elem(&tasks, &slot);
	if (!known)
		return 0;
	found.start_ns = BPF_CORE_READ(task, start_boottime);
	if (known->start_ns && known->start_ns <= found.start_ns)
		return 0;
	found.pid = number.nr;
	found.net = net_of(ns);
	found.mnt = BPF_CORE_READ(ns, mnt_ns, ns.inum);
	*known = found;
	return 0;
}

__noinline int kpod_tasks_visit_some(void)
{
	for (int i = 0; i < KPOD_WALK_MAX / KPOD_WALK_TURNS; i++)
		kpod_tasks_visit();
	return 0;
}

SEC("raw_tp")
int kpod_tasks_walk(void *ctx)
{
	struct task_struct *self = (void *)bpf_get_current_task();
	struct pid *pid = BPF_CORE_READ(self, thread_pid);
	__u32 level = BPF_CORE_READ(pid, level);

	walk.level = level > walk.depth ? level - walk.depth : 0;
	walk.ns = (__u64)number_at(pid, walk.level).ns;
	walk.first = walk.next = (__u64)BPF_CORE_READ(self, group_leader);
	for (int i = 0; i < KPOD_WALK_TURNS; i++) {
		kpod_tasks_visit_some();
		if (!walk.next)
			return 0;
	}
	walk.cut++;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

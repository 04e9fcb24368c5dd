// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Run before each snapshot: finds the oldest process of every container. A task iterator would show
 * the loader's own PID namespace only, so this walks the kernel's list of processes, which is safe
 * to read under RCU, and that every program has. Each run of the program is a slice of the walk, so
 * that others get the CPU in between.
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

struct kpod_task_walk walk;

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

/*
 * Leaves in walk.thread a thread of the process that has namespaces: its main thread, or, where
 * that has ended before others, another one. 0: the process has ended.
 */
__noinline int kpod_tasks_find_thread(void)
{
	struct task_struct *leader = (void *)walk.process, *thread = leader;
	__u64 head, node;

	walk.thread = walk.process;
	if (thread && BPF_CORE_READ(thread, nsproxy))
		return 0;
	walk.thread = 0;
	head = (__u64)BPF_CORE_READ(leader, signal) +
	       bpf_core_field_offset(struct signal_struct, thread_head);
	node = (__u64)BPF_CORE_READ(leader, signal, thread_head.next);
	for (int i = 0; i < KPOD_TASKS_THREADS_MAX; i++) {
		if (thread && BPF_CORE_READ(thread, nsproxy)) {
			walk.thread = (__u64)thread;
			return 0;
		}
		if (!node || node == head)
			return 0;
		thread = (void *)(node - bpf_core_field_offset(struct task_struct, thread_node));
		node = (__u64)BPF_CORE_READ(thread, thread_node.next);
	}
	return 0;
}

/* Whether walk.process is what its slot's element is to tell of. */
__noinline int kpod_tasks_take(void)
{
	struct task_struct *leader = (void *)walk.process, *thread;
	struct kpod_task *known, found = {};
	struct kpod_cgroup *owner;
	struct upid number, own;
	struct nsproxy *ns;
	struct pid *pid;
	__u32 slot;

	kpod_tasks_find_thread();
	thread = (void *)walk.thread;
	if (!leader || !thread)
		return 0;
	pid = BPF_CORE_READ(leader, thread_pid);
	/* On its way out: without a number. */
	if (!pid || BPF_CORE_READ(pid, level) < walk.level)
		return 0;
	number = number_at(pid, walk.level);
	if ((__u64)number.ns != walk.ns)
		return 0;
	owner = kpod_nearest(BPF_CORE_READ(thread, cgroups, dfl_cgrp));
	slot = owner ? owner->slot : 0;
	if (number.nr == 1)
		slot = 0;
	else if (!slot)
		return 0;
	known = bpf_map_lookup_elem(&tasks, &slot);
	if (!known)
		return 0;
	found.since_ns = BPF_CORE_READ(leader, start_boottime);
	if (known->since_ns && known->since_ns <= found.since_ns)
		return 0;
	pid = BPF_CORE_READ(thread, thread_pid);
	ns = BPF_CORE_READ(thread, nsproxy);
	if (!pid || !ns)
		return 0;
	own = number_at(pid, walk.level);
	found.start_ns = BPF_CORE_READ(thread, start_boottime);
	found.pid = own.nr;
	found.net = net_of(ns);
	found.mnt = BPF_CORE_READ(ns, mnt_ns, ns.inum);
	*known = found;
	return 0;
}

static __always_inline __u64 next_of(struct task_struct *task)
{
	return (__u64)BPF_CORE_READ(task, tasks.next) -
	       bpf_core_field_offset(struct task_struct, tasks);
}

__noinline int kpod_tasks_visit(void)
{
	__u64 next;

	if (!walk.next)
		return 0;
	walk.process = walk.next;
	next = next_of((void *)walk.process);
	walk.next = next == walk.first ? 0 : next;
	return kpod_tasks_take();
}

__noinline int kpod_tasks_visit_some(void)
{
	for (int i = 0; i < KPOD_TASKS_SLICE / KPOD_TASKS_TURNS; i++)
		kpod_tasks_visit();
	return 0;
}

/*
 * Whether the list still has this process, which was seen in it by an earlier run of the program.
 * list_del_rcu() takes `prev` of what it removes away; other memory that is here by now does not
 * lie in a list in this way, and another process began at another time.
 */
static __always_inline bool is_there(const struct kpod_task_place *place)
{
	struct task_struct *task = (void *)place->task;

	return task && BPF_CORE_READ(task, start_boottime) == place->start_ns &&
	       (__u64)BPF_CORE_READ(task, tasks.prev, next) ==
		       place->task + bpf_core_field_offset(struct task_struct, tasks);
}

/* After the last place that is still there; else anew, as to see a process twice does no harm. */
static __always_inline void go_on(void)
{
	for (__u32 i = 0; i < KPOD_TASKS_PLACES; i++) {
		const struct kpod_task_place *place =
			&walk.places[(walk.slice - 1 - i) % KPOD_TASKS_PLACES];
		__u64 next;

		if (!is_there(place))
			continue;
		next = next_of((void *)place->task);
		walk.next = next == walk.first ? 0 : next;
		return;
	}
	walk.next = walk.first;
}

static __always_inline void begin(struct task_struct *self)
{
	struct pid *pid = BPF_CORE_READ(self, thread_pid);
	__u32 level = BPF_CORE_READ(pid, level);
	struct pid_namespace *ns;

	walk.level = level > walk.depth ? level - walk.depth : 0;
	ns = number_at(pid, walk.level).ns;
	walk.ns = (__u64)ns;
	/* The list is a circle. Its caller is in it as long as the walk takes. */
	walk.first = walk.next = (__u64)BPF_CORE_READ(self, group_leader);
	__builtin_memset(walk.places, 0, sizeof(walk.places));
	walk.done = 0;
	/* Without what process 1 has, nothing that is found can be told from it. */
	walk.process = (__u64)BPF_CORE_READ(ns, child_reaper, group_leader);
	kpod_tasks_take();
}

SEC("raw_tp")
int kpod_tasks_walk(void *ctx)
{
	struct kpod_task_place *place = &walk.places[walk.slice % KPOD_TASKS_PLACES];
	struct task_struct *last;

	if (!walk.slice)
		begin((void *)bpf_get_current_task());
	else
		go_on();
	for (int i = 0; i < KPOD_TASKS_TURNS && walk.next; i++)
		kpod_tasks_visit_some();
	last = (void *)walk.process;
	place->task = (__u64)last;
	place->start_ns = BPF_CORE_READ(last, start_boottime);
	walk.slice++;
	walk.done = !walk.next;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

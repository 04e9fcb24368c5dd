// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Who was killed for want of memory, and who had to wait while the kernel looked for some. The
 * owner of a kill is the victim, whoever asked for the memory; of a wait, the task that waited.
 */
#include "slots.bpf.h"

#include "memory.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct memory_row);
} memory_rows SEC(".maps");

/* Tasks that reclaim: since when. Not task storage, which 5.10 lacks; made in advance, as there
 * is no memory to be had in reclaim.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u64);
} memory_stalls SEC(".maps");

static __always_inline struct memory_row *row_of(struct task_struct *task)
{
	struct kpod_cgroup *owner = kpod_nearest(BPF_CORE_READ(task, cgroups, dfl_cgrp));

	return kpod_shared_row(memory_rows, owner ? owner->slot : 0);
}

static __always_inline int killed(struct task_struct *victim)
{
	struct memory_row *row = row_of(victim);

	if (row)
		kpod_add_shared(row->oom_kills, 1);
	return 0;
}

SEC("fentry/__oom_kill_process")
int BPF_PROG(kpod_memory_kill, struct task_struct *victim)
{
	return killed(victim);
}

/* Before 6.8 this has a pid instead, and does not load. */
SEC("tp_btf/mark_victim")
int BPF_PROG(kpod_memory_victim, struct task_struct *victim)
{
	return killed(victim);
}

static __always_inline int begin(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 pid = bpf_get_current_pid_tgid();
	__u64 now = bpf_ktime_get_ns();
	struct memory_row *row;

	if (!bpf_map_update_elem(&memory_stalls, &pid, &now, BPF_ANY))
		return 0;
	row = row_of(task);
	if (row)
		kpod_add_shared(row->untracked, 1);
	return 0;
}

static __always_inline int end(enum kpod_reclaim why)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 pid = bpf_get_current_pid_tgid();
	__u64 *since = bpf_map_lookup_elem(&memory_stalls, &pid);
	struct memory_row *row;

	if (!since)
		return 0;
	row = row_of(task);
	if (row) {
		kpod_add_shared(row->stalls[why], 1);
		kpod_add_shared(row->stall_ns[why], bpf_ktime_get_ns() - *since);
	}
	bpf_map_delete_elem(&memory_stalls, &pid);
	return 0;
}

SEC("tp_btf/mm_vmscan_direct_reclaim_begin")
int BPF_PROG(kpod_memory_node_begin)
{
	return begin();
}

SEC("tp_btf/mm_vmscan_direct_reclaim_end")
int BPF_PROG(kpod_memory_node_end)
{
	return end(KPOD_RECLAIM_NODE);
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_begin")
int BPF_PROG(kpod_memory_cgroup_begin)
{
	return begin();
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_end")
int BPF_PROG(kpod_memory_cgroup_end)
{
	return end(KPOD_RECLAIM_CGROUP);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

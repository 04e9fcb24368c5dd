// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * OOM kills, and the time that tasks spend on freeing memory themselves. Page faults are counted in
 * cpu.bpf.c, where a task leaves its CPU.
 *
 * Where programs may be preempted (7.0), the kernel leaves one out for other tasks of that CPU
 * meanwhile: stalls are counted by classic tracepoints there, in which nothing is preempted. Of
 * kills the hooks are called with a lock held (siglock, and alloc_lock in mark_oom_victim()).
 */
#include "slots.bpf.h"

#include "memory.h"

#define SIGKILL 9

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct memory_row);
} memory_rows SEC(".maps");

/* Written by its CPU only. */
struct memory_cpu {
	int killed;	   /* who was last sent a SIGKILL here, … */
	__u32 killed_slot; /* … and whose that is */
} __attribute__((aligned(64)));

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct memory_cpu);
} memory_cpus SEC(".maps");

/* Tasks that reclaim memory now, by pid, since when. Allocated ahead: there is no memory then. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, int);
	__type(value, __u64);
} memory_stalls SEC(".maps");

static __always_inline struct memory_cpu *this_cpu(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&memory_cpus, &cpu);
}

static __always_inline struct memory_row *row_of(struct task_struct *task)
{
	struct kpod_cgroup *owner = kpod_nearest(BPF_CORE_READ(task, cgroups, dfl_cgrp));

	return kpod_row(memory_rows, owner ? owner->slot : 0);
}

/*
 * An OOM kill is a SIGKILL to the victim and then, on the same CPU with the victim locked, its mark
 * (__oom_kill_process()). A mark alone is a task that was ending anyway, and is not a kill.
 */
SEC("tp_btf/signal_generate")
int BPF_PROG(kpod_memory_signal, int signal, void *info, struct task_struct *task)
{
	struct memory_cpu *cpu;
	struct kpod_cgroup *owner;

	if (signal != SIGKILL)
		return 0;
	cpu = this_cpu();
	if (!cpu)
		return 0;
	owner = kpod_nearest(BPF_CORE_READ(task, cgroups, dfl_cgrp));
	cpu->killed = task->pid;
	cpu->killed_slot = owner ? owner->slot : 0;
	return 0;
}

static __always_inline int killed(int pid)
{
	struct memory_cpu *cpu = this_cpu();
	struct memory_row *row;

	if (!cpu || cpu->killed != pid)
		return 0;
	cpu->killed = 0;
	row = kpod_row(memory_rows, cpu->killed_slot);
	if (row)
		kpod_add(row->oom_kills, 1);
	return 0;
}

SEC("tp_btf/mark_victim")
int BPF_PROG(kpod_memory_victim, struct task_struct *task)
{
	return killed(task->pid);
}

/* Before 6.8. */
SEC("tp_btf/mark_victim")
int BPF_PROG(kpod_memory_victim_pid, int pid)
{
	return killed(pid);
}

static __always_inline int stall_begin(void)
{
	int pid = (__u32)bpf_get_current_pid_tgid();
	__u64 now = bpf_ktime_get_ns();
	struct memory_row *row;

	if (!bpf_map_update_elem(&memory_stalls, &pid, &now, BPF_ANY))
		return 0;
	row = row_of((struct task_struct *)bpf_get_current_task());
	if (row)
		kpod_add(row->untracked, 1);
	return 0;
}

static __always_inline int stall_end(enum kpod_reclaim kind)
{
	int pid = (__u32)bpf_get_current_pid_tgid();
	__u64 *began = bpf_map_lookup_elem(&memory_stalls, &pid);
	struct memory_row *row;
	__u64 ns;

	if (!began)
		return 0;
	ns = bpf_ktime_get_ns() - *began;
	bpf_map_delete_elem(&memory_stalls, &pid);
	row = row_of((struct task_struct *)bpf_get_current_task());
	if (row) {
		kpod_add(row->stalls[kind], 1);
		kpod_add(row->stall_ns[kind], ns);
	}
	return 0;
}

SEC("tp_btf/mm_vmscan_direct_reclaim_begin")
int BPF_PROG(kpod_memory_direct_begin)
{
	return stall_begin();
}

SEC("tp_btf/mm_vmscan_direct_reclaim_end")
int BPF_PROG(kpod_memory_direct_end)
{
	return stall_end(KPOD_RECLAIM_NODE);
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_begin")
int BPF_PROG(kpod_memory_memcg_begin)
{
	return stall_begin();
}

const volatile bool has_psi SEC(".rodata.memory"); /* the loader says */

/*
 * At a limit, the task waits for memory, and the kernel has told PSI so (try_charge_memcg(),
 * reclaim_high(); 5.9); that somebody wrote memory.reclaim or a lower limit, of whatever cgroup, is
 * nobody's wait.
 */
static __always_inline int memcg_end(void)
{
	struct task_struct *self = (void *)bpf_get_current_task();

	if (has_psi && bpf_core_field_exists(self->in_memstall) &&
	    !BPF_CORE_READ_BITFIELD_PROBED(self, in_memstall))
		return stall_end(KPOD_RECLAIM_REQUEST);
	return stall_end(KPOD_RECLAIM_LIMIT);
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_end")
int BPF_PROG(kpod_memory_memcg_end)
{
	return memcg_end();
}

SEC("tp/vmscan/mm_vmscan_direct_reclaim_begin")
int kpod_memory_direct_begin_tp(void *event)
{
	return stall_begin();
}

SEC("tp/vmscan/mm_vmscan_direct_reclaim_end")
int kpod_memory_direct_end_tp(void *event)
{
	return stall_end(KPOD_RECLAIM_NODE);
}

SEC("tp/vmscan/mm_vmscan_memcg_reclaim_begin")
int kpod_memory_memcg_begin_tp(void *event)
{
	return stall_begin();
}

SEC("tp/vmscan/mm_vmscan_memcg_reclaim_end")
int kpod_memory_memcg_end_tp(void *event)
{
	return memcg_end();
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

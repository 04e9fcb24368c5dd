// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Processes started, replaced and ended. The owner is the cgroup of the task that the hook is
 * about: of a new one the child's, which clone3() may have put into another than its parent's.
 *
 * Where programs may be preempted (7.0), the kernel leaves one out for other tasks of that CPU
 * meanwhile. There ends and replacements are counted by classic tracepoints, and starts where a new
 * task is woken, with its CPU's queue locked: nothing is preempted in either.
 */
#include "slots.bpf.h"

#include "exec.h"
#include "life.bpf.h"

#define CLONE_THREAD 0x10000

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct exec_row);
} exec_rows SEC(".maps");

static __always_inline struct exec_row *row_of(struct task_struct *task)
{
	struct kpod_cgroup *owner = kpod_nearest(task->cgroups->dfl_cgrp);

	return kpod_row(exec_rows, owner ? owner->slot : 0);
}

static __always_inline int count_exec(struct task_struct *task)
{
	struct exec_row *row = row_of(task);

	if (row)
		kpod_add(row->execs, 1);
	return 0;
}

static __always_inline int count_fork(struct task_struct *task, bool thread)
{
	struct exec_row *row = row_of(task);

	if (!row)
		return 0;
	if (thread)
		kpod_add(row->threads, 1);
	else
		kpod_add(row->processes, 1);
	return 0;
}

static __always_inline int count_exit(struct task_struct *task)
{
	struct exec_row *row = row_of(task);
	int status;

	if (!row)
		return 0;
	status = kpod_wait_status(task);
	if (status & 0x7f)
		kpod_add(row->exits[KPOD_EXIT_SIGNAL], 1);
	else if (status)
		kpod_add(row->exits[KPOD_EXIT_FAILURE], 1);
	else
		kpod_add(row->exits[KPOD_EXIT_SUCCESS], 1);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(kpod_exec_exec, struct task_struct *task)
{
	return count_exec(task);
}

SEC("tp/sched/sched_process_exec")
int kpod_exec_exec_tp(void *event)
{
	return count_exec(bpf_get_current_task_btf());
}

SEC("tp_btf/task_newtask")
int BPF_PROG(kpod_exec_fork, struct task_struct *task, unsigned long flags)
{
	return count_fork(task, flags & CLONE_THREAD);
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(kpod_exec_wake, struct task_struct *task)
{
	return count_fork(task, task->pid != task->tgid);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(kpod_exec_exit, struct task_struct *task)
{
	return kpod_process_ends(ctx, task) ? count_exit(task) : 0;
}

SEC("tp/sched/sched_process_exit")
int kpod_exec_exit_tp(const struct trace_event_raw_sched_process_exit *event)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return kpod_last_has_ended(event, task) ? count_exit(task) : 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

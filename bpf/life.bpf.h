/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* When a process has ended, and how. */
#ifndef KPOD_LIFE_BPF_H
#define KPOD_LIFE_BPF_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define SIGNAL_GROUP_EXIT 4 /* include/linux/sched/signal.h */

/* A thread in execve() ends all others and takes the main thread's place: no process has ended. */
static __always_inline bool kpod_is_replaced(struct signal_struct *signal)
{
	struct signal_struct___before_5_17 *old = (void *)signal;

	if (bpf_core_field_exists(signal->group_exec_task))
		return BPF_CORE_READ(signal, group_exec_task) != NULL;
	return !(BPF_CORE_READ(signal, flags) & SIGNAL_GROUP_EXIT) &&
	       BPF_CORE_READ(old, group_exit_task) != NULL;
}

/* For sched_process_exit: whether a process ends with this task, its main thread. */
static __always_inline bool kpod_process_ends(struct task_struct *task)
{
	return task->pid == task->tgid && !kpod_is_replaced(task->signal);
}

/* What wait() shows (wait_task_zombie()). */
static __always_inline int kpod_wait_status(struct task_struct *task)
{
	struct signal_struct *signal = task->signal;

	return signal->flags & SIGNAL_GROUP_EXIT ? signal->group_exit_code : task->exit_code;
}

#endif

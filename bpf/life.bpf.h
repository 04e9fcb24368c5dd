/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* When a process has ended, and how: with its last thread, which need not be its main thread. */
#ifndef KPOD_LIFE_BPF_H
#define KPOD_LIFE_BPF_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define SIGNAL_GROUP_EXIT 4 /* include/linux/sched/signal.h */

/* Since 6.16 the tracepoint says in its second argument whether this task is the last. */
struct trace_event_raw_sched_process_exit {
	bool group_dead;
} __attribute__((preserve_access_index));

/*
 * Processes that have ended, before 6.16: do_exit() takes a thread off signal->live some lines
 * before the tracepoint, so two that end at once may both see that none is left. Only ends within
 * those lines' time have to be told apart.
 */
struct kpod_life {
	__u64 signal; /* the address of signal_struct, which another process gets later */
	__u64 born_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct kpod_life);
	__type(value, __u8);
} ended SEC(".maps");

/* Whether no task of the process is left, seen for the first time. */
static __always_inline bool kpod_is_first_end(struct task_struct *task)
{
	struct kpod_life life;
	__u8 yes = 1;

	if (task->signal->live.counter)
		return false;
	life.signal = (__u64)task->signal;
	life.born_ns = task->group_leader->start_boottime;
	return !bpf_map_update_elem(&ended, &life, &yes, BPF_NOEXIST);
}

/* For sched_process_exit and its context: whether the process ends with this task. */
static __always_inline bool kpod_process_ends(const unsigned long long *ctx,
					      struct task_struct *task)
{
	struct trace_event_raw_sched_process_exit *event = NULL;

	if (bpf_core_field_exists(event->group_dead))
		return ctx[1] & 1;
	return kpod_is_first_end(task);
}

/* Likewise, for the classic tracepoint's record, in which group_dead is what is missing before. */
static __always_inline bool
kpod_last_has_ended(const struct trace_event_raw_sched_process_exit *event,
		    struct task_struct *task)
{
	if (bpf_core_field_exists(event->group_dead))
		return event->group_dead;
	return kpod_is_first_end(task);
}

/* What wait() shows (wait_task_zombie()). */
static __always_inline int kpod_wait_status(struct task_struct *task)
{
	struct signal_struct *signal = task->signal;

	return signal->flags & SIGNAL_GROUP_EXIT ? signal->group_exit_code
						 : task->group_leader->exit_code;
}

#endif

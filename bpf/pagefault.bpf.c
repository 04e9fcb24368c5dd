// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Page faults without a hook for each: the kernel counts them in every task (min_flt, maj_flt), and
 * what has been added since the last time is booked before each snapshot and when the task ends. To
 * the cgroup that the task is in then.
 */
#include "slots.bpf.h"

#include "pagefault.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pagefault_row);
} pagefault_rows SEC(".maps");

/* What is booked of a task already. */
struct booked {
	__u64 minor;
	__u64 major;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct booked);
} pagefault_tasks SEC(".maps");

/* A walk and the task's end may meet here: each fault is booked by one of them. */
static __always_inline void book_one(__u64 *booked, __u64 now, __u64 *counter)
{
	for (int tries = 0; tries < 4; tries++) {
		__u64 was = *(volatile __u64 *)booked;

		if (now <= was)
			return;
		if (__sync_val_compare_and_swap(booked, was, now) == was) {
			kpod_add_shared(*counter, now - was);
			return;
		}
	}
}

static __always_inline int book(struct task_struct *task, bool last)
{
	struct booked *booked = bpf_task_storage_get(&pagefault_tasks, task, 0, 0);
	struct kpod_cgroup *owner;
	struct pagefault_row *row;

	if (!booked) {
		booked = bpf_task_storage_get(&pagefault_tasks, task, 0,
					      BPF_LOCAL_STORAGE_GET_F_CREATE);
		/* What is older than the loader has a past that is not ours. */
		if (booked && task->start_time < kpod_config.start_ns) {
			booked->minor = task->min_flt;
			booked->major = task->maj_flt;
			return 0;
		}
	}
	owner = kpod_nearest(task->cgroups->dfl_cgrp);
	row = kpod_shared_row(pagefault_rows, owner ? owner->slot : 0);
	if (!row)
		return 0;
	if (!booked) {
		kpod_add_shared(row->untracked, last);
		return 0;
	}
	book_one(&booked->minor, task->min_flt, &row->minor);
	book_one(&booked->major, task->maj_flt, &row->major);
	return 0;
}

/* Run once at the start, when it adopts the tasks that are older; then before each snapshot. */
SEC("iter/task")
int kpod_pagefault_walk(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;

	return task ? book(task, false) : 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(kpod_pagefault_exit, struct task_struct *task)
{
	return book(task, false);
}

/*
 * When nobody can see the task any more: the rest. It may have faulted on its way out; and while
 * the walk is at a task on this CPU, no other has its storage made.
 */
SEC("tp_btf/sched_process_free")
int BPF_PROG(kpod_pagefault_free, struct task_struct *task)
{
	return book(task, true);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

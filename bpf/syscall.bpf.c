// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * System calls, charged to the task that makes them. What counts as one call:
 *   - A call is counted when it returns. If the task ends first (exit, exit_group, a call that a
 *     dying process never leaves) it is counted then, without error or duration.
 *   - The kernel restarts a call after a signal by making it again: that is one call that was
 *     interrupted, and another.
 *   - fork() and its kin return twice, in the parent and in the child: one call, the parent's.
 *   - A call that seccomp or a tracer answers never enters the kernel proper: it is counted, with
 *     its error, but has no duration.
 *   - What rt_sigreturn returns is the result of the call that the signal interrupted: no error.
 *   - A call that was under way when the loader started is not counted.
 *   - Where programs may be preempted (7.0), the kernel leaves one out for other tasks of that CPU
 *     meanwhile. So each hook has two there, and the second stands in for the first. If a call
 *     still has lost its entry it has no duration; if it has lost its return it is counted at the
 *     task's next call, without error or duration (unfinished). It is lost only if the programs
 *     of that call's entry were left out too: tasks were preempted in all four at once.
 *   - 32-bit and x32 calls have numbers of their own: they are in the totals, never in the list.
 */
#include <asm-generic/errno.h>

#include "slots.bpf.h"
#include "syscall.h"
#include "units.bpf.h"

#define ERESTARTSYS 512 /* include/linux/errno.h */
#define ERESTART_RESTARTBLOCK 516
#define ERRNO_MAX 4095

#define X32_SYSCALL_BIT 0x40000000
#define COMPAT_SIGRETURN 119 /* the same on x86 and Arm */
#define COMPAT_RT_SIGRETURN 173
#define X32_RT_SIGRETURN (X32_SYSCALL_BIT + 513)

const volatile __u8 syscall_list[KPOD_SYSCALL_NUMBERS] SEC(".rodata.syscall");

static const __u8 error_class[] = {
#define X(error, class) [error] = KPOD_ERROR_##class,
	KPOD_ERRORS(X)
#undef X
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct syscall_row);
} syscall_rows SEC(".maps");

/* Without shards: as many rows as there are calls in each container are enough. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct syscall_call_row);
} syscall_call_rows SEC(".maps");

KPOD_UNITS(syscall);

struct syscall_task {
	__u64 begin_ns; /* 0: in no call */
	struct kpod_owner owner;
	__u8 listed;	/* 1 + place in the list, 0: not in it */
	__u8 no_result; /* what it returns is not its own */
	__u8 foreign;
	__u8 returned; /* by kpod_syscall_exit, so kpod_syscall_exit2 has nothing to do */
	__u8 reserved[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct syscall_task);
} syscall_tasks SEC(".maps");

static __always_inline bool is_32bit(struct task_struct *task)
{
#ifdef __TARGET_ARCH_x86
	return task->thread_info.status & 2; /* TS_COMPAT */
#else
	return task->thread_info.flags & 1 << 22; /* TIF_32BIT */
#endif
}

static __always_inline long number_of(struct pt_regs *regs)
{
	struct pt_regs___number *r = (void *)regs;

#ifdef __TARGET_ARCH_x86
	return BPF_CORE_READ(r, orig_ax);
#else
	return BPF_CORE_READ(r, syscallno);
#endif
}

static __always_inline void identify(struct syscall_task *t, struct task_struct *task, long number)
{
	__u64 index = number;
	__u8 entry = 0;

	t->foreign = is_32bit(task) || (number > 0 && number & X32_SYSCALL_BIT);
	if (t->foreign) {
		t->no_result = number == COMPAT_SIGRETURN || number == COMPAT_RT_SIGRETURN ||
			       number == X32_RT_SIGRETURN;
	} else {
		/*
		 * Else clang compares the int that the number is on arm64, and takes as index what
		 * it has made of it, of which the verifier of 6.1 does not know that it is
		 * positive.
		 */
		barrier_var(index);
		if (index < KPOD_SYSCALL_NUMBERS)
			entry = syscall_list[index];
		t->no_result = !!(entry & KPOD_SYSCALL_NO_RESULT);
	}
	t->listed = entry & ~KPOD_SYSCALL_NO_RESULT;
}

/* KPOD_ERROR_COUNT: no error. */
static __always_inline __u32 class_of(const struct syscall_task *t, long result)
{
	__u64 error = -result;

	if (t->no_result || result >= 0 || result < -ERRNO_MAX)
		return KPOD_ERROR_COUNT;
	if (error >= ERESTARTSYS && error <= ERESTART_RESTARTBLOCK)
		return KPOD_ERROR_INTERRUPTED;
	return error < sizeof(error_class) ? error_class[error] : KPOD_ERROR_OTHER;
}

static __always_inline struct syscall_call_row *call_row(__u32 slot, __u32 listed)
{
	struct kpod_unit unit = {.key = {.slot = slot, .minor = listed}, .words = {listed - 1}};
	__u32 number = kpod_unit_find(syscall, &unit.key);

	if (!number)
		number = kpod_unit_add(syscall, &unit);
	return number ? kpod_shared_row(syscall_call_rows, number) : NULL;
}

/*
 * Counts the call that the task is in, or was refused; ns 0: it has no duration. Returns the row it
 * is counted in.
 */
static __always_inline struct syscall_row *finish(struct task_struct *task, struct syscall_task *t,
						  long result, __u64 ns)
{
	__u32 slot = kpod_owner_slot(&t->owner, task->cgroups->dfl_cgrp);
	struct syscall_row *all = kpod_row(syscall_rows, slot);
	__u32 class = class_of(t, result);
	struct syscall_call_row *row;

	t->begin_ns = 0;
	if (!all)
		return NULL;
	kpod_add(all->calls, 1);
	kpod_add(all->ns, ns);
	if (class < KPOD_ERROR_COUNT)
		kpod_add(all->errors, 1);
	if (t->foreign)
		kpod_add(all->foreign, 1);
	row = t->listed ? call_row(slot, t->listed) : NULL;
	if (!row)
		return all;
	kpod_add_shared(row->calls, 1);
	if (class < KPOD_ERROR_COUNT)
		kpod_add_shared(row->errors[class], 1);
	if (ns) {
		kpod_add_shared(row->ns, ns);
		kpod_add_shared(row->duration[kpod_bucket(ns)], 1);
	}
	return all;
}

static __always_inline void on_enter(struct task_struct *task, long number)
{
	struct syscall_task *t =
		bpf_task_storage_get(&syscall_tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	struct kpod_cgroup *owner;
	struct syscall_row *row;

	if (t) {
		if (kpod_config.preemptible) {
			row = t->begin_ns ? finish(task, t, 0, 0) : NULL;
			if (row)
				kpod_add(row->unfinished, 1);
			t->returned = 0;
		}
		identify(t, task, number);
		t->begin_ns = bpf_ktime_get_ns();
		return;
	}
	owner = kpod_nearest(task->cgroups->dfl_cgrp);
	row = kpod_row(syscall_rows, owner ? owner->slot : 0);
	if (row)
		kpod_add(row->untracked, 1);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(kpod_syscall_enter, struct pt_regs *regs, long number)
{
	on_enter(bpf_get_current_task_btf(), number);
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(kpod_syscall_enter2, struct pt_regs *regs, long number)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct syscall_task *t = bpf_task_storage_get(&syscall_tasks, task, 0, 0);

	if (!t || !t->begin_ns)
		on_enter(task, number);
	return 0;
}

static __always_inline void on_exit(struct task_struct *task, struct syscall_task *t,
				    struct pt_regs *regs, long result)
{
	if (t->begin_ns) {
		finish(task, t, result, bpf_ktime_get_ns() - t->begin_ns);
		return;
	}
	identify(t, task, number_of(regs));
	finish(task, t, result, 0);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(kpod_syscall_exit, struct pt_regs *regs, long result)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct syscall_task *t = bpf_task_storage_get(&syscall_tasks, task, 0, 0);

	if (!t) /* fork() in the child, or the call is older than the loader */
		return 0;
	on_exit(task, t, regs, result);
	if (kpod_config.preemptible)
		t->returned = 1;
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(kpod_syscall_exit2, struct pt_regs *regs, long result)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct syscall_task *t = bpf_task_storage_get(&syscall_tasks, task, 0, 0);

	if (!t)
		return 0;
	if (!t->returned)
		on_exit(task, t, regs, result);
	t->returned = 0;
	return 0;
}

static __always_inline void on_end(struct task_struct *task)
{
	struct syscall_task *t = bpf_task_storage_get(&syscall_tasks, task, 0, 0);

	if (t && t->begin_ns)
		finish(task, t, 0, 0);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(kpod_syscall_end, struct task_struct *task)
{
	on_end(task);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(kpod_syscall_end2, struct task_struct *task)
{
	on_end(task);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

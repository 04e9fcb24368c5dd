// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * CPU scheduling and page faults per container, from one hook and no clock: the scheduler itself
 * keeps each task's time on CPU (se.sum_exec_runtime) and time runnable but waiting
 * (sched_info.run_delay), so what belongs to one stint on a CPU is a difference of the two between
 * switch-in and switch-out. That is what /proc/PID/schedstat shows, to the nanosecond, and it costs
 * less than half of stamping wake-ups (docs/decisions/0001-scheduler-counters.md).
 *
 * The kernel also counts each task's page faults (min_flt, maj_flt), and only the task that runs
 * has any. They are booked here and not by a hook per fault, nor by a second program on this hook.
 *
 * A stint is booked when it ends, to the cgroup the task is in then; tasks that are on a CPU when a
 * snapshot is taken are booked by kpod_cpu_flush up to that moment. Of a stint in which somebody
 * moved the task to another cgroup, what it had run by then is booked to the one it was in.
 *
 * The scheduler's hook holds a run queue, and nothing preempts its program. Of the others each hook
 * has two where programs may be preempted (7.0): the kernel leaves one out for other tasks of that
 * CPU meanwhile, and the second stands in for the first.
 */
#include "slots.bpf.h"

#include "cpu.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cpu_row);
} cpu_rows SEC(".maps");

/* What was so when the running task got this CPU, or was last flushed. Written by its CPU only. */
struct stint {
	__u64 ran_ns;	  /* its se.sum_exec_runtime */
	__u64 delayed_ns; /* its sched_info.run_delay, without the wait just ended */
	__u64 voluntary;  /* its nvcsw */
	__u64 faults[KPOD_FAULTS];
	__u64 task;   /* its address: a thread that calls execve() changes its pid. 0: not known */
	__u32 holder; /* slot of the task before it, or HOLDER_IDLE */
	__u32 waited; /* the wait before it is booked */
} __attribute__((aligned(64)));

#define HOLDER_IDLE 0xffffffff

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct stint);
} cpu_stints SEC(".maps");

struct task_account {
	__u64 ran_ns;		   /* sum_exec_runtime that is booked already */
	__u64 delayed_ns;	   /* run_delay likewise */
	__u64 faults[KPOD_FAULTS]; /* min_flt and maj_flt likewise */
	__u64 moved_ns;		   /* CLOCK_MONOTONIC: when its process was last moved */
	struct kpod_owner owner;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_account);
} cpu_tasks SEC(".maps");

static __always_inline __u32 slot_of(struct task_struct *task, struct task_account *account)
{
	struct cgroup *cgrp = task->cgroups->dfl_cgrp;
	struct kpod_owner unknown = {};

	return kpod_owner_slot(account ? &account->owner : &unknown, cgrp);
}

static __always_inline void read_faults(__u64 faults[KPOD_FAULTS], const struct task_struct *task)
{
	faults[KPOD_FAULT_MINOR] = task->min_flt;
	faults[KPOD_FAULT_MAJOR] = task->maj_flt;
}

/* Adds the faults that are not in `booked` yet, which is brought up to date. */
static __always_inline void book_faults(struct cpu_row *row, const struct task_struct *task,
					__u64 booked[KPOD_FAULTS])
{
	__u64 now[KPOD_FAULTS];

	read_faults(now, task);
#pragma unroll
	for (int i = 0; i < KPOD_FAULTS; i++) {
		if (now[i] == booked[i])
			continue;
		kpod_add(row->faults[i], now[i] - booked[i]);
		booked[i] = now[i];
	}
}

/*
 * Books what a task had run before it was moved in this stint, and returns it. It has been running
 * since, so that is all but the time since then; a task that was moved before the stint has none.
 */
static __always_inline __u64 book_moved(struct task_struct *task, struct task_account *account,
					__u32 slot, __u64 ran)
{
	struct task_account *process = bpf_task_storage_get(&cpu_tasks, task->group_leader, 0, 0);
	__u64 moved_ns = account->moved_ns, now = bpf_ktime_get_ns();
	struct cpu_row *row = kpod_row(cpu_rows, slot);

	/* Of a process that is moved as a whole, the hook sees the main thread. */
	if (process && process->moved_ns > moved_ns)
		moved_ns = process->moved_ns;
	if (!row || !moved_ns || now - moved_ns >= ran)
		return 0;
	kpod_add(row->oncpu_ns, ran - (now - moved_ns));
	return ran - (now - moved_ns);
}

/* Books what the task on this CPU has done since `stint`; returns its row. */
static __always_inline struct cpu_row *book(struct task_struct *task, struct stint *stint,
					    __u32 *slot)
{
	struct task_account *account = bpf_task_storage_get(&cpu_tasks, task, 0, 0);
	__u64 delayed = task->sched_info.run_delay;
	__u64 ran = task->se.sum_exec_runtime;
	bool known = stint->task == (__u64)task;
	struct kpod_owner before = {};
	struct cpu_row *row;
	__u64 booked, wait;
	__u32 class;

	if (account)
		before = account->owner;
	*slot = slot_of(task, account);
	row = kpod_row(cpu_rows, *slot);
	if (!row)
		return NULL;
	/* With an account nothing is lost if the hook was not run when the stint began. */
	booked = account ? account->ran_ns : known ? stint->ran_ns : ran;
	/* With another epoch the slot before may be somebody else's by now. */
	if (account && before.slot != *slot && before.cgroup_id &&
	    before.cgroup_id != account->owner.cgroup_id && before.epoch == account->owner.epoch &&
	    ran > booked)
		booked += book_moved(task, account, before.slot, ran - booked);
	if (ran > booked)
		kpod_add(row->oncpu_ns, ran - booked);
	/* Not read again later: another CPU may bring it up to date meanwhile. */
	stint->ran_ns = ran;
	if (!account)
		kpod_add(row->untracked, 1);
	if (known && !stint->waited) {
		booked = account ? account->delayed_ns : stint->delayed_ns;
		wait = delayed > booked ? delayed - booked : 0;
		class = stint->holder == HOLDER_IDLE ? KPOD_HELD_IDLE
			: stint->holder == 0	     ? KPOD_HELD_HOST
			: stint->holder == *slot     ? KPOD_HELD_SELF
						     : KPOD_HELD_OTHER;
		kpod_add(row->wait_ns[class], wait);
		kpod_add(row->wait[kpod_bucket(wait)], 1);
	}
	if (account) {
		account->ran_ns = ran;
		account->delayed_ns = delayed;
		book_faults(row, task, account->faults);
	} else if (known) {
		book_faults(row, task, stint->faults);
	}
	return row;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(kpod_cpu_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	__u32 cpu = bpf_get_smp_processor_id(), slot = 0, holder = HOLDER_IDLE;
	struct stint *stint = bpf_map_lookup_elem(&cpu_stints, &cpu);
	struct cpu_row *row;

	if (!stint)
		return 0;
	if (prev->pid) {
		row = book(prev, stint, &slot);
		holder = slot;
		/* The kernel counted this switch just before this hook, by the rule we want. */
		if (!row)
			;
		else if (stint->task == (__u64)prev ? prev->nvcsw != stint->voluntary : !preempt)
			kpod_add(row->switches[KPOD_SWITCH_VOLUNTARY], 1);
		else
			kpod_add(row->switches[KPOD_SWITCH_INVOLUNTARY], 1);
	} else {
		row = kpod_row(cpu_rows, 0);
		if (row)
			kpod_add(row->switches[KPOD_SWITCH_IDLE], 1);
	}

	stint->task = (__u64)next;
	stint->ran_ns = next->se.sum_exec_runtime;
	stint->delayed_ns = next->sched_info.run_delay;
	stint->voluntary = next->nvcsw;
	read_faults(stint->faults, next);
	stint->holder = holder;
	stint->waited = 0;
	return 0;
}

static __always_inline int on_fork(struct task_struct *task)
{
	struct task_account *account =
		bpf_task_storage_get(&cpu_tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (account)
		slot_of(task, account);
	return 0;
}

/* A new task has waited for nothing yet. Not made in the hook above: that holds a run queue. */
SEC("tp_btf/task_newtask")
int BPF_PROG(kpod_cpu_fork, struct task_struct *task)
{
	return on_fork(task);
}

SEC("tp_btf/task_newtask")
int BPF_PROG(kpod_cpu_fork2, struct task_struct *task)
{
	return on_fork(task);
}

static __always_inline int on_move(struct task_struct *task)
{
	struct task_account *account = bpf_task_storage_get(&cpu_tasks, task, 0, 0);

	if (account)
		account->moved_ns = bpf_ktime_get_ns();
	return 0;
}

/* A task, or a process by its main thread, is in another cgroup from now on. */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(kpod_cpu_move, struct cgroup *to, const char *path, struct task_struct *task)
{
	return on_move(task);
}

SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(kpod_cpu_move2, struct cgroup *to, const char *path, struct task_struct *task)
{
	return on_move(task);
}

/* Run once at the start: tasks older than the loader, whose past is not ours. */
SEC("iter/task")
int kpod_cpu_adopt(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct task_account *account;

	if (!task || bpf_task_storage_get(&cpu_tasks, task, 0, 0))
		return 0;
	account = bpf_task_storage_get(&cpu_tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (account) {
		account->ran_ns = task->se.sum_exec_runtime;
		account->delayed_ns = task->sched_info.run_delay;
		read_faults(account->faults, task);
		slot_of(task, account);
	}
	return 0;
}

/* Run by the loader on every CPU before a snapshot: books the task that is running there. */
SEC("raw_tp")
int kpod_cpu_flush(void *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 cpu = bpf_get_smp_processor_id(), slot;
	struct stint *stint = bpf_map_lookup_elem(&cpu_stints, &cpu);

	if (!stint || !task->pid || stint->task != (__u64)task || !book(task, stint, &slot))
		return 0;
	stint->waited = 1;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

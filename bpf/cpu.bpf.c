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
#include "infos.bpf.h"
#include "units.bpf.h"

#include "cpu.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cpu_row);
} cpu_rows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cpu_pair_row);
} cpu_pair_rows SEC(".maps");

KPOD_UNITS(cpu_pairs);

#define PAIRS_HELD 64 /* a power of two */

/* Who waited for whom, not in a row yet. Both are slots with their generations above. */
struct pair {
	__u64 victim;
	__u64 culprit;
	__u64 wait_ns;
	__u64 reserved;
};

/* Who had a CPU, and for how long; small, as each switch writes one. */
struct turn {
	__u64 holder; /* its slot with the generation above, or HOLDER_IDLE */
	__u32 task;   /* its pid: half of an address cannot be spilled (clang 19) */
	__u32 ran;    /* in units of 2^TURN_SHIFT ns */
};

#define TURN_SHIFT 6 /* 274 s fit, and no more count */
#define TURNS 8	     /* a power of two */

/* What was so when the running task got this CPU, or was last flushed. Written by its CPU only. */
struct stint {
	__u64 ran_ns;	  /* its se.sum_exec_runtime */
	__u64 delayed_ns; /* its sched_info.run_delay, without the wait just ended */
	__u64 voluntary;  /* its nvcsw */
	__u64 faults[KPOD_FAULTS];
	__u64 task;   /* its address: a thread that calls execve() changes its pid. 0: not known */
	__u32 turns;  /* how many there were before it, of which the last are in `turn` */
	__u32 waited; /* the wait before it is booked */
	__u64 began_ns; /* as ran_ns, but when it got the CPU, no matter when it was flushed */
	struct turn turn[TURNS];
	struct pair pairs[PAIRS_HELD]; /* of this CPU's stints; see hold_pair() */
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
	struct kpod_owner owner;   /* whose `reserved` is the generation of the slot */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_account);
} cpu_tasks SEC(".maps");

/* The slot, and above it its generation: looked up together, and so seldom. */
static __always_inline __u64 owner_of(struct task_struct *task, struct task_account *account)
{
	struct kpod_owner unknown = {}, *owner = account ? &account->owner : &unknown;
	struct cgroup *cgrp = task->cgroups->dfl_cgrp;
	struct kpod_control *ctl = kpod_control();
	struct kpod_slot_info *info;
	__u32 slot;

	if (owner->cgroup_id != cgrp->kn->id || !ctl || owner->epoch != ctl->epoch) {
		slot = kpod_owner_slot(owner, cgrp);
		info = kpod_config.culprits ? bpf_map_lookup_elem(&slots, &slot) : NULL;
		owner->reserved = info ? info->generation : 0;
	}
	return owner->slot | (__u64)owner->reserved << 32;
}

#define add_pair(pair)                                                                             \
	kpod_unit_add_to(&cpu_pairs_index, &cpu_pairs_free, &cpu_pairs_reserved, &cpu_pairs_units, \
			 pair)

static __always_inline __u32 new_pair(struct kpod_unit *pair)
{
	__u32 first = pair->key.slot * kpod_config.shards, number;
	struct cpu_row *victim = bpf_map_lookup_elem(&cpu_rows, &first);
	/* CPUs that do this at once may give a victim one too many; the loader counts them anew. */
	bool named = victim && victim->pairs < kpod_config.culprits;

	if (named) {
		number = add_pair(pair);
		if (number) {
			__sync_fetch_and_add(&victim->pairs, 1);
			return number;
		}
	}
	pair->key.minor = (__u32)KPOD_CULPRIT_OTHER;
	pair->key.major = pair->key.major >> 32 << 32;
	pair->words[0] = KPOD_CULPRIT_OTHER;
	number = kpod_unit_find(cpu_pairs, &pair->key);
	if (!number)
		number = add_pair(pair);
	if (named || !number)
		kpod_unit_count_lost(&cpu_pairs_units, !number);
	return number;
}

/* A global function: verified once, and not for each of a CPU's pairs. */
__noinline int kpod_cpu_book_pair(__u64 victim, __u64 culprit, __u64 wait_ns)
{
	struct kpod_unit pair = {
		.key = {.slot = (__u32)victim,
			.minor = (__u32)culprit,
			.major = victim >> 32 << 32 | culprit >> 32},
		.words = {culprit},
	};
	__u32 number = kpod_unit_find(cpu_pairs, &pair.key);
	struct cpu_pair_row *row;

	if (!number)
		number = new_pair(&pair);
	row = number ? kpod_shared_row(cpu_pair_rows, number) : NULL;
	if (row)
		kpod_add_shared(row->wait_ns, wait_ns);
	return 0;
}

/*
 * Notes who waited for whom. There are few such pairs on a CPU, so that most are held where the
 * stint is, at the cost of an addition, until another pair needs the place, or a snapshot is taken.
 */
static __always_inline void hold_pair(struct stint *stint, __u64 victim, __u64 culprit,
				      __u64 wait_ns)
{
	struct pair *pair = &stint->pairs[(victim * 9 ^ culprit) & (PAIRS_HELD - 1)];

	if (pair->victim != victim || pair->culprit != culprit) {
		if (pair->wait_ns)
			kpod_cpu_book_pair(pair->victim, pair->culprit, pair->wait_ns);
		pair->victim = victim;
		pair->culprit = culprit;
		pair->wait_ns = 0;
	}
	pair->wait_ns += wait_ns;
}

/* Books a part of a wait, by who held the CPU then. */
static __always_inline void book_part(struct stint *stint, struct cpu_row *row, __u64 victim,
				      __u64 holder, __u64 wait_ns)
{
	__u32 slot = (__u32)holder;
	__u32 class = slot == HOLDER_IDLE     ? KPOD_HELD_IDLE
		      : slot == 0	      ? KPOD_HELD_HOST
		      : slot == (__u32)victim ? KPOD_HELD_SELF
					      : KPOD_HELD_OTHER;

	kpod_add(row->wait_ns[class], wait_ns);
	if (kpod_config.culprits && class == KPOD_HELD_OTHER)
		hold_pair(stint, victim, holder, wait_ns);
}

static __always_inline __u64 ran_ns(const struct turn *turn)
{
	return (__u64)turn->ran << TURN_SHIFT;
}

/* Of a wait that is longer than the turn before it; called, so that all others do not pay for it.
 */
static __noinline void divide_wait(struct stint *stint, struct cpu_row *row, __u32 task,
				   __u64 victim, __u64 wait_ns)
{
	struct turn *turn = &stint->turn[(stint->turns - 1) & (TURNS - 1)];
	__u64 holder = turn->holder, longest_ns = 0, left = wait_ns;

	for (__u32 i = 2; i <= TURNS + 1; i++) {
		if (left <= wait_ns / 16)
			break;
		if (turn->task == task || turn->holder == HOLDER_IDLE) {
			holder = turn->task == task ? 0 : HOLDER_IDLE;
			break;
		}
		if (ran_ns(turn) >= left) {
			holder = turn->holder;
			break;
		}
		if (ran_ns(turn) > longest_ns) {
			longest_ns = ran_ns(turn);
			holder = turn->holder;
		}
		book_part(stint, row, victim, turn->holder, ran_ns(turn));
		left -= ran_ns(turn);
		turn = &stint->turn[(stint->turns - i) & (TURNS - 1)];
	}
	book_part(stint, row, victim, holder, left);
}

/*
 * Books the wait before this stint to those who held the CPU meanwhile: who had it last, up to the
 * time that was, then who had it before, and so on, but no further back than the task's own last
 * turn or a time when the CPU was idle: before that it waited elsewhere, or not at all, and what is
 * left is the host's (interrupts) or nobody's. What is longer ago, or little, is the longest one's.
 */
static __always_inline void book_wait(struct task_struct *task, struct stint *stint,
				      struct cpu_row *row, __u64 victim, __u64 wait_ns)
{
	struct turn *last = &stint->turn[(stint->turns - 1) & (TURNS - 1)];

	if (ran_ns(last) < wait_ns && last->holder != HOLDER_IDLE)
		divide_wait(stint, row, (__u32)task->pid, victim, wait_ns);
	else
		book_part(stint, row, victim, last->holder, wait_ns);
}

static __always_inline void book_pairs(struct stint *stint)
{
	for (__u32 i = 0; i < PAIRS_HELD; i++) {
		struct pair *pair = &stint->pairs[i & (PAIRS_HELD - 1)];

		if (!pair->wait_ns)
			continue;
		kpod_cpu_book_pair(pair->victim, pair->culprit, pair->wait_ns);
		pair->wait_ns = 0;
	}
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

/* Books what the task on this CPU has done since `stint`; returns its row, and who owns it. */
static __always_inline struct cpu_row *book(struct task_struct *task, struct stint *stint,
					    __u64 *owner)
{
	struct task_account *account = bpf_task_storage_get(&cpu_tasks, task, 0, 0);
	__u64 delayed = task->sched_info.run_delay;
	__u64 ran = task->se.sum_exec_runtime;
	bool known = stint->task == (__u64)task;
	struct kpod_owner before = {};
	struct cpu_row *row;
	__u64 booked, wait;
	__u32 slot;

	if (account)
		before = account->owner;
	*owner = owner_of(task, account);
	slot = (__u32)*owner;
	row = kpod_row(cpu_rows, slot);
	if (!row)
		return NULL;
	/* With an account nothing is lost if the hook was not run when the stint began. */
	booked = account ? account->ran_ns : known ? stint->ran_ns : ran;
	/* With another epoch the slot before may be somebody else's by now. */
	if (account && before.slot != slot && before.cgroup_id &&
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
		if (wait)
			book_wait(task, stint, row, *owner, wait);
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
	__u32 cpu = bpf_get_smp_processor_id();
	struct stint *stint = bpf_map_lookup_elem(&cpu_stints, &cpu);
	__u64 holder = HOLDER_IDLE;
	struct turn *turn;
	struct cpu_row *row;

	if (!stint)
		return 0;
	if (prev->pid) {
		row = book(prev, stint, &holder);
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

	turn = &stint->turn[stint->turns++ & (TURNS - 1)];
	turn->holder = holder;
	turn->task = (__u32)prev->pid;
	turn->ran =
		stint->task == (__u64)prev ? (stint->ran_ns - stint->began_ns) >> TURN_SHIFT : 0;

	stint->task = (__u64)next;
	stint->ran_ns = stint->began_ns = next->se.sum_exec_runtime;
	stint->delayed_ns = next->sched_info.run_delay;
	stint->voluntary = next->nvcsw;
	read_faults(stint->faults, next);
	stint->waited = 0;
	return 0;
}

static __always_inline int on_fork(struct task_struct *task)
{
	struct task_account *account =
		bpf_task_storage_get(&cpu_tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (account)
		owner_of(task, account);
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
		owner_of(task, account);
	}
	return 0;
}

/* Run by the loader on every CPU before a snapshot: books the task that is running there. */
SEC("raw_tp")
int kpod_cpu_flush(void *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 cpu = bpf_get_smp_processor_id();
	struct stint *stint = bpf_map_lookup_elem(&cpu_stints, &cpu);
	__u64 owner;

	if (!stint)
		return 0;
	if (task->pid && stint->task == (__u64)task && book(task, stint, &owner))
		stint->waited = 1;
	if (kpod_config.culprits)
		book_pairs(stint);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Programs started and processes ended, one record each. An object of its own, which only
 * `kpod-loader events exec` loads: measurement sends no record per event.
 */
#include "life.bpf.h"

#include "events.h"

#define LEVELS_MAX 16

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} events SEC(".maps");

volatile __u64 events_lost; /* for want of room in the ring buffer */

static __always_inline void put_path(struct kpod_event *e, struct cgroup *cgrp)
{
	__u32 size = 0;

	for (int i = 0; i < LEVELS_MAX; i++) {
		struct cgroup_subsys_state *parent = BPF_CORE_READ(cgrp, self.parent);
		long n;

		if (!parent || size >= KPOD_EVENT_PATH)
			break;
		n = bpf_probe_read_kernel_str(e->path + size, KPOD_EVENT_NAME,
					      BPF_CORE_READ(cgrp, kn, name));
		if (n < 1 || n > KPOD_EVENT_NAME)
			break;
		size += n;
		cgrp = BPF_CORE_READ(parent, cgroup);
	}
	e->path_size = size;
}

static __always_inline struct kpod_event *begin(struct task_struct *task, __u32 kind)
{
	struct kpod_event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		__sync_fetch_and_add(&events_lost, 1);
		return NULL;
	}
	e->monotonic_ns = bpf_ktime_get_ns();
	e->cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	e->kind = kind;
	e->pid = task->tgid;
	e->ppid = BPF_CORE_READ(task, real_parent, tgid);
	e->uid = BPF_CORE_READ(task, cred, uid.val);
	e->status = 0;
	e->args_size = e->args_cut = 0;
	BPF_CORE_READ_STR_INTO(&e->comm, task, comm);
	put_path(e, BPF_CORE_READ(task, cgroups, dfl_cgrp));
	e->filename[0] = '\0';
	return e;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(kpod_events_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	unsigned long start = BPF_CORE_READ(task, mm, arg_start);
	unsigned long size = BPF_CORE_READ(task, mm, arg_end) - start;
	struct kpod_event *e = begin(task, KPOD_EVENT_EXEC);

	if (!e)
		return 0;
	bpf_probe_read_kernel_str(e->filename, sizeof(e->filename), BPF_CORE_READ(bprm, filename));
	if (size > sizeof(e->args)) {
		size = sizeof(e->args);
		e->args_cut = 1;
	}
	if (!bpf_probe_read_user(e->args, size, (void *)start))
		e->args_size = size;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(kpod_events_exit, struct task_struct *task)
{
	struct kpod_event *e;

	if (!kpod_process_ends(ctx, task))
		return 0;
	e = begin(task, KPOD_EVENT_EXIT);
	if (!e)
		return 0;
	e->status = kpod_wait_status(task);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

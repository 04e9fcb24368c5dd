// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Programs started and processes ended, OOM kills, and TCP packets dropped: one record each. An
 * object of its own, of which `kpod-loader events` loads what it prints: measurement sends no
 * record per event.
 */
#include "drop.bpf.h"
#include "life.bpf.h"

#include "events.h"

#define LEVELS_MAX 16
#define SIGKILL 9

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

/* Returns NULL, and counts that, if there is no room. */
static __always_inline void *reserve(void *record)
{
	if (!record)
		__sync_fetch_and_add(&events_lost, 1);
	return record;
}

#define RESERVE(type) reserve(bpf_ringbuf_reserve(&events, sizeof(type), 0))

static __always_inline void begin(struct kpod_event *e, __u32 kind, struct cgroup *cgrp)
{
	e->monotonic_ns = bpf_ktime_get_ns();
	e->cgroup_id = BPF_CORE_READ(cgrp, kn, id);
	e->kind = kind;
	put_path(e, cgrp);
}

static __always_inline struct kpod_process_event *begin_process(struct task_struct *task,
								__u32 kind)
{
	struct kpod_process_event *e = RESERVE(struct kpod_process_event);

	if (!e)
		return NULL;
	begin(&e->event, kind, BPF_CORE_READ(task, cgroups, dfl_cgrp));
	e->pid = task->tgid;
	e->ppid = BPF_CORE_READ(task, real_parent, tgid);
	e->uid = BPF_CORE_READ(task, cred, uid.val);
	e->status = 0;
	e->args_size = e->args_cut = 0;
	BPF_CORE_READ_STR_INTO(&e->comm, task, comm);
	e->filename[0] = '\0';
	return e;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(kpod_events_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	unsigned long start = BPF_CORE_READ(task, mm, arg_start);
	unsigned long size = BPF_CORE_READ(task, mm, arg_end) - start;
	struct kpod_process_event *e = begin_process(task, KPOD_EVENT_EXEC);

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
	struct kpod_process_event *e;

	if (!kpod_process_ends(ctx, task))
		return 0;
	e = begin_process(task, KPOD_EVENT_EXIT);
	if (!e)
		return 0;
	e->status = kpod_wait_status(task);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* By CPU, who was last sent a SIGKILL there: as in memory.bpf.c, which says why. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64); /* the address of its task_struct; 0: it has been marked */
} events_killed SEC(".maps");

static __always_inline __u64 *last_killed(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&events_killed, &zero);
}

SEC("tp_btf/signal_generate")
int BPF_PROG(kpod_events_signal, int signal, void *info, struct task_struct *task)
{
	__u64 *killed = signal == SIGKILL ? last_killed() : NULL;

	if (killed)
		*killed = (__u64)task;
	return 0;
}

/* pid: of the task that was marked. */
static __always_inline int on_victim(int pid)
{
	__u64 *killed = last_killed();
	struct task_struct *task = killed ? (void *)*killed : NULL, *self;
	struct kpod_oom_event *e;

	/* __oom_kill_process() has the victim locked: it is there still. */
	if (!task || BPF_CORE_READ(task, pid) != pid)
		return 0;
	*killed = 0;
	e = RESERVE(struct kpod_oom_event);
	if (!e)
		return 0;
	self = (void *)bpf_get_current_task();
	begin(&e->event, KPOD_EVENT_OOM, BPF_CORE_READ(task, cgroups, dfl_cgrp));
	e->pid = BPF_CORE_READ(task, tgid);
	e->uid = BPF_CORE_READ(task, cred, uid.val);
	e->score_adj = BPF_CORE_READ(task, signal, oom_score_adj);
	e->by_pid = BPF_CORE_READ(self, tgid);
	e->address_space_pages = BPF_CORE_READ(task, mm, total_vm);
	BPF_CORE_READ_STR_INTO(&e->comm, task, comm);
	BPF_CORE_READ_STR_INTO(&e->by_comm, self, comm);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

SEC("tp_btf/mark_victim")
int BPF_PROG(kpod_events_victim, struct task_struct *task)
{
	return on_victim(task->pid);
}

/* Before 6.8. */
SEC("tp_btf/mark_victim")
int BPF_PROG(kpod_events_victim_pid, int pid)
{
	return on_victim(pid);
}

#define IP_ADDRESSES 12	 /* offset in an IPv4 header */
#define IPV6_ADDRESSES 8 /* offset in an IPv6 header */
#define TCP_FLAGS 13	 /* offset in TCP's header, which begins with the ports */

static __always_inline void put_packet(struct kpod_drop_event *e, const struct sk_buff *skb)
{
	const unsigned char *ip = kpod_network_header(skb), *tcp;
	__u8 first = kpod_byte_at(ip), version = first >> 4;
	__u16 transport = BPF_CORE_READ(skb, transport_header);

	e->version = e->flags = 0;
	__builtin_memset(e->ports, 0, sizeof(e->ports));
	__builtin_memset(e->addresses, 0, sizeof(e->addresses));
	if (version == 4) {
		tcp = ip + 4 * (first & 0xf);
		bpf_probe_read_kernel(e->addresses[0], 4, ip + IP_ADDRESSES);
		bpf_probe_read_kernel(e->addresses[1], 4, ip + IP_ADDRESSES + 4);
	} else if (version == 6) {
		/* The stack has said where TCP's begins, as there may be others between. */
		tcp = transport && transport != 0xffff ? BPF_CORE_READ(skb, head) + transport
						       : ip + IPV6_SIZE;
		bpf_probe_read_kernel(e->addresses, sizeof(e->addresses), ip + IPV6_ADDRESSES);
	} else {
		return;
	}
	e->version = version;
	bpf_probe_read_kernel(e->ports, sizeof(e->ports), tcp);
	e->flags = kpod_byte_at(tcp + TCP_FLAGS);
}

/* A classic tracepoint: of tp_btf, tasks that are preempted in it would lose events (7.0). */
SEC("tp/skb/kfree_skb")
int kpod_events_drop(const struct trace_event_raw_kfree_skb *event)
{
	const struct sk_buff *skb = event->skbaddr;
	const struct sock *sk;
	struct kpod_drop_event *e;
	__u32 reason = event->reason;

	if (!kpod_is_tcp_drop(skb, reason, kpod_says_receiver() ? event->rx_sk : NULL, &sk))
		return 0;
	e = RESERVE(struct kpod_drop_event);
	if (!e)
		return 0;
	begin(&e->event, KPOD_EVENT_DROP, kpod_is_full_socket(sk) ? kpod_socket_cgroup(sk) : NULL);
	e->reason = kpod_drop_name(reason);
	e->size = BPF_CORE_READ(skb, len);
	put_packet(e, skb);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * TCP packets dropped, by the kernel's reason. The owner is the socket's, not who happens to run.
 *
 * Most are dropped in softirqs, but tasks free packets, too. Where a task may be preempted in a
 * program (7.0), which the kernel then leaves out for all others of that CPU, a classic tracepoint
 * counts: nothing is preempted there.
 */
#include "drop.bpf.h"
#include "socket.bpf.h"
#include "units.bpf.h"

#include "tcpdrop.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tcpdrop_row);
} tcpdrop_rows SEC(".maps");

KPOD_UNITS(tcpdrop);

static __always_inline void count(const struct sock *sk, __u32 reason)
{
	struct kpod_cgroup *owner = kpod_socket_owner(sk);
	__u32 name = kpod_drop_name(reason), number;
	struct kpod_unit unit = {.key = {.slot = owner ? owner->slot : 0, .minor = name}};
	struct tcpdrop_row *row;

	number = kpod_unit_find(tcpdrop, &unit.key);
	if (!number) {
		unit.words[0] = name;
		number = kpod_unit_add(tcpdrop, &unit);
	}
	row = number ? kpod_shared_row(tcpdrop_rows, number) : NULL;
	if (row)
		kpod_add_shared(row->packets, 1);
}

static __always_inline int on_free(const struct sk_buff *skb, __u32 reason,
				   const struct sock *receiver)
{
	const struct sock *sk;

	if (kpod_is_tcp_drop(skb, reason, receiver, &sk))
		count(sk, reason);
	return 0;
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(kpod_tcpdrop_free, struct sk_buff *skb, void *location, enum skb_drop_reason reason)
{
	return on_free(skb, reason,
		       kpod_says_receiver() ? (const struct sock *)ctx[KPOD_DROP_RECEIVER] : NULL);
}

SEC("tp/skb/kfree_skb")
int kpod_tcpdrop_free_tp(const struct trace_event_raw_kfree_skb *event)
{
	return on_free(event->skbaddr, event->reason, kpod_says_receiver() ? event->rx_sk : NULL);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

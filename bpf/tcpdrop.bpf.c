// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * TCP packets dropped, by the kernel's reason. The owner is the socket's, not who happens to run.
 *
 * Most are dropped in softirqs, but tasks free packets, too. Where a task may be preempted in a
 * program (7.0), which the kernel then leaves out for all others of that CPU, a classic tracepoint
 * counts: nothing is preempted there.
 */
#include "socket.bpf.h"
#include "units.bpf.h"

#include <bpf/bpf_endian.h>

#include "tcpdrop.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tcpdrop_row);
} tcpdrop_rows SEC(".maps");

KPOD_UNITS(tcpdrop);

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define IP_PROTOCOL 9	   /* offset in an IPv4 header */
#define IPV6_NEXT 6	   /* offset in an IPv6 header, … */
#define IPV6_SIZE 40	   /* … its size, … */
#define IPV6_OPTIONS_MAX 4 /* … and how many headers of options after it are looked at */
#define IPPROTO_FRAGMENT 44

static __always_inline __u8 byte_at(const unsigned char *at)
{
	__u8 byte = 0;

	bpf_probe_read_kernel(&byte, 1, at);
	return byte;
}

static __always_inline bool is_ipv6_option(__u8 header)
{
	return header == 0 || header == 43 || header == IPPROTO_FRAGMENT || header == 60;
}

/* From the header, which is where the device or the stack has said, or where the data begins. */
static __always_inline bool is_tcp_packet(const struct sk_buff *skb)
{
	const unsigned char *at = BPF_CORE_READ(skb, data);
	__u16 protocol = bpf_ntohs(BPF_CORE_READ(skb, protocol));
	__u16 offset = BPF_CORE_READ(skb, network_header);
	__u8 header;

	if (offset && offset != 0xffff)
		at = BPF_CORE_READ(skb, head) + offset;
	if (protocol == ETH_P_IP)
		return byte_at(at) >> 4 == 4 && byte_at(at + IP_PROTOCOL) == IPPROTO_TCP;
	if (protocol != ETH_P_IPV6 || byte_at(at) >> 4 != 6)
		return false;
	header = byte_at(at + IPV6_NEXT);
	at += IPV6_SIZE;
	for (int i = 0; i < IPV6_OPTIONS_MAX && is_ipv6_option(header); i++) {
		__u8 next = byte_at(at);

		at += header == IPPROTO_FRAGMENT ? 8 : 8 * (byte_at(at + 1) + 1);
		header = next;
	}
	return header == IPPROTO_TCP;
}

static __always_inline bool is_tcp_socket(const struct sock *sk)
{
	return BPF_CORE_READ(sk, sk_type) == SOCK_STREAM &&
	       BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP;
}

/*
 * A reason's place among the names that the loader gives: those of a subsystem are one, after the
 * kernel's own. 0: none that the kernel has. Some queues of 7.2 (tbf, when it has split a packet)
 * leave whatever was where the reason is.
 */
static __always_inline __u32 name_of(__u32 reason)
{
	__u32 own = bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_MAX);
	__u32 subsystem = reason >> 16, subsystems = 0;

	if (bpf_core_enum_value_exists(enum skb_drop_reason_subsys, SKB_DROP_REASON_SUBSYS_NUM))
		subsystems = bpf_core_enum_value(enum skb_drop_reason_subsys,
						 SKB_DROP_REASON_SUBSYS_NUM);
	if (reason < own)
		return reason;
	return subsystem && subsystem < subsystems ? own + subsystem : 0;
}

static __always_inline void count(const struct sock *sk, __u32 reason)
{
	struct kpod_cgroup *owner = kpod_socket_owner(sk);
	__u32 name = name_of(reason), number;
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

#define RECEIVER 3 /* the hook's argument since 6.11: whose queue it did not get into, or NULL */

static __always_inline bool says_receiver(void)
{
	return bpf_core_field_exists(((struct trace_event_raw_kfree_skb *)0)->rx_sk);
}

static __always_inline int on_free(const struct sk_buff *skb, __u32 reason,
				   const struct sock *receiver)
{
	const struct sock *sk = BPF_CORE_READ(skb, sk);

	if (says_receiver()) {
		if (receiver)
			sk = receiver;
		/* tcp_v4_rcv() has done all that was to be done, and says "drop" without a reason.
		 */
		if (BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_TIME_WAIT &&
		    reason == bpf_core_enum_value(enum skb_drop_reason,
						  SKB_DROP_REASON_NOT_SPECIFIED))
			return 0;
	}
	/* A packet socket or a raw one has lost a copy, and not TCP. */
	if (kpod_is_full_socket(sk) ? is_tcp_socket(sk) : is_tcp_packet(skb))
		count(sk, reason);
	return 0;
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(kpod_tcpdrop_free, struct sk_buff *skb, void *location, enum skb_drop_reason reason)
{
	return on_free(skb, reason, says_receiver() ? (const struct sock *)ctx[RECEIVER] : NULL);
}

SEC("tp/skb/kfree_skb")
int kpod_tcpdrop_free_tp(const struct trace_event_raw_kfree_skb *event)
{
	return on_free(event->skbaddr, event->reason, says_receiver() ? event->rx_sk : NULL);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

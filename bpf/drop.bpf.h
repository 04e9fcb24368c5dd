/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Which of the packets that the kernel frees are TCP's drops, whose, and why. */
#ifndef KPOD_DROP_BPF_H
#define KPOD_DROP_BPF_H

#include "sock.bpf.h"

#include <bpf/bpf_endian.h>

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define IP_PROTOCOL 9	   /* offset in an IPv4 header */
#define IPV6_NEXT 6	   /* offset in an IPv6 header, … */
#define IPV6_SIZE 40	   /* … its size, … */
#define IPV6_OPTIONS_MAX 4 /* … and how many headers of options after it are looked at */
#define IPPROTO_FRAGMENT 44

static __always_inline __u8 kpod_byte_at(const unsigned char *at)
{
	__u8 byte = 0;

	bpf_probe_read_kernel(&byte, 1, at);
	return byte;
}

static __always_inline bool is_ipv6_option(__u8 header)
{
	return header == 0 || header == 43 || header == IPPROTO_FRAGMENT || header == 60;
}

/* Where the device or the stack has said, or where the data begins. */
static __always_inline const unsigned char *kpod_network_header(const struct sk_buff *skb)
{
	__u16 offset = BPF_CORE_READ(skb, network_header);

	return offset && offset != 0xffff ? BPF_CORE_READ(skb, head) + offset
					  : BPF_CORE_READ(skb, data);
}

static __always_inline bool is_tcp_packet(const struct sk_buff *skb)
{
	__u16 protocol = bpf_ntohs(BPF_CORE_READ(skb, protocol));
	const unsigned char *at = kpod_network_header(skb);
	__u8 header;

	if (protocol == ETH_P_IP)
		return kpod_byte_at(at) >> 4 == 4 && kpod_byte_at(at + IP_PROTOCOL) == IPPROTO_TCP;
	if (protocol != ETH_P_IPV6 || kpod_byte_at(at) >> 4 != 6)
		return false;
	header = kpod_byte_at(at + IPV6_NEXT);
	at += IPV6_SIZE;
	for (int i = 0; i < IPV6_OPTIONS_MAX && is_ipv6_option(header); i++) {
		__u8 next = kpod_byte_at(at);

		at += header == IPPROTO_FRAGMENT ? 8 : 8 * (kpod_byte_at(at + 1) + 1);
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
static __always_inline __u32 kpod_drop_name(__u32 reason)
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

#define KPOD_DROP_RECEIVER                                                                         \
	3 /* the hook's argument since 6.11: whose queue it did not get into, or NULL */

static __always_inline bool kpod_says_receiver(void)
{
	return bpf_core_field_exists(((struct trace_event_raw_kfree_skb *)0)->rx_sk);
}

/*
 * Whether TCP has lost a packet, and then the socket that it was of or for: NULL, or one that need
 * not be a full one, if there is none.
 */
static __always_inline bool kpod_is_tcp_drop(const struct sk_buff *skb, __u32 reason,
					     const struct sock *receiver,
					     const struct sock **socket)
{
	const struct sock *sk = BPF_CORE_READ(skb, sk);

	if (kpod_says_receiver()) {
		if (receiver)
			sk = receiver;
		/* tcp_v4_rcv() has done all that was to be done, and says "drop" without a reason.
		 */
		if (BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_TIME_WAIT &&
		    reason == bpf_core_enum_value(enum skb_drop_reason,
						  SKB_DROP_REASON_NOT_SPECIFIED))
			return false;
	}
	*socket = sk;
	/* A packet socket or a raw one has lost a copy, and not TCP. */
	return kpod_is_full_socket(sk) ? is_tcp_socket(sk) : is_tcp_packet(skb);
}

#endif

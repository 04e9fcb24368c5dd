// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * UDP per container, at the end of each send and receive, as the kernel keeps no counters for a UDP
 * socket. Best by functions of UDP alone; the tracepoints are in the path of every socket. A kernel
 * may have neither (arm64 before 6.4): then by kprobes, at the places where the kernel counts.
 *
 * While a task is preempted in a program of a function, the kernel leaves that program out for all
 * other tasks of the CPU; so it does in one of a tracepoint since 7.0. Sends and receives are made
 * by tasks, so there they are counted by classic tracepoints, in which nothing is preempted. What
 * does not fit is dropped in softirqs, which are not preempted.
 */
#include "socket.bpf.h"

#include <bpf/bpf_endian.h>

#include "udp.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct udp_row);
} udp_rows SEC(".maps");

#define MSG_PEEK 0x2
#define MSG_ERRQUEUE 0x2000
#define RCV_SHUTDOWN 1

static __always_inline struct udp_row *row_of(const struct sock *sk)
{
	struct kpod_cgroup *owner = kpod_socket_owner(sk);

	return kpod_row(udp_rows, owner ? owner->slot : 0);
}

static __always_inline bool is_udp(const struct sock *sk)
{
	return sk->sk_protocol == IPPROTO_UDP && sk->sk_type == SOCK_DGRAM;
}

/* Atomically, even on this CPU's row: these hooks may be preempted. */
static __always_inline void count(const struct sock *sk, enum kpod_direction direction, __u64 size,
				  __u64 datagrams)
{
	struct udp_row *row = row_of(sk);

	if (!row)
		return;
	kpod_add_shared(row->datagrams[direction], datagrams);
	kpod_add_shared(row->bytes[direction], size);
}

/* Of a datagram made by several calls (MSG_MORE, UDP_CORK) the last one has nothing pending. */
static __always_inline void sent(const struct sock *sk, int result)
{
	if (result >= 0)
		count(sk, KPOD_SENT, result, !BPF_CORE_READ((const struct udp_sock *)sk, pending));
}

SEC("fexit/udp_sendmsg")
int BPF_PROG(kpod_udp_sendmsg, struct sock *sk, void *message, unsigned long size, int result)
{
	/* udpv6_sendmsg() calls it for IPv4-mapped addresses. */
	if (sk->__sk_common.skc_family == AF_INET)
		sent(sk, result);
	return 0;
}

SEC("fexit/udpv6_sendmsg")
int BPF_PROG(kpod_udp_sendmsg6, struct sock *sk, void *message, unsigned long size, int result)
{
	sent(sk, result);
	return 0;
}

/*
 * Whether a datagram of this size was taken by whoever asked for it. The size of one that was only
 * looked at (MSG_PEEK) is negated, which cannot be told of 0; but it is still in the queue
 * (__skb_unlink() clears next).
 */
static __always_inline bool is_taken(const struct sk_buff *skb, int size)
{
	return size > 0 || (!size && !BPF_CORE_READ(skb, next));
}

SEC("fentry/skb_consume_udp")
int BPF_PROG(kpod_udp_consume, struct sock *sk, struct sk_buff *skb, int size)
{
	if (is_taken(skb, size))
		count(sk, KPOD_RECEIVED, size, 1);
	return 0;
}

static __always_inline void received(const struct sock *sk, int result, int flags)
{
	if (result < 0 || flags & (MSG_PEEK | MSG_ERRQUEUE) ||
	    (!result && BPF_CORE_READ(sk, sk_shutdown) & RCV_SHUTDOWN))
		return;
	count(sk, KPOD_RECEIVED, result, 1);
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(kpod_udp_sent, struct sock *sk, int result)
{
	if (is_udp(sk))
		sent(sk, result);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(kpod_udp_received, struct sock *sk, int result, int flags)
{
	if (is_udp(sk))
		received(sk, result, flags);
	return 0;
}

static __always_inline bool is_udp_message(const struct trace_event_raw_sock_msg_length *event)
{
	return event->protocol == IPPROTO_UDP &&
	       BPF_CORE_READ((const struct sock *)event->sk, sk_type) == SOCK_DGRAM;
}

SEC("tp/sock/sock_send_length")
int kpod_udp_sent_tp(const struct trace_event_raw_sock_msg_length *event)
{
	if (is_udp_message(event))
		sent(event->sk, event->ret);
	return 0;
}

SEC("tp/sock/sock_recv_length")
int kpod_udp_received_tp(const struct trace_event_raw_sock_msg_length *event)
{
	if (is_udp_message(event))
		received(event->sk, event->ret, event->flags);
	return 0;
}

static __always_inline void dropped(const struct sock *sk)
{
	struct udp_row *row = row_of(sk);

	if (row)
		kpod_add_shared(row->dropped, 1);
}

#define PACKET 2 /* the hook's argument since 6.10; with it, it is also called for IPv6 */

SEC("tp_btf/udp_fail_queue_rcv_skb")
int BPF_PROG(kpod_udp_drop, int error, struct sock *sk)
{
	*(volatile __u64 *)&ctx[PACKET]; /* else this does not load */
	dropped(sk);
	return 0;
}

/* Before there was anything between it and the socket's queue (6.18). */
SEC("fexit/__udp_enqueue_schedule_skb")
int BPF_PROG(kpod_udp_enqueue, struct sock *sk, struct sk_buff *skb, int result)
{
	if (result < 0)
		dropped(sk);
	return 0;
}

/*
 * By kprobes, without a kretprobe where the kernel may sleep: it has only so many of those at once.
 * udp_send_skb() and udp_v6_send_skb() hand each datagram, corked or not, to these two functions of
 * IP, and count it when they return without an error.
 */
static __always_inline int handed_to_ip(struct sk_buff *skb)
{
	struct sock *sk = BPF_CORE_READ(skb, sk);
	struct udphdr header;

	if (!sk || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_UDP ||
	    BPF_CORE_READ(sk, sk_type) != SOCK_DGRAM ||
	    bpf_probe_read_kernel(&header, sizeof(header),
				  BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, transport_header)))
		return 0;
	count(sk, KPOD_SENT, (__u16)(bpf_ntohs(header.len) - sizeof(header)), 1);
	return 0;
}

SEC("kprobe/ip_send_skb")
int BPF_KPROBE(kpod_udp_sent_kprobe, void *net, struct sk_buff *skb)
{
	return handed_to_ip(skb);
}

SEC("kprobe/ip6_send_skb")
int BPF_KPROBE(kpod_udp_sent6_kprobe, struct sk_buff *skb)
{
	return handed_to_ip(skb);
}

SEC("kprobe/skb_consume_udp")
int BPF_KPROBE(kpod_udp_consume_kprobe, struct sock *sk, struct sk_buff *skb, int size)
{
	if (is_taken(skb, size))
		count(sk, KPOD_RECEIVED, size, 1);
	return 0;
}

/* The socket whose queue this CPU adds to: without softirqs, and so one at a time. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sock *);
} udp_enqueued SEC(".maps");

SEC("kprobe/__udp_enqueue_schedule_skb")
int BPF_KPROBE(kpod_udp_enqueue_kprobe, struct sock *sk)
{
	struct sock **at = bpf_map_lookup_elem(&udp_enqueued, &(__u32){0});

	if (at)
		*at = sk;
	return 0;
}

SEC("kretprobe/__udp_enqueue_schedule_skb")
int BPF_KRETPROBE(kpod_udp_enqueued_kprobe, int result)
{
	struct sock **at = bpf_map_lookup_elem(&udp_enqueued, &(__u32){0});

	if (at && *at && result < 0)
		dropped(*at);
	if (at)
		*at = NULL;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What a socket is, and the cgroup that made it; of an accepted one, its listener's. */
#ifndef KPOD_SOCK_BPF_H
#define KPOD_SOCK_BPF_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17

/* include/net/tcp_states.h */
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_FIN_WAIT1 4
#define TCP_FIN_WAIT2 5
#define TCP_TIME_WAIT 6
#define TCP_CLOSE 7
#define TCP_LAST_ACK 9
#define TCP_LISTEN 10
#define TCP_CLOSING 11
#define TCP_NEW_SYN_RECV 12

/* Not NULL, nor one of the small sockets that the kernel keeps for what is no connection yet, or
 * no longer. Of any address: one that is no socket's any more has been one's, or reads as zeros. */
static __always_inline bool kpod_is_full_socket(const struct sock *sk)
{
	unsigned char state = BPF_CORE_READ(sk, __sk_common.skc_state);

	return state && state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV;
}

/* Of a full socket. NULL: it has none. */
static __always_inline struct cgroup *kpod_socket_cgroup(const struct sock *sk)
{
	const struct sock_cgroup_data *data = &sk->sk_cgrp_data;
	__u64 val;

	if (bpf_core_field_exists(data->cgroup))
		return BPF_CORE_READ(data, cgroup);
	val = BPF_CORE_READ((struct sock_cgroup_data___before_5_15 *)data, val);
	return val & 1 ? NULL : (struct cgroup *)val;
}

#endif

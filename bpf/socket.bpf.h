/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Whose a socket is: the cgroup that made it; of an accepted one, that of its listener. */
#ifndef KPOD_SOCKET_BPF_H
#define KPOD_SOCKET_BPF_H

#include "slots.bpf.h"

#define IPPROTO_TCP 6
#define IPPROTO_UDP 17

/* include/net/tcp_states.h */
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_TIME_WAIT 6
#define TCP_CLOSE 7
#define TCP_LISTEN 10
#define TCP_NEW_SYN_RECV 12

/* NULL: the host. sk: any address, NULL and the kernel's small sockets (time-wait) too. */
static __always_inline struct kpod_cgroup *kpod_socket_owner(const struct sock *sk)
{
	const struct sock_cgroup_data *data = &sk->sk_cgrp_data;
	unsigned char state = BPF_CORE_READ(sk, __sk_common.skc_state);
	struct cgroup *cgrp;
	__u64 val;

	if (!state || state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV)
		return NULL;
	if (bpf_core_field_exists(data->cgroup)) {
		cgrp = BPF_CORE_READ(data, cgroup);
	} else {
		val = BPF_CORE_READ((struct sock_cgroup_data___before_5_15 *)data, val);
		cgrp = val & 1 ? NULL : (struct cgroup *)val;
	}
	return kpod_nearest(cgrp);
}

#endif

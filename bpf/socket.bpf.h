/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Whose a socket is: the cgroup that made it; of an accepted one, that of its listener. */
#ifndef KPOD_SOCKET_BPF_H
#define KPOD_SOCKET_BPF_H

#include "slots.bpf.h"
#include "sock.bpf.h"

/* NULL: the host, which has all that is no full socket. */
static __always_inline struct kpod_cgroup *kpod_socket_owner(const struct sock *sk)
{
	return kpod_is_full_socket(sk) ? kpod_nearest(kpod_socket_cgroup(sk)) : NULL;
}

#endif

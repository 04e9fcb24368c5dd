/* SPDX-License-Identifier: Apache-2.0 */
/* The collectors, in the order in which they load and appear. One line each. */
#ifndef KPOD_LOADER_COLLECTORS_REGISTRY_H
#define KPOD_LOADER_COLLECTORS_REGISTRY_H

#include "base/collector.h"

#define KPOD_COLLECTORS(X)                                                                         \
	X(cgroup)                                                                                  \
	X(cpu)                                                                                     \
	X(exec)                                                                                    \
	X(memory)                                                                                  \
	X(biolatency)                                                                              \
	X(tcp)                                                                                     \
	X(tcpdrop)                                                                                 \
	X(udp)                                                                                     \
	X(dns)                                                                                     \
	X(l7)                                                                                      \
	X(softirqs)                                                                                \
	X(hardirqs)                                                                                \
	X(syscall)                                                                                 \
	X(cachestat)                                                                               \
	X(cgroup_cpu)                                                                              \
	X(cgroup_memory)                                                                           \
	X(cgroup_io)                                                                               \
	X(cgroup_pids)                                                                             \
	X(cgroup_pressure)                                                                         \
	X(interface)                                                                               \
	X(filesystem)

#endif

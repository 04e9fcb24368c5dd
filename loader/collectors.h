/* SPDX-License-Identifier: Apache-2.0 */
/* The collectors, in the order in which they load and appear. One line each. */
#define KPOD_COLLECTORS(X)                                                                         \
	X(cgroup)                                                                                  \
	X(cpu)                                                                                     \
	X(exec)                                                                                    \
	X(memory)                                                                                  \
	X(pagefault)                                                                               \
	X(biolatency)

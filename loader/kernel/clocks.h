/* SPDX-License-Identifier: Apache-2.0 */
/* The time namespace (time_namespaces(7)). Knows no other module. */
#ifndef KPOD_LOADER_KERNEL_CLOCKS_H
#define KPOD_LOADER_KERNEL_CLOCKS_H

/*
 * BPF programs know the kernel's clocks; in a time namespace this process's may be others, and so
 * are the start times in /proc/PID/stat. If so, joins that of kthreadd, which is process 2 in
 * `proc` if that is the node's procfs, and has the kernel's. -errno: they still are. The process
 * must have one thread only.
 */
int kpod_clocks_join(const char *proc);
#define KPOD_OWN_CLOCKS                                                                            \
	"in a time namespace whose clocks are not the kernel's, and that of process 2 in --proc "  \
	"cannot be joined, or is no better"
#define KPOD_OWN_CLOCKS_TODO "run it in the node's time namespace, or let it have CAP_SYS_ADMIN"

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What the loader may do, and what it keeps of that. Knows kernel/load.h. */
#ifndef KPOD_LOADER_KERNEL_PRIVILEGES_H
#define KPOD_LOADER_KERNEL_PRIVILEGES_H

#include <stdbool.h>

#include "kernel/load.h"

/* "" if the process may load BPF programs, else what it lacks. */
const char *kpod_missing_privilege(void);

/* False in a PID namespace of its own: iterators over tasks and their sockets end at its bounds. */
bool kpod_sees_all_tasks(void);
#define KPOD_OWN_PIDS                                                                              \
	"in a PID namespace of its own: time on CPU and TCP bytes of tasks and connections older " \
	"than the loader are short, and interfaces and file systems are missing unless --proc is " \
	"the node's procfs: run with hostPID: true"

/*
 * For good, once all is attached; `loads`: collectors are to be loaded again later. Returns -errno
 * if some of it could not be dropped, and a line on stderr for each such part has said what.
 */
int kpod_privileges_drop(const struct kpod_bpf *bpf, bool loads);

#endif

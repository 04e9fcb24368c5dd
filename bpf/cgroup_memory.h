/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef KPOD_CGROUP_MEMORY_H
#define KPOD_CGROUP_MEMORY_H

#include "walk.h"

struct cgroup_memory_row {
	__u64 usage, working_set, peak, limit, swap;
	__u64 anon, file, kernel, slab, refault_anon, refault_file;
	__u64 low, high, max, oom, oom_kill, oom_group_kill;
	__u64 inactive_file; /* only to derive from */
};

struct cgroup_memory_walked {
	struct kpod_walked of;
	struct cgroup_memory_row row;
	__u64 reserved[1]; /* to whole cache lines */
};

#endif

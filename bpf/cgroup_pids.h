/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef KPOD_CGROUP_PIDS_H
#define KPOD_CGROUP_PIDS_H

#include "walk.h"

struct cgroup_pids_row {
	__u64 current, limit, hits;
};

struct cgroup_pids_walked {
	struct kpod_walked of;
	struct cgroup_pids_row row;
};

#endif

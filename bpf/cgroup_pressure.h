/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef KPOD_CGROUP_PRESSURE_H
#define KPOD_CGROUP_PRESSURE_H

#include "walk.h"

struct cgroup_pressure_row {
	__u64 cpu[2], memory[2], io[2]; /* us: some, full */
};

struct cgroup_pressure_walked {
	struct kpod_walked of;
	struct cgroup_pressure_row row;
	__u64 reserved[5]; /* to whole cache lines */
};

#endif

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef KPOD_CGROUP_CPU_H
#define KPOD_CGROUP_CPU_H

#include "walk.h"

struct cgroup_cpu_row {
	__u64 usage, user, system, periods, throttled_periods, throttled; /* times in us */
	__u64 quota, period, weight;
};

struct cgroup_cpu_time {
	__u64 user, system; /* ns */
};

/* What the walk finds. The loader makes user and system of it. */
struct cgroup_cpu_walked {
	struct kpod_walked of;
	struct cgroup_cpu_row row;
	__u64 runtime_ns;
	struct cgroup_cpu_time ticks; /* sampled by the tick: a share, not a time */
	struct cgroup_cpu_time shown; /* what cpu.stat said when somebody read it last */
	struct cgroup_cpu_time last;  /* what the loader made of it in the walk before */
	__u64 reserved[3];	      /* to whole cache lines */
};

#endif

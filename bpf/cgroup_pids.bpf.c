// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* What pids.current, pids.max and pids.events say, for every cgroup with a slot. */
#include "walk.bpf.h"

#include "cgroup_pids.h"

#define NO_LIMIT (4 * 1024 * 1024 + 1) /* limit of a cgroup without one (kernel/cgroup/pids.c) */

/* Of an enum without a name, which CO-RE cannot find. */
#define CGRP_ROOT_PIDS_LOCAL_EVENTS (1 << 20)

/* __pids_events_show(): since 6.12 forks that failed for this limit, wherever they were tried. */
static __always_inline __u64 hits_of(struct pids_cgroup *pids, struct cgroup *cgrp)
{
	struct pids_cgroup___before_6_12 *old = (void *)pids;

	if (bpf_core_field_exists(old->events_limit))
		return BPF_CORE_READ(old, events_limit.counter);
	if (BPF_CORE_READ(cgrp, root, flags) & CGRP_ROOT_PIDS_LOCAL_EVENTS)
		return BPF_CORE_READ(pids, events_local[PIDCG_FORKFAIL].counter);
	return BPF_CORE_READ(pids, events[PIDCG_MAX].counter);
}

static __always_inline void read_pids(struct cgroup_pids_walked *found, struct cgroup *cgrp)
{
	struct cgroup_subsys_state *css = kpod_css(cgrp, pids);
	struct pids_cgroup *pids;

	if (!css) {
		__builtin_memset(&found->row, 0xff, sizeof(found->row));
		return;
	}
	pids = kpod_of_css(struct pids_cgroup, css);
	found->row.current = BPF_CORE_READ(pids, counter.counter);
	found->row.limit = BPF_CORE_READ(pids, limit.counter);
	if (found->row.limit >= NO_LIMIT)
		found->row.limit = KPOD_ABSENT;
	found->row.hits = hits_of(pids, cgrp);
}

KPOD_WALK(cgroup_pids, struct cgroup_pids_walked, kpod_flush_nothing, kpod_begin_nothing, read_pids,
	  read_pids)
KPOD_WALK_END(cgroup_pids, struct cgroup_pids_walked, read_pids)

char LICENSE[] SEC("license") = "Dual BSD/GPL";

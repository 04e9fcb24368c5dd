/* SPDX-License-Identifier: Apache-2.0 */
/* Births and deaths of containers: the source of slots, and the owner of the maps all share. */
#include "base/collector.h"

KPOD_OBJECT(cgroup);

/* Deaths first: a cgroup whose birth was seen and whose death was not would stay for ever. */
static const struct kpod_attachment attachments[] = {
	{.name = "tp_btf",
	 KPOD_STEPS({"kpod_cgroup_rmdir", KPOD_ATTACH}, {"kpod_cgroup_mkdir", KPOD_ATTACH})},
};

const struct kpod_collector kpod_collector_cgroup = {
	.name = "cgroup",
	.makes_slots = true,
	.help = "container births and deaths; the others charge their events to what it finds",
	.owner = "the cgroup itself",
	.since = "5.10",
	KPOD_EMBEDDED(cgroup),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
};

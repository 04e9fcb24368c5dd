/* SPDX-License-Identifier: Apache-2.0 */
/* What a segment says of its own tables. Knows kernel/load.h. */
#ifndef KPOD_LOADER_PUBLISH_SCHEMA_H
#define KPOD_LOADER_PUBLISH_SCHEMA_H

#include <stddef.h>

#include "base/clock.h"
#include "kernel/load.h"

/* The loader's own tables, the first of every schema, by their index there. */
enum kpod_own_table {
	KPOD_OWN_LOADER,
	KPOD_OWN_UNITS,
	KPOD_OWN_FILES,
	KPOD_OWN_PROGRAMS,
	KPOD_OWN_COLLECTORS,
	KPOD_OWN_OVERHEAD,
	KPOD_OWN_TABLES
};
extern const struct kpod_table kpod_own_tables[KPOD_OWN_TABLES];

/* The schema document of shared/README.md; *document is malloc'ed. */
int kpod_schema_encode(const struct kpod_bpf *bpf, const struct kpod_wall *wall,
		       uint64_t min_interval_ns, void **document, size_t *size);

#endif

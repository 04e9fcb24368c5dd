/* SPDX-License-Identifier: Apache-2.0 */
#include "collectors/registry.h"

#define X(name) extern const struct kpod_collector kpod_collector_##name;
KPOD_COLLECTORS(X)
#undef X

const struct kpod_collector *const kpod_collectors[] = {
#define X(name) &kpod_collector_##name,
	KPOD_COLLECTORS(X)
#undef X
};

const size_t kpod_collector_count = KPOD_COUNT(kpod_collectors);

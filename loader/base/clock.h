/* SPDX-License-Identifier: Apache-2.0 */
/* Clocks of the loader. Knows nothing of the other modules. */
#ifndef KPOD_LOADER_BASE_CLOCK_H
#define KPOD_LOADER_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define KPOD_SECOND 1000000000ULL

/* The time of this clock, in nanoseconds. */
uint64_t kpod_clock(clockid_t clock);

#endif

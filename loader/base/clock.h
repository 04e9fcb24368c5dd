/* SPDX-License-Identifier: Apache-2.0 */
/* Clocks of the loader. Knows nothing of the other modules. */
#ifndef KPOD_LOADER_BASE_CLOCK_H
#define KPOD_LOADER_BASE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define KPOD_SECOND 1000000000ULL

/* The time of this clock, in nanoseconds. */
uint64_t kpod_clock(clockid_t clock);

/*
 * By how much the wall clock is ahead of CLOCK_BOOTTIME. That changes only when somebody sets the
 * wall clock: both are slewed alike and both count a suspend. So what is kept by CLOCK_BOOTTIME
 * is shown by the wall clock, the same each time.
 */
struct kpod_wall {
	int64_t ahead_ns;
};

/* Looks at the clocks. True: the wall clock was set since the last time. */
bool kpod_wall_look(struct kpod_wall *wall);

/* A time of CLOCK_BOOTTIME, by the wall clock. */
uint64_t kpod_wall_of(const struct kpod_wall *wall, uint64_t boottime_ns);

#endif

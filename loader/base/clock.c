/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

uint64_t kpod_clock(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * KPOD_SECOND + (uint64_t)now.tv_nsec;
}

#define LOOKS 5
#define SET_NS                                                                                     \
	10000000 /* less is not the clock being set, but this process being kept from a CPU */

bool kpod_wall_look(struct kpod_wall *wall)
{
	uint64_t closest = UINT64_MAX;
	int64_t ahead = 0, moved;

	/* Of several looks, the one that took least time. */
	for (int i = 0; i < LOOKS; i++) {
		uint64_t before = kpod_clock(CLOCK_BOOTTIME), now = kpod_clock(CLOCK_REALTIME);
		uint64_t took = kpod_clock(CLOCK_BOOTTIME) - before;

		if (took >= closest)
			continue;
		closest = took;
		ahead = (int64_t)(now - before - took / 2);
	}
	moved = ahead - wall->ahead_ns;
	if (closest > SET_NS / 2 || (moved < SET_NS && moved > -SET_NS))
		return false;
	wall->ahead_ns = ahead;
	return true;
}

uint64_t kpod_wall_of(const struct kpod_wall *wall, uint64_t boottime_ns)
{
	return boottime_ns + (uint64_t)wall->ahead_ns;
}

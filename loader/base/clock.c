/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

uint64_t kpod_clock(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * KPOD_SECOND + (uint64_t)now.tv_nsec;
}

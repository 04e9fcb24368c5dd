/* SPDX-License-Identifier: Apache-2.0 */
/* To be preloaded: the wall clock is an hour ahead or behind, another each time it is looked at. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
	static unsigned int random = 1;
	int err = (int)syscall(SYS_clock_gettime, clock, now);

	if (clock == CLOCK_REALTIME)
		now->tv_sec += (random = random * 1664525 + 1013904223) >> 31 ? 3600 : -3600;
	return err;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * To be preloaded: the wall clock is an hour ahead or behind, another each time it is looked at.
 * Or, with a file in KPOD_CLOCK, ahead by as many seconds as the file is larger than a million
 * bytes.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
	static unsigned int random = 1;
	const char *file = getenv("KPOD_CLOCK");
	int err = (int)syscall(SYS_clock_gettime, clock, now);
	struct stat st;

	if (clock != CLOCK_REALTIME)
		return err;
	if (!file)
		now->tv_sec += (random = random * 1664525 + 1013904223) >> 31 ? 3600 : -3600;
	else if (!stat(file, &st))
		now->tv_sec += st.st_size - 1000000;
	return err;
}

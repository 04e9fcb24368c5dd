/* SPDX-License-Identifier: Apache-2.0 */
/* What the workloads in C have in common. */
#ifndef KPOD_TESTS_KERNEL_GATE_H
#define KPOD_TESTS_KERNEL_GATE_H

#include <stdio.h>
#include <unistd.h>

/* Stands still until the test says go on (tests/live.py, Worker); ends if it has gone. */
static void gate(void)
{
	char go;

	if (write(1, "x", 1) != 1 || read(0, &go, 1) != 1)
		_exit(0);
}

/* Ends with what the kernel said. */
static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		_exit(1);
	}
}

#endif

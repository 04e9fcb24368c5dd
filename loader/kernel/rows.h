/* SPDX-License-Identifier: Apache-2.0 */
/* Maps of rows, mapped into the loader. Knows nothing of the other modules. */
#ifndef KPOD_LOADER_KERNEL_ROWS_H
#define KPOD_LOADER_KERNEL_ROWS_H

#include <stdint.h>

/*
 * A map of rows, mapped window by window as slots come into use, so that the loader's memory grows
 * with the containers of the node and not with --max-containers.
 */
struct kpod_rows {
	int fd;
	uint32_t unit_size; /* bytes of all rows of one unit */
	uint32_t windows;
	void **window;
};

#define KPOD_WINDOW_UNITS 64

/* Takes over the map `fd`, which has a multiple of KPOD_WINDOW_UNITS units. 0 or -ENOMEM. */
int kpod_rows_open(struct kpod_rows *rows, int fd, uint32_t unit_size, uint32_t units);
void kpod_rows_close(struct kpod_rows *rows);

/* The rows of a unit, NULL if they cannot be mapped (counted by the caller). */
void *kpod_rows_of(struct kpod_rows *rows, uint32_t unit);

#endif

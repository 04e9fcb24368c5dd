/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/rows.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void *kpod_rows_of(struct kpod_rows *rows, uint32_t unit)
{
	size_t bytes = (size_t)rows->unit_size * KPOD_WINDOW_UNITS;
	uint32_t window = unit / KPOD_WINDOW_UNITS;
	void *at;

	if (!rows->window[window]) {
		at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, rows->fd,
			  (off_t)(bytes * window));
		if (at == MAP_FAILED)
			return NULL;
		rows->window[window] = at;
	}
	return (char *)rows->window[window] + (size_t)rows->unit_size * (unit % KPOD_WINDOW_UNITS);
}

int kpod_rows_open(struct kpod_rows *rows, int fd, uint32_t unit_size, uint32_t units)
{
	rows->fd = fd;
	rows->unit_size = unit_size;
	rows->windows = (units + KPOD_WINDOW_UNITS - 1) / KPOD_WINDOW_UNITS;
	rows->window = calloc(rows->windows, sizeof(*rows->window));
	return rows->window ? 0 : -ENOMEM;
}

void kpod_rows_close(struct kpod_rows *rows)
{
	if (!rows->window)
		return;
	for (uint32_t i = 0; i < rows->windows; i++)
		if (rows->window[i])
			munmap(rows->window[i], (size_t)rows->unit_size * KPOD_WINDOW_UNITS);
	free(rows->window);
	memset(rows, 0, sizeof(*rows));
}

/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/libbpf.h>
#include <linux/magic.h>
#include <linux/perf_event.h>

#include "kernel/mount.h"
#include "kernel/tracepoint.h"

/* The number that perf_event_open() knows an event by: GROUP/NAME. */
static long number_of(const char *event, int tracefs)
{
	char path[PATH_MAX], text[16];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "events/%s/id", event);
	fd = openat(tracefs, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n < 1) {
		errno = EIO;
		return -1;
	}
	text[n] = '\0';
	return strtol(text, NULL, 10);
}

struct bpf_link *kpod_attach_tracepoint(struct bpf_program *program, int *tracefs)
{
	struct perf_event_attr event = {.type = PERF_TYPE_TRACEPOINT, .size = sizeof(event)};
	const char *name = strchr(bpf_program__section_name(program), '/') + 1;
	struct bpf_link *link;
	long number;
	int fd, err;

	if (*tracefs < 0)
		*tracefs = kpod_open_mount("/sys/kernel/tracing", "tracefs", TRACEFS_MAGIC);
	number = *tracefs < 0 ? -1 : number_of(name, *tracefs);
	if (number < 0)
		return NULL;
	event.config = (unsigned long)number;
	/* The program is the event's, not the CPU's: it is run on all of them. */
	fd = (int)syscall(SYS_perf_event_open, &event, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		return NULL;
	link = bpf_program__attach_perf_event(program, fd);
	err = errno;
	if (!link)
		close(fd);
	errno = err;
	return link;
}

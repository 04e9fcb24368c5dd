/* SPDX-License-Identifier: Apache-2.0 */
/* Programs started and processes ended, printed as they happen. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "base/clock.h"
#include "base/collector.h"
#include "base/log.h"
#include "kernel/privileges.h"
#include "view/events.h"
#include "view/view.h"

#include "bpf/events.h"

KPOD_OBJECT(events);

#define PROGRAMS 2

struct printer {
	bool json;
	int64_t realtime_offset_ns; /* of CLOCK_REALTIME from CLOCK_MONOTONIC */
	uint64_t printed, lost;
};

static volatile sig_atomic_t stopped;

static void on_stop(int number)
{
	(void)number;
	stopped = 1;
}

static void print_time(const struct printer *p, const struct kpod_event *e)
{
	uint64_t ns = e->monotonic_ns + (uint64_t)p->realtime_offset_ns;
	time_t seconds = (time_t)(ns / KPOD_SECOND);
	char text[32];
	struct tm tm;

	gmtime_r(&seconds, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	printf(p->json ? "{\"time\":\"%s.%06uZ\"" : "%s.%06uZ", text,
	       (unsigned)(ns % KPOD_SECOND / 1000));
}

static void print_key(const struct printer *p, const char *key)
{
	printf(p->json ? ",\"%s\":" : " %s=", key);
}

static void print_number(const struct printer *p, const char *key, uint64_t number)
{
	print_key(p, key);
	printf("%" PRIu64, number);
}

static void print_text(const struct printer *p, const char *key, const char *text, size_t size)
{
	print_key(p, key);
	kpod_print_text(stdout, text, size);
}

/* The record has the names from the cgroup up to the root. */
static void print_cgroup(const struct printer *p, const struct kpod_event *e)
{
	char path[sizeof(e->path) + 1];
	size_t to = sizeof(path), size;

	for (size_t at = 0; at < e->path_size; at += size + 1) {
		size = strnlen(e->path + at, e->path_size - at);
		to -= size;
		memcpy(path + to, e->path + at, size);
		path[--to] = '/';
	}
	if (to == sizeof(path))
		path[--to] = '/';
	print_text(p, "cgroup", path + to, sizeof(path) - to);
}

static void print_args(const struct printer *p, const struct kpod_event *e)
{
	size_t size;

	print_key(p, "args");
	putchar('[');
	for (size_t at = 0; at < e->args_size; at += size + 1) {
		size = strnlen(e->args + at, e->args_size - at);
		if (at)
			putchar(',');
		kpod_print_text(stdout, e->args + at, size);
	}
	putchar(']');
	if (e->args_cut)
		print_number(p, "args_cut", 1);
}

static int print_event(void *context, void *data, size_t size)
{
	static const char *const kinds[] = {"exec", "exit"};
	const struct kpod_event *e = data;
	struct printer *p = context;

	(void)size;
	print_time(p, e);
	print_text(p, "event", kinds[e->kind], strlen(kinds[e->kind]));
	print_number(p, "pid", e->pid);
	print_number(p, "ppid", e->ppid);
	print_number(p, "uid", e->uid);
	print_text(p, "comm", e->comm, strnlen(e->comm, sizeof(e->comm)));
	print_number(p, "cgroup_id", e->cgroup_id);
	print_cgroup(p, e);
	if (e->kind == KPOD_EVENT_EXEC) {
		print_text(p, "filename", e->filename, strnlen(e->filename, sizeof(e->filename)));
		print_args(p, e);
	} else {
		print_number(p, "status", e->status >> 8 & 0xff);
		print_number(p, "signal", e->status & 0x7f);
	}
	puts(p->json ? "}" : "");
	p->printed++;
	return 0;
}

/* globals: the object's only variable, events_lost. */
static void say_lost(struct printer *p, int globals)
{
	uint64_t lost = p->lost;
	uint32_t zero = 0;

	if (bpf_map_lookup_elem(globals, &zero, &lost))
		kpod_log("cannot read how many events were lost: %s", strerror(errno));
	if (lost != p->lost)
		kpod_log("%" PRIu64 " events lost: the ring buffer was full", lost - p->lost);
	p->lost = lost;
}

static int attach(struct bpf_object *object, struct bpf_link *links[PROGRAMS])
{
	struct bpf_program *program;
	size_t n = 0;

	bpf_object__for_each_program (program, object) {
		links[n] = bpf_program__attach(program);
		if (!links[n++])
			return -errno;
	}
	return 0;
}

static void detach(struct bpf_link *links[PROGRAMS])
{
	for (size_t i = 0; i < PROGRAMS; i++) {
		bpf_link__destroy(links[i]);
		links[i] = NULL;
	}
}

static int print_until_stopped(struct bpf_object *object, struct bpf_link *links[PROGRAMS],
			       struct printer *p)
{
	int globals = bpf_object__find_map_fd_by_name(object, ".bss");
	struct ring_buffer *ring;
	int err = 0;

	ring = ring_buffer__new(bpf_object__find_map_fd_by_name(object, "events"), print_event, p,
				NULL);
	if (!ring)
		return -errno;
	kpod_info("printing programs started and processes ended until stopped");
	while (!stopped && (err >= 0 || err == -EINTR) && !ferror(stdout)) {
		err = ring_buffer__poll(ring, 200);
		fflush(stdout);
		say_lost(p, globals);
	}
	/* What came before the stop is in the ring still. */
	detach(links);
	ring_buffer__consume(ring);
	say_lost(p, globals);
	ring_buffer__free(ring);
	kpod_info("%" PRIu64 " events printed, %" PRIu64 " lost", p->printed, p->lost);
	return err == -EINTR || err > 0 ? 0 : err;
}

struct bpf_object *kpod_events_open(void)
{
	return bpf_object__open_mem(events_object, (size_t)(events_object_end - events_object),
				    NULL);
}

int kpod_events_exec(bool json)
{
	/* A write to a full pipe goes on; waiting for events ends all the same. */
	struct sigaction stop = {.sa_handler = on_stop, .sa_flags = SA_RESTART};
	struct printer printer = {
		.json = json,
		.realtime_offset_ns =
			(int64_t)(kpod_clock(CLOCK_REALTIME) - kpod_clock(CLOCK_MONOTONIC)),
	};
	const char *missing = kpod_missing_privilege();
	struct bpf_link *links[PROGRAMS] = {};
	struct bpf_object *object;
	int err;

	if (*missing) {
		kpod_log("%s", missing);
		return -EPERM;
	}
	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
	libbpf_set_print(NULL);
	object = kpod_events_open();
	err = object ? bpf_object__load(object) : -errno;
	err = err ? err : attach(object, links);
	if (err)
		kpod_log("events: cannot attach: %s (it needs kernel 5.8 with BTF)",
			 strerror(-err));
	else
		err = print_until_stopped(object, links, &printer);
	detach(links);
	bpf_object__close(object);
	return err;
}

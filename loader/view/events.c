/* SPDX-License-Identifier: Apache-2.0 */
/* Programs started and processes ended, OOM kills and dropped packets, printed as they happen. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "base/clock.h"
#include "base/collector.h"
#include "base/log.h"
#include "kernel/privileges.h"
#include "kernel/tracepoint.h"
#include "view/events.h"
#include "view/view.h"

#include "bpf/events.h"

KPOD_OBJECT(events);

#define PROGRAMS 2

/* What is loaded for a command: the first set of its name that works. */
static const struct set {
	const char *name;
	const char *programs[PROGRAMS];
	const char *prints;
	const char *needs;
} sets[] = {
	{"exec",
	 {"kpod_events_exec", "kpod_events_exit"},
	 "programs started and processes ended",
	 "kernel 5.8 with BTF"},
	{"oom", {"kpod_events_signal", "kpod_events_victim"}, "OOM kills", "kernel 5.8 with BTF"},
	{"oom",
	 {"kpod_events_signal", "kpod_events_victim_pid"},
	 "OOM kills",
	 "kernel 5.8 with BTF"},
	{"drop", {"kpod_events_drop"}, "TCP packets dropped", "kernel 5.17 with BTF and tracefs"},
};

struct printer {
	bool json;
	const char *container; /* text that the cgroup's path must have, or NULL */
	const struct kpod_names *reasons;
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

static void print_signed(const struct printer *p, const char *key, int number)
{
	print_key(p, key);
	printf("%d", number);
}

struct path {
	char text[sizeof(((struct kpod_event *)0)->path) + 2]; /* with a NUL */
	size_t at;					       /* where it begins */
};

/* The record has the names from the cgroup up to the root. Empty: it is of no cgroup. */
static void make_path(struct path *path, const struct kpod_event *e)
{
	size_t size;

	path->at = sizeof(path->text) - 1;
	path->text[path->at] = '\0';
	for (size_t at = 0; at < e->path_size; at += size + 1) {
		size = strnlen(e->path + at, e->path_size - at);
		path->at -= size;
		memcpy(path->text + path->at, e->path + at, size);
		path->text[--path->at] = '/';
	}
	if (!path->text[path->at] && e->cgroup_id)
		path->text[--path->at] = '/';
}

static void print_args(const struct printer *p, const struct kpod_process_event *e)
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

static void print_cgroup(const struct printer *p, const struct kpod_event *e, const char *path)
{
	print_number(p, "cgroup_id", e->cgroup_id);
	print_text(p, "cgroup", path, strlen(path));
}

static void print_process(const struct printer *p, const void *data, const char *path)
{
	const struct kpod_process_event *e = data;

	print_number(p, "pid", e->pid);
	print_number(p, "ppid", e->ppid);
	print_number(p, "uid", e->uid);
	print_text(p, "comm", e->comm, strnlen(e->comm, sizeof(e->comm)));
	print_cgroup(p, &e->event, path);
	if (e->event.kind == KPOD_EVENT_EXEC) {
		print_text(p, "filename", e->filename, strnlen(e->filename, sizeof(e->filename)));
		print_args(p, e);
	} else {
		print_number(p, "status", e->status >> 8 & 0xff);
		print_number(p, "signal", e->status & 0x7f);
	}
}

static void print_oom(const struct printer *p, const void *data, const char *path)
{
	const struct kpod_oom_event *e = data;

	print_number(p, "pid", e->pid);
	print_number(p, "uid", e->uid);
	print_text(p, "comm", e->comm, strnlen(e->comm, sizeof(e->comm)));
	print_cgroup(p, &e->event, path);
	print_signed(p, "score_adj", e->score_adj);
	print_number(p, "address_space_bytes",
		     e->address_space_pages * (uint64_t)sysconf(_SC_PAGESIZE));
	print_number(p, "by_pid", e->by_pid);
	print_text(p, "by_comm", e->by_comm, strnlen(e->by_comm, sizeof(e->by_comm)));
}

static void print_end(const struct printer *p, const char *key, const struct kpod_drop_event *e,
		      size_t end)
{
	char address[INET6_ADDRSTRLEN] = "", text[sizeof(address) + 16];
	bool is_ipv6 = e->version == 6;

	inet_ntop(is_ipv6 ? AF_INET6 : AF_INET, e->addresses[end], address, sizeof(address));
	snprintf(text, sizeof(text), is_ipv6 ? "[%s]:%u" : "%s:%u", address, ntohs(e->ports[end]));
	print_text(p, key, text, strlen(text));
}

static void print_drop(const struct printer *p, const void *data, const char *path)
{
	static const char flags[] = "FSRPAUEC"; /* RFC 9293, 3.1, from the lowest bit */
	const struct kpod_drop_event *e = data;
	char set[sizeof(flags)];
	size_t n = 0;

	print_cgroup(p, &e->event, path);
	if (e->reason < p->reasons->count)
		print_text(p, "reason", p->reasons->names[e->reason],
			   strlen(p->reasons->names[e->reason]));
	else
		print_number(p, "reason", e->reason);
	print_number(p, "size_bytes", e->size);
	if (!e->version)
		return;
	print_end(p, "from", e, 0);
	print_end(p, "to", e, 1);
	for (size_t i = 0; i < sizeof(flags) - 1; i++)
		if (e->flags >> i & 1)
			set[n++] = flags[i];
	print_text(p, "flags", set, n);
}

static int print_event(void *context, void *data, size_t size)
{
	static const struct {
		const char *name;
		void (*print)(const struct printer *p, const void *data, const char *path);
	} kinds[] = {
		[KPOD_EVENT_EXEC] = {"exec", print_process},
		[KPOD_EVENT_EXIT] = {"exit", print_process},
		[KPOD_EVENT_OOM] = {"oom", print_oom},
		[KPOD_EVENT_DROP] = {"drop", print_drop},
	};
	const struct kpod_event *e = data;
	struct printer *p = context;
	struct path path;

	(void)size;
	make_path(&path, e);
	if (p->container && !strstr(path.text + path.at, p->container))
		return 0;
	print_time(p, e);
	print_text(p, "event", kinds[e->kind].name, strlen(kinds[e->kind].name));
	kinds[e->kind].print(p, data, path.text + path.at);
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
	int tracefs = -1, err = 0;
	size_t n = 0;

	bpf_object__for_each_program (program, object) {
		if (err || !bpf_program__autoload(program))
			continue;
		links[n] = bpf_program__type(program) == BPF_PROG_TYPE_TRACEPOINT
				   ? kpod_attach_tracepoint(program, &tracefs)
				   : bpf_program__attach(program);
		if (!links[n++])
			err = -errno;
	}
	if (tracefs >= 0)
		close(tracefs);
	return err;
}

static void detach(struct bpf_link *links[PROGRAMS])
{
	for (size_t i = 0; i < PROGRAMS; i++) {
		bpf_link__destroy(links[i]);
		links[i] = NULL;
	}
}

static int print_until_stopped(struct bpf_object *object, struct bpf_link *links[PROGRAMS],
			       const char *what, struct printer *p)
{
	int globals = bpf_object__find_map_fd_by_name(object, ".bss");
	struct ring_buffer *ring;
	int err = 0;

	ring = ring_buffer__new(bpf_object__find_map_fd_by_name(object, "events"), print_event, p,
				NULL);
	if (!ring)
		return -errno;
	kpod_info("printing %s until stopped", what);
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

static bool is_of(const struct set *set, const char *program)
{
	for (size_t i = 0; i < PROGRAMS; i++)
		if (set->programs[i] && !strcmp(set->programs[i], program))
			return true;
	return false;
}

struct bpf_object *kpod_events_open(size_t set)
{
	struct bpf_object *object = bpf_object__open_mem(
		events_object, (size_t)(events_object_end - events_object), NULL);
	struct bpf_program *program;

	if (object)
		bpf_object__for_each_program (program, object)
			bpf_program__set_autoload(program,
						  is_of(&sets[set], bpf_program__name(program)));
	return object;
}

const char *kpod_events_needs(size_t set)
{
	return set < KPOD_COUNT(sets) ? sets[set].needs : NULL;
}

bool kpod_events_are(const char *name)
{
	for (size_t i = 0; i < KPOD_COUNT(sets); i++)
		if (!strcmp(sets[i].name, name))
			return true;
	return false;
}

/* As the collector's label has them. */
static const struct kpod_names *drop_reasons(void)
{
	static const struct kpod_names none;

	for (size_t i = 0; i < kpod_collector_count; i++)
		if (!strcmp(kpod_collectors[i]->name, "tcpdrop"))
			return kpod_collectors[i]->tables->keys->values();
	return &none;
}

/* The first set of this name that works. On an error `object` is NULL. */
static int start(const char *name, struct bpf_object **object, struct bpf_link *links[PROGRAMS],
		 const struct set **set)
{
	int err = -ENOENT;

	for (size_t i = 0; err && i < KPOD_COUNT(sets); i++) {
		if (strcmp(sets[i].name, name))
			continue;
		*set = &sets[i];
		*object = kpod_events_open(i);
		err = *object ? bpf_object__load(*object) : -errno;
		err = err ? err : attach(*object, links);
		if (err) {
			detach(links);
			bpf_object__close(*object);
			*object = NULL;
		}
	}
	return err;
}

int kpod_events(const char *name, const char *container, bool json)
{
	/* A write to a full pipe goes on; waiting for events ends all the same. */
	struct sigaction stop = {.sa_handler = on_stop, .sa_flags = SA_RESTART};
	struct printer printer = {
		.json = json,
		.container = container,
		.reasons = drop_reasons(),
		.realtime_offset_ns =
			(int64_t)(kpod_clock(CLOCK_REALTIME) - kpod_clock(CLOCK_MONOTONIC)),
	};
	const char *missing = kpod_missing_privilege();
	struct bpf_link *links[PROGRAMS] = {};
	struct bpf_object *object = NULL;
	const struct set *set = NULL;
	int err;

	if (*missing) {
		kpod_log("%s", missing);
		return -EPERM;
	}
	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
	libbpf_set_print(NULL);
	err = start(name, &object, links, &set);
	if (err)
		kpod_log("events %s: cannot attach: %s (it needs %s)", name, strerror(-err),
			 set->needs);
	else
		err = print_until_stopped(object, links, set->prints, &printer);
	detach(links);
	bpf_object__close(object);
	return err;
}

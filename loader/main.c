/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cgroups/slots.h"
#include "collectors/syscall.h"
#include "kernel/governor.h"
#include "kernel/load.h"
#include "kernel/privileges.h"
#include "options.h"
#include "publish/schema.h"
#include "publish/snapshot.h"
#include "view/doctor.h"
#include "view/events.h"
#include "view/verify.h"
#include "view/view.h"

static int watch(int epoll, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

	return fd < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

static int timer(uint64_t every_ns)
{
	struct timespec every = {(time_t)(every_ns / KPOD_SECOND), (long)(every_ns % KPOD_SECOND)};
	struct itimerspec spec = {every, every};
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

	if (fd >= 0)
		timerfd_settime(fd, 0, &spec, NULL);
	return fd;
}

static void snapshot(struct kpod_publisher *p, struct kpod_view *view)
{
	static int last_err;
	int err = kpod_publisher_snapshot(p);

	if (err && err != last_err)
		kpod_log("cannot write a snapshot to %s: %s", p->options->segment, strerror(-err));
	last_err = err;
	if (view && !err)
		kpod_view_rates(view, stdout);
}

/* Until it works: a segment whose schema says what does not run any more is a lie. */
static void govern(struct kpod_publisher *p, struct kpod_governor *g)
{
	static bool changed;
	int err;

	changed |= kpod_governor_tick(g);
	err = changed ? kpod_publisher_renew(p) : 0;
	if (err)
		kpod_log("cannot make %s anew: %s", p->options->segment, strerror(-err));
	else
		changed = false;
}

static int loop(struct kpod_publisher *p, struct kpod_governor *g, struct kpod_view *view,
		const sigset_t *stop)
{
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	int signals = signalfd(-1, stop, SFD_CLOEXEC);
	int snapshots = timer(p->options->interval_ns);
	int heartbeats = timer(KPOD_SECOND);
	int ticks_fd = timer(p->options->governor_tick_ns);
	int err = epoll < 0 ? -errno : watch(epoll, signals);
	bool stopped = false;

	err = err ? err : watch(epoll, snapshots);
	err = err ? err : watch(epoll, heartbeats);
	err = err ? err : watch(epoll, ticks_fd);
	while (!err && !stopped) {
		struct epoll_event event;
		uint64_t ticks;
		int n = epoll_wait(epoll, &event, 1, -1);

		if (n < 0 && errno != EINTR)
			err = -errno;
		if (n < 1)
			continue;
		stopped = event.data.fd == signals;
		if (stopped || read(event.data.fd, &ticks, sizeof(ticks)) != sizeof(ticks))
			continue;
		if (event.data.fd == snapshots)
			snapshot(p, view);
		else if (event.data.fd == ticks_fd)
			govern(p, g);
		else
			kpod_writer_heartbeat(&p->writer, kpod_clock(CLOCK_MONOTONIC));
	}
	close(ticks_fd);
	close(heartbeats);
	close(snapshots);
	close(signals);
	close(epoll);
	return err;
}

static void report(const struct kpod_bpf *bpf, const struct kpod_options *o)
{
	for (size_t i = 0; i < bpf->loaded_count; i++) {
		const struct kpod_loaded *l = &bpf->loaded[i];

		if (l->attachment)
			kpod_log("collector %s: up (%s)", l->collector->name, l->attachment->name);
		else
			kpod_log("collector %s: down: %s", l->collector->name, l->reason);
	}
	if (!kpod_sees_all_tasks())
		kpod_log(KPOD_OWN_PIDS);
	kpod_log("snapshots every %g s into %s", (double)o->interval_ns / 1e9, o->segment);
}

/* One cgroup file of one container is one descriptor: take all we may have. */
static void raise_descriptors(void)
{
	struct rlimit limit;

	if (!getrlimit(RLIMIT_NOFILE, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static int run(const struct kpod_options *o)
{
	const char *missing = kpod_missing_privilege();
	struct kpod_bpf bpf = {};
	struct kpod_slots slots = {};
	struct kpod_governor governor = {.window_fd = -1};
	struct kpod_publisher publisher = {
		.options = o, .bpf = &bpf, .slots = &slots, .governor = &governor};
	struct kpod_view *view = NULL;
	sigset_t stop;
	int err;

	if (*missing) {
		kpod_log("%s", missing);
		return 1;
	}
	/* Blocked from the start: a signal in any phase is taken in the loop, after clean-up's due.
	 */
	sigemptyset(&stop);
	sigaddset(&stop, SIGINT);
	sigaddset(&stop, SIGTERM);
	sigprocmask(SIG_BLOCK, &stop, NULL);

	raise_descriptors();
	err = kpod_bpf_open(&bpf, o);
	if (err) {
		if (err != -EINVAL || !o->collectors)
			kpod_log("cannot make the BPF maps: %s", strerror(-err));
		goto out;
	}
	err = kpod_slots_open(&slots, &bpf, o->tombstone_ns);
	if (err) {
		kpod_log("%s", err == -ENOENT ? "no cgroup2 hierarchy is mounted" : strerror(-err));
		goto out;
	}
	kpod_sources_open(&bpf, &slots, o);
	kpod_governor_open(&governor, &bpf, &slots, o);
	kpod_privileges_drop(&bpf, governor.able); /* before there are threads */
	err = kpod_publisher_open(&publisher);
	if (err) {
		kpod_log("cannot make %s: %s", o->segment, strerror(-err));
		goto out;
	}
	malloc_trim(0); /* the kernel's BTF, several MB, was only needed to load */
	report(&bpf, o);
	if (o->print)
		view = kpod_view_open(o->segment);
	err = loop(&publisher, &governor, view, &stop);
	if (err)
		kpod_log("the event loop failed: %s", strerror(-err));
out:
	if (view)
		kpod_view_close(view);
	kpod_governor_close(&governor);
	kpod_publisher_close(&publisher);
	kpod_slots_close(&slots);
	kpod_bpf_close(&bpf);
	return err ? 1 : 0;
}

static int dump(int argc, char **argv)
{
	bool json = argc == 3 && !strcmp(argv[2], "--json");
	struct kpod_view *view;
	int err;

	if (argc < 2 || (argc == 3 && !json) || argc > 3) {
		fputs("usage: kpod-loader dump SEGMENT [--json]\n", stderr);
		return 2;
	}
	view = kpod_view_open(argv[1]);
	err = view ? kpod_view_dump(view, json, stdout) : -ENOMEM;
	if (view)
		kpod_view_close(view);
	return err ? 1 : 0;
}

static int check(int argc, char **argv)
{
	struct kpod_view *view;
	int err;

	if (argc != 2) {
		fputs("usage: kpod-loader check SEGMENT\n", stderr);
		return 2;
	}
	view = kpod_view_open(argv[1]);
	err = view ? kpod_view_check(view) : -ENOMEM;
	if (view)
		kpod_view_close(view);
	return err ? 1 : 0;
}

static int events(int argc, char **argv)
{
	bool json = argc == 3 && !strcmp(argv[2], "--json");

	if (argc < 2 || argc > 3 || strcmp(argv[1], "exec") || (argc == 3 && !json)) {
		fputs("usage: kpod-loader events exec [--json]\n", stderr);
		return 2;
	}
	return kpod_events_exec(json) ? 1 : 0;
}

static int schema(const struct kpod_options *o)
{
	struct kpod_bpf bpf = {};
	void *packed = NULL;
	size_t size = 0;
	int err = kpod_bpf_describe(&bpf, o);

	err = err ? err : kpod_schema_encode(&bpf, &packed, &size);
	err = err ? err : kpod_view_schema(packed, size, stdout);
	free(packed);
	kpod_bpf_close(&bpf);
	return err ? 1 : 0;
}

int main(int argc, char **argv)
{
	const char *command = argc > 1 ? argv[1] : "--help";
	struct kpod_options options;
	int status;

	if (!strcmp(command, "dump"))
		return dump(argc - 1, argv + 1);
	if (!strcmp(command, "check"))
		return check(argc - 1, argv + 1);
	if (!strcmp(command, "events"))
		return events(argc - 1, argv + 1);
	if (command[0] != '-') {
		argc--;
		argv++;
	}
	status = kpod_options_parse(argc, argv, &options);
	if (status)
		return status < 0 ? 0 : status;
	if (kpod_syscalls_choose(options.syscalls))
		return 2;
	if (optind < argc) {
		kpod_log("'%s' is not an option; see kpod-loader --help", argv[optind]);
		return 2;
	}
	if (!strcmp(command, "run"))
		return run(&options);
	if (!strcmp(command, "schema"))
		return schema(&options);
	if (!strcmp(command, "doctor"))
		return kpod_doctor(&options);
#ifdef KPOD_TESTING
	if (!strcmp(command, "verify"))
		return kpod_verify(&options);
#endif
	kpod_log("'%s' is not a command; see kpod-loader --help", command);
	return 2;
}

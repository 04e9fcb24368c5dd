/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cgroups/slots.h"
#include "collectors/syscall.h"
#include "kernel/clocks.h"
#include "kernel/governor.h"
#include "kernel/load.h"
#include "kernel/privileges.h"
#include "options.h"
#include "publish/heartbeat.h"
#include "publish/lock.h"
#include "publish/pacer.h"
#include "publish/schema.h"
#include "publish/snapshot.h"
#include "view/doctor.h"
#include "view/events.h"
#include "view/top.h"
#include "view/verify.h"
#include "view/view.h"

/* What the loop waits for, and what it was told last. */
struct loop {
	struct kpod_publisher *publisher;
	struct kpod_governor *governor;
	struct kpod_view *view; /* NULL: without --print */
	struct kpod_pacer pacer;
	struct kpod_heartbeat heartbeat;
	int epoll, signals, ticks;
	int snapshot_err, doorbell_err; /* so that a line is printed once */
	bool changed; /* other collectors run than the segment says, as it could not be made anew */
};

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

static void tend_doorbell(struct loop *l)
{
	int err = kpod_pacer_doorbell(&l->pacer);

	if (err && err != l->doorbell_err)
		kpod_warn(
			"no doorbell %s: %s: snapshots are taken by time alone, at most %g s "
			"apart",
			l->pacer.path, strerror(-err), (double)KPOD_HURRY_INTERVAL_NS / 1e9);
	l->doorbell_err = err;
}

static void snapshot(struct loop *l)
{
	struct kpod_publisher *p = l->publisher;
	int err;

	p->stats.rung = l->pacer.rung;
	err = kpod_publisher_snapshot(p);
	if (err && err != l->snapshot_err)
		kpod_log("cannot write a snapshot to %s: %s", p->options->segment, strerror(-err));
	l->snapshot_err = err;
	tend_doorbell(l);
	l->pacer.hurry = kpod_slots_are_scarce(p->slots);
	kpod_pacer_taken(&l->pacer, p->begun_monotonic_ns, kpod_clock(CLOCK_MONOTONIC));
	if (l->view && !err)
		kpod_view_rates(l->view, stdout);
}

/* Retry until the new segment exists: the old schema still lists collectors that are unloaded. */
static void govern(struct loop *l)
{
	int err;

	l->changed |= kpod_governor_tick(l->governor);
	err = l->changed ? kpod_publisher_renew(l->publisher) : 0;
	if (err)
		kpod_log("cannot make %s anew: %s", l->publisher->options->segment, strerror(-err));
	else
		l->changed = false;
}

/* Before there is a segment, so that whoever finds one can ring. */
static int loop_open(struct loop *l, const struct kpod_options *o, const sigset_t *stop)
{
	int err;

	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	l->signals = signalfd(-1, stop, SFD_CLOEXEC);
	l->ticks = timer(o->governor_tick_ns);
	err = l->epoll < 0 ? -errno : watch(l->epoll, l->signals);
	err = err ? err : watch(l->epoll, l->ticks);
	err = err ? err
		  : kpod_pacer_open(&l->pacer, l->epoll, o->segment, o->min_interval_ns,
				    o->interval_ns);
	if (!err)
		tend_doorbell(l);
	return err ? err : kpod_heartbeat_open(&l->heartbeat);
}

static void loop_close(struct loop *l)
{
	kpod_heartbeat_close(&l->heartbeat);
	kpod_pacer_close(&l->pacer);
	close(l->ticks);
	close(l->signals);
	close(l->epoll);
}

static int loop_run(struct loop *l)
{
	uint64_t begun = l->publisher->begun_monotonic_ns;

	kpod_pacer_taken(&l->pacer, begun, kpod_clock(CLOCK_MONOTONIC));
	for (;;) {
		struct epoll_event event;
		uint64_t count;
		int n;

		kpod_heartbeat_busy(&l->heartbeat, 0);
		n = epoll_wait(l->epoll, &event, 1, -1);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n < 1)
			continue;
		if (event.data.fd == l->signals)
			return 0;
		kpod_heartbeat_busy(&l->heartbeat, kpod_clock(CLOCK_MONOTONIC));
		if (event.data.fd != l->ticks) {
			if (kpod_pacer_is_due(&l->pacer, event.data.fd,
					      kpod_clock(CLOCK_MONOTONIC)))
				snapshot(l);
		} else if (read(l->ticks, &count, sizeof(count)) == sizeof(count)) {
			govern(l);
		}
		if (l->view && ferror(stdout))
			return 0; /* who looked at the table has gone */
	}
}

static void report(const struct kpod_bpf *bpf, const struct kpod_options *o)
{
	for (size_t i = 0; i < bpf->loaded_count; i++) {
		const struct kpod_loaded *l = &bpf->loaded[i];

		if (l->attachment)
			kpod_info("collector %s: up (%s)%s%s", l->collector->name,
				  l->attachment->name, l->reason[0] ? ": " : "", l->reason);
		else
			kpod_warn("collector %s: down: %s", l->collector->name, l->reason);
	}
	if (!kpod_sees_all_tasks())
		kpod_warn(KPOD_OWN_PIDS);
	kpod_info("snapshots every %g s, and at a scrape but not within %g s, into %s",
		  (double)o->interval_ns / 1e9, (double)o->min_interval_ns / 1e9, o->segment);
}

/* With fewer, not even what finds containers loads. */
#define DESCRIPTORS_LEAST 32

/* One cgroup file of one container is one descriptor: take all we may have. */
static int raise_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return 0;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur >= DESCRIPTORS_LEAST)
		return 0;
	kpod_log("%s: RLIMIT_NOFILE is %ju, and the loader needs at least %d", strerror(EMFILE),
		 (uintmax_t)limit.rlim_cur, DESCRIPTORS_LEAST);
	return -EMFILE;
}

#define PRIVATE_DIRECTORY "/dev/shm/kpod-print.XXXXXX"

/* Where the segment is to be. False: it cannot be there, and a line has said why. */
static bool make_place(struct kpod_options *o, char directory[PATH_MAX], char segment[PATH_MAX])
{
	char *slash;

	directory[0] = '\0';
	if (!o->segment) {
		strcpy(directory, PRIVATE_DIRECTORY);
		if (!mkdtemp(directory)) {
			kpod_log("cannot make %s: %s", PRIVATE_DIRECTORY, strerror(errno));
			directory[0] = '\0';
			return false;
		}
		snprintf(segment, PATH_MAX, "%.1000s/segment", directory);
		o->segment = segment;
		return true;
	}
	/* One level, and it stays: readers may have mounted it. */
	snprintf(segment, PATH_MAX, "%s", o->segment);
	slash = strrchr(segment, '/');
	if (slash && slash != segment) {
		*slash = '\0';
		if (!mkdir(segment, 0755))
			chmod(segment, 0755);
	}
	return true;
}

static int take_lock(struct kpod_lock *lock, const struct kpod_options *o)
{
	int holder = 0, err = kpod_lock_open(lock, o->segment, &holder);

	if (err == -EBUSY)
		kpod_log(
			"%s: the loader with process number %d writes it: end that one first, or "
			"give this one another --segment",
			o->segment, holder);
	else if (err)
		kpod_log("cannot make %s: %s", o->segment, strerror(-err));
	return err;
}

/* Blocked from the start: a signal in any phase is taken in the loop, after which all is undone. */
static void block_signals(sigset_t *stop)
{
	struct sigaction hangup;

	sigemptyset(stop);
	sigaddset(stop, SIGINT);
	sigaddset(stop, SIGTERM);
	/* nohup(1) has it ignored, and that is to stay so. */
	if (!sigaction(SIGHUP, NULL, &hangup) && hangup.sa_handler != SIG_IGN)
		sigaddset(stop, SIGHUP);
	sigprocmask(SIG_BLOCK, stop, NULL);
	signal(SIGPIPE, SIG_IGN); /* a log that nobody reads is no reason to end */
}

static int run_on(const struct kpod_options *o, const sigset_t *stop)
{
	struct kpod_bpf bpf = {};
	struct kpod_slots slots = {};
	struct kpod_governor governor = {.window_fd = -1};
	struct loop loop = {.epoll = -1, .signals = -1, .ticks = -1, .governor = &governor};
	struct kpod_publisher publisher = {.options = o,
					   .bpf = &bpf,
					   .slots = &slots,
					   .governor = &governor,
					   .heartbeat = &loop.heartbeat};
	int err;

	loop.publisher = &publisher;
	loop.pacer.timer = loop.pacer.inotify = -1;
	err = raise_descriptors();
	if (err)
		goto out;
	err = kpod_bpf_open(&bpf, o);
	if (err) {
		if (err != -EINVAL || !o->collectors)
			kpod_log("cannot make the BPF maps: %s", strerror(-err));
		goto out;
	}
	err = kpod_slots_open(&slots, &bpf, o);
	if (err) {
		kpod_log("%s", kpod_slots_error(err));
		goto out;
	}
	kpod_sources_open(&bpf, &slots, o);
	kpod_governor_open(&governor, &bpf, &slots, o);
	err = kpod_privileges_drop(&bpf, governor.able);
	if (err && !o->allow_degraded_privileges) {
		kpod_log("it ends rather than run with them: see --allow-degraded-privileges");
		goto out;
	}
	err = loop_open(&loop, o, stop); /* not before: there are threads from here on */
	if (err) {
		kpod_log("cannot start: %s", strerror(-err));
		goto out;
	}
	err = kpod_publisher_open(&publisher);
	if (err) {
		kpod_log("cannot make %s: %s", o->segment, strerror(-err));
		goto out;
	}
	malloc_trim(0); /* the kernel's BTF, several MB, was only needed to load */
	report(&bpf, o);
	loop.view = o->print ? kpod_view_open(o->segment) : NULL;
	err = loop_run(&loop);
	if (err)
		kpod_log("the event loop failed: %s", strerror(-err));
out:
	if (loop.view)
		kpod_view_close(loop.view);
	kpod_governor_close(&governor);
	kpod_publisher_close(&publisher);
	loop_close(&loop);
	kpod_slots_close(&slots);
	kpod_bpf_close(&bpf);
	return err ? 1 : 0;
}

static bool has_clocks(const char *proc)
{
	int err = kpod_clocks_join(proc);

	if (err)
		kpod_log("%s: %s: %s", KPOD_OWN_CLOCKS, strerror(-err), KPOD_OWN_CLOCKS_TODO);
	return !err;
}

static int run(struct kpod_options *o)
{
	char directory[PATH_MAX], segment[PATH_MAX];
	const char *missing = kpod_missing_privilege();
	struct kpod_lock lock = {.fd = -1};
	sigset_t stop;
	int status = 1;

	if (*missing) {
		kpod_log("%s", missing);
		return 1;
	}
	if (!has_clocks(o->proc))
		return 1;
	kpod_log_start(o->log_json);
	block_signals(&stop);
	if (make_place(o, directory, segment) && !take_lock(&lock, o))
		status = run_on(o, &stop);
	kpod_lock_close(&lock);
	if (directory[0])
		unlinkat(AT_FDCWD, directory, AT_REMOVEDIR); /* rmdir() is filtered out */
	return status;
}

/* Of a command that was asked for its help, or was called in a wrong way: the exit status. */
static int usage(int argc, char **argv, const char *text)
{
	bool asked = argc == 2 && (!strcmp(argv[1], "-h") || !strcmp(argv[1], "--help"));

	fprintf(asked ? stdout : stderr, "usage: kpod-loader %s\n", text);
	return asked ? 0 : 2;
}

static bool is_option(const char *argument)
{
	return argument[0] == '-';
}

static int dump(int argc, char **argv)
{
	struct kpod_view_form form = {};
	bool wrong = argc < 2 || is_option(argv[1]);
	struct kpod_view *view;
	int err;

	for (int i = 2; i < argc; i++) {
		form.json |= !strcmp(argv[i], "--json");
		form.raw |= !strcmp(argv[i], "--raw");
		wrong |= strcmp(argv[i], "--json") && strcmp(argv[i], "--raw");
	}
	if (wrong)
		return usage(argc, argv, "dump SEGMENT [--json] [--raw]");
	view = kpod_view_open(argv[1]);
	err = view ? kpod_view_dump(view, &form, stdout) : -ENOMEM;
	if (view)
		kpod_view_close(view);
	return err ? 1 : 0;
}

static int check(int argc, char **argv)
{
	struct kpod_view *view;
	int err;

	if (argc != 2 || is_option(argv[1]))
		return usage(argc, argv, "check SEGMENT");
	view = kpod_view_open(argv[1]);
	err = view ? kpod_view_refresh(view) : -ENOMEM;
	if (view)
		kpod_view_close(view);
	return err ? 1 : 0;
}

#define EVENTS_USAGE "events exec|oom|drop [--container TEXT] [--json]"

static int events(int argc, char **argv)
{
	static const struct option known[] = {
		{"container", required_argument, NULL, 'c'}, {"json", no_argument, NULL, 'j'}, {}};
	const char *container = NULL;
	bool json = false;
	int option;

	if (argc < 2 || !kpod_events_are(argv[1]))
		return usage(argc, argv, EVENTS_USAGE);
	while ((option = getopt_long(argc - 1, argv + 1, "", known, NULL)) != -1) {
		if (option == 'c')
			container = optarg;
		else if (option == 'j')
			json = true;
		else
			return usage(0, argv, EVENTS_USAGE);
	}
	if (optind < argc - 1)
		return usage(0, argv, EVENTS_USAGE);
	return has_clocks("/proc") && !kpod_events(argv[1], container, json) ? 0 : 1;
}

static int schema(const struct kpod_options *o)
{
	const struct kpod_wall wall = {}; /* nothing has started */
	struct kpod_bpf bpf = {};
	void *packed = NULL;
	size_t size = 0;
	int err = kpod_bpf_describe(&bpf, o);

	err = err ? err : kpod_schema_encode(&bpf, &wall, o->min_interval_ns, &packed, &size);
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
	if (!strcmp(command, "options")) {
		kpod_options_page(stdout);
		return 0;
	}
	if (!strcmp(command, "doctor"))
		return kpod_doctor(&options);
	if (!strcmp(command, "top"))
		return kpod_top(&options);
#ifdef KPOD_TESTING
	if (!strcmp(command, "verify"))
		return kpod_verify(&options);
#endif
	kpod_log("'%s' is not a command; see kpod-loader --help", command);
	return 2;
}

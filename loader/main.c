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

#include "loader.h"

static const char usage[] =
	"kpod-loader: eBPF metrics of every container, into a shared-memory segment\n"
	"\n"
	"  kpod-loader run [options]          attach, and write snapshots until stopped\n"
	"  kpod-loader dump SEGMENT [--json]  print the last snapshot of a segment\n"
	"  kpod-loader events exec [--json]   print programs started and processes ended\n"
	"  kpod-loader schema                 print the schema as JSON\n"
	"  kpod-loader doctor                 print what works on this machine, and why not\n"
	"\n"
	"options of run (doctor and schema take those of collectors too):\n"
	"  --segment PATH         the segment, on tmpfs (default /run/kpod/segment)\n"
	"  --interval SECONDS     between snapshots (default 10)\n"
	"  --tombstone SECONDS    how long an ended container stays (default 300)\n"
	"  --max-containers N     slots (default 2048, at most 65536)\n"
	"  --ring-size BYTES      of the ring at the start, a power of two (default 1048576)\n"
	"  --ring-max BYTES       to which it may grow (default 268435456)\n"
	"  --profile NAME         minimal, standard (default) or comprehensive\n"
	"  --collectors LIST      these instead of a profile, separated by commas\n"
	"  --syscalls LIST        the system calls that collector syscall measures by name\n"
	"  --proc PATH            the host's procfs (default /proc)\n"
	"  --max-overhead PERCENT of the node's CPU: collectors are shed when BPF programs take\n"
	"                         more (default 1; 0: not measured, and no privilege kept for it)\n"
	"  --pods-only            slots for Kubernetes pods only; all else is the host\n"
	"  --print                also print a live table\n"
	"  --verbose              also print what libbpf says\n"
#ifdef KPOD_TESTING
	"  verify                       tries every program and attachment, prints JSON\n"
	"  --inject-load-failure NAME   this collector does not load\n"
	"  --governor-tick SECONDS      instead of one\n"
#endif
	"  --help, --version\n";

uint64_t kpod_clock(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * KPOD_SECOND + (uint64_t)now.tv_nsec;
}

void kpod_log(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("kpod-loader: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
}

static bool parse_number(const char *name, const char *text, double low, double high, double *out)
{
	char *end;

	errno = 0;
	*out = strtod(text, &end);
	if (errno || end == text || *end || !(*out >= low && *out <= high)) {
		kpod_log("--%s: '%s' is not a number from %g to %g", name, text, low, high);
		return false;
	}
	return true;
}

static bool parse_profile(const char *text, enum kpod_profile *out)
{
	for (size_t i = 0; i < KPOD_PROFILES; i++) {
		if (!strcmp(text, kpod_profile_names[i])) {
			*out = (enum kpod_profile)i;
			return true;
		}
	}
	kpod_log("--profile: '%s' is not minimal, standard or comprehensive", text);
	return false;
}

enum {
	OPT_SEGMENT = 256,
	OPT_INTERVAL,
	OPT_TOMBSTONE,
	OPT_MAX,
	OPT_RING,
	OPT_RING_MAX,
	OPT_PODS,
	OPT_PROC,
	OPT_PROFILE,
	OPT_COLLECTORS,
	OPT_SYSCALLS,
	OPT_PRINT,
	OPT_VERBOSE,
	OPT_OVERHEAD,
	OPT_INJECT,
	OPT_TICK,
	OPT_HELP,
	OPT_VERSION
};

static const struct option long_options[] = {
	{"segment", required_argument, NULL, OPT_SEGMENT},
	{"interval", required_argument, NULL, OPT_INTERVAL},
	{"tombstone", required_argument, NULL, OPT_TOMBSTONE},
	{"max-containers", required_argument, NULL, OPT_MAX},
	{"ring-size", required_argument, NULL, OPT_RING},
	{"ring-max", required_argument, NULL, OPT_RING_MAX},
	{"proc", required_argument, NULL, OPT_PROC},
	{"pods-only", no_argument, NULL, OPT_PODS},
	{"profile", required_argument, NULL, OPT_PROFILE},
	{"collectors", required_argument, NULL, OPT_COLLECTORS},
	{"syscalls", required_argument, NULL, OPT_SYSCALLS},
	{"max-overhead", required_argument, NULL, OPT_OVERHEAD},
	{"print", no_argument, NULL, OPT_PRINT},
	{"verbose", no_argument, NULL, OPT_VERBOSE},
#ifdef KPOD_TESTING
	{"inject-load-failure", required_argument, NULL, OPT_INJECT},
	{"governor-tick", required_argument, NULL, OPT_TICK},
#endif
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
	{},
};

/* 0: go on; -1: done; else the exit status. */
static int parse_options(int argc, char **argv, struct kpod_options *o)
{
	const char *syscalls = NULL;
	double number;
	int option;

	*o = (struct kpod_options){
		.segment = "/run/kpod/segment",
		.interval_ns = 10 * KPOD_SECOND,
		.tombstone_ns = 300 * KPOD_SECOND,
		.max_containers = 2048,
		.ring_size = 1 << 20,
		.ring_max = 256 << 20,
		.profile = KPOD_STANDARD,
		.max_overhead = 1,
		.governor_tick_ns = KPOD_SECOND,
		.proc = "/proc",
	};
	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		switch (option) {
		case OPT_SEGMENT:
			o->segment = optarg;
			break;
		case OPT_INTERVAL:
			if (!parse_number("interval", optarg, 0.01, 3600, &number))
				return 2;
			o->interval_ns = (uint64_t)(number * KPOD_SECOND);
			break;
		case OPT_TOMBSTONE:
			if (!parse_number("tombstone", optarg, 0, 86400, &number))
				return 2;
			o->tombstone_ns = (uint64_t)(number * KPOD_SECOND);
			break;
		case OPT_MAX:
			if (!parse_number("max-containers", optarg, 1, 65536, &number))
				return 2;
			o->max_containers = (uint32_t)number;
			break;
		case OPT_RING:
		case OPT_RING_MAX:
			if (!parse_number(option == OPT_RING ? "ring-size" : "ring-max", optarg,
					  KPOD_RING_MIN, KPOD_RING_MAX, &number))
				return 2;
			*(option == OPT_RING ? &o->ring_size : &o->ring_max) = (uint64_t)number;
			break;
		case OPT_PROC:
			o->proc = optarg;
			break;
		case OPT_PODS:
			o->pods_only = true;
			break;
		case OPT_PROFILE:
			if (!parse_profile(optarg, &o->profile))
				return 2;
			break;
		case OPT_COLLECTORS:
			o->collectors = optarg;
			break;
		case OPT_SYSCALLS:
			syscalls = optarg;
			break;
		case OPT_PRINT:
			o->print = true;
			break;
		case OPT_VERBOSE:
			o->verbose = true;
			break;
		case OPT_OVERHEAD:
			if (!parse_number("max-overhead", optarg, 0, 100, &o->max_overhead))
				return 2;
			break;
		case OPT_TICK:
			if (!parse_number("governor-tick", optarg, 0.01, 3600, &number))
				return 2;
			o->governor_tick_ns = (uint64_t)(number * KPOD_SECOND);
			break;
		case OPT_INJECT:
			o->inject_failure = optarg;
			break;
		case OPT_VERSION:
			puts("kpod-loader " KPOD_VERSION);
			return -1;
		case OPT_HELP:
			fputs(usage, stdout);
			return -1;
		default:
			fputs("kpod-loader: see kpod-loader --help\n", stderr);
			return 2;
		}
	}
	if (o->ring_size & (o->ring_size - 1) || o->ring_size > o->ring_max) {
		kpod_log("--ring-size: a power of two, at most --ring-max");
		return 2;
	}
	return kpod_syscalls_choose(syscalls) ? 2 : 0;
}

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
	if (!strcmp(command, "events"))
		return events(argc - 1, argv + 1);
	if (command[0] != '-') {
		argc--;
		argv++;
	}
	status = parse_options(argc, argv, &options);
	if (status)
		return status < 0 ? 0 : status;
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

/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "shared/abi.h"

static const char usage[] =
	"kpod-loader: eBPF metrics of every container, into a shared-memory segment\n"
	"\n"
	"  kpod-loader run [options]          attach, and write snapshots until stopped\n"
	"  kpod-loader dump SEGMENT [--json]  print the last snapshot of a segment\n"
	"  kpod-loader check SEGMENT          end with 0 if a loader is writing the segment\n"
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

int kpod_options_parse(int argc, char **argv, struct kpod_options *o)
{
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
			o->syscalls = optarg;
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
	return 0;
}

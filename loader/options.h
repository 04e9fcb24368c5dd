/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The options of the loader, as one table that makes the parsing, --help and docs/options.md. Knows
 * the profiles of base/collector.h and nothing else.
 */
#ifndef KPOD_LOADER_OPTIONS_H
#define KPOD_LOADER_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/collector.h"
#include "bpf/classify.h"

#define KPOD_VERSION "0.1.0"

/* The default of --max-sockets: one for so many bytes of the machine's memory, in these bounds. */
#define KPOD_SOCKETS_MEMORY (64 << 10)
#define KPOD_SOCKETS_LOW 65536
#define KPOD_SOCKETS_HIGH 262144

/*
 * Milliseconds of CPU time in each second that BPF programs may always take: a percent of a small
 * node is less than a few containers that do nothing wrong need.
 */
#define KPOD_OVERHEAD_FLOOR_MS 50

struct kpod_options {
	const char *segment; /* NULL: a private one, which ends with the loader (run --print) */
	uint64_t interval_ns;
	uint64_t min_interval_ns;
	uint64_t tombstone_ns; /* how long a dead container's totals stay */
	uint32_t max_containers;
	uint32_t max_sockets; /* TCP sockets with an account */
	uint32_t culprits;    /* of a container's waits for the CPU, that are named; 0: none */
	uint32_t tcp_peers;   /* of a container's TCP connections, that are told apart; 0: none */
	uint64_t ring_size;
	uint64_t ring_max;
	bool pods_only;
	const char *others;	  /* as written; NULL: a default */
	enum kpod_others wanted;  /* by both of these: what has slots beside pods */
	double others_share;	  /* percent of the slots that it may have together */
	const char *cgroup_roots; /* of nodes, beside those that are found; separated by commas */
	const char *instances;	  /* groups of units that are shown one by one; likewise */
	bool print;
	bool allow_degraded_privileges;
	bool verbose;
	const char *log_format;
	bool log_json;	    /* by that */
	bool json;	    /* doctor, top */
	bool once;	    /* top */
	const char *sort;   /* top: a column's name */
	const char *filter; /* top; NULL: all */
	enum kpod_profile profile;
	const char *proc;	    /* the host's procfs */
	const char *collectors;	    /* instead of a profile: names, separated by commas */
	const char *syscalls;	    /* measured by name, separated by commas; NULL: a default */
	double max_overhead;	    /* of BPF programs, in percent of the node's CPU time */
	uint64_t governor_tick_ns;  /* a second but in tests */
	uint32_t governor_floor_ms; /* KPOD_OVERHEAD_FLOOR_MS but in tests */
	uint64_t renew_ns; /* how often a culprit or peer may make room for another; likewise a
			      minute */
	const char *inject_failure; /* test builds: this collector does not load, or these
				       attachments */
	bool inject_preemption;	    /* test builds: attach as if the kernel preempted programs */
};

/*
 * Fills in *o: defaults, then the environment, then the command line. Returns 0, or -1 if --help or
 * --version has been answered, or the exit status once one line on stderr has said what is wrong.
 * Sets optind.
 */
int kpod_options_parse(int argc, char **argv, struct kpod_options *o);

/* Prints docs/options.md. */
void kpod_options_page(FILE *out);

#endif

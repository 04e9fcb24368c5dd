/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Collectors whose rows a BPF program fills in, in one walk over all cgroups: the same tables and
 * the same numbers as sources/cgroupfs.h has them from files, which are read instead on kernels
 * that lack something. Knows the declarations of base/collector.h and the slots.
 */
#ifndef KPOD_LOADER_SOURCES_CGROUPWALK_H
#define KPOD_LOADER_SOURCES_CGROUPWALK_H

#include "base/collector.h"
#include "bpf/walk.h"

/* The rows of the collector's only table, as its programs leave them (bpf/walk.bpf.h). */
struct kpod_cgroup_walk {
	const char *rows; /* the map, one element a slot: struct kpod_walked, the words, and more */
	size_t row_size;
	void (*finish)(void *row); /* if set, words that the loader derives; in the map itself */
	/*
	 * If set, a file of the root that is read first: the kernel then adds up what each CPU has
	 * counted, of all cgroups, as it does for each cgroup whose file is read.
	 */
	const char *flush;
	bool clock; /* this CPU's run queue is to have its clock as of now */
};

/* The steps by KPOD_WALK(name, …), to which an attachment may add some, and the above. */
#define KPOD_WALK_STEPS(name_)                                                                     \
	{"kpod_" #name_ "_find", KPOD_LOAD},                                                       \
	{                                                                                          \
		"kpod_" #name_ "_walk", KPOD_LOAD                                                  \
	}
/* Reads each cgroup once more when it is removed. */
#define KPOD_WALK_END(name_)                                                                       \
	{                                                                                          \
		"kpod_" #name_ "_end", KPOD_ATTACH                                                 \
	}
#define KPOD_WALK_ROWS(name_, row, ...)                                                            \
	.name = "walk", .source = &kpod_cgroup_walk_source,                                        \
	.walk = &(const struct kpod_cgroup_walk)                                                   \
	{                                                                                          \
		.rows = #name_ "_rows", .row_size = sizeof(struct row), ##__VA_ARGS__              \
	}

extern const struct kpod_source kpod_cgroup_walk_source;

#endif

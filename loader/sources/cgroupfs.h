/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Collectors that read files of each container's own cgroup (v2). The kernel counts the cgroups
 * below it in. Slot 0 has no rows here: the root's files are of the whole node, not of what belongs
 * to no container.
 *
 * Files stay open and are read with pread(), as long as descriptors last (RLIMIT_NOFILE less
 * KPOD_DESCRIPTORS_RESERVED); what does not fit is opened, read and closed each time.
 */
#ifndef KPOD_LOADER_SOURCES_CGROUPFS_H
#define KPOD_LOADER_SOURCES_CGROUPFS_H

#include "base/collector.h"
#include "base/parse.h"

#define KPOD_DESCRIPTORS_RESERVED 256 /* for maps, programs, links and the loader itself */

/* A file, what is in it and where that goes. */
struct kpod_cgroup_file {
	const char *name;
	const struct kpod_field *fields;
	size_t field_count;
};

#define KPOD_FILE(file, ...)                                                                       \
	{                                                                                          \
		.name = (file), .fields = (const struct kpod_field[]){__VA_ARGS__},                \
		.field_count = KPOD_COUNT(((const struct kpod_field[]){__VA_ARGS__})),             \
	}

/* All files together make a row of the collector's only table. */
struct kpod_cgroup_files {
	const char *controller; /* whose files they are; NULL: every cgroup has them */
	const struct kpod_cgroup_file *files;
	size_t count;
	/* If set, each line makes a row of its own. False: this one does not. */
	bool (*key)(struct kpod_span line, uint64_t *key);
	void (*begin)(void);		 /* if set, before each pass */
	void (*derive)(uint64_t *words); /* if set, words from others of the row */
};

#define KPOD_FILES(array) .files = (array), .count = KPOD_COUNT(array)

extern const struct kpod_source kpod_cgroup_source;

/* The attachment of a collector that reads files only where its walk (cgroupwalk.h) cannot run. */
#define KPOD_FILES_ATTACHMENT                                                                      \
	.name = "files", .lacks = "no walk by BPF: files are read, at about ten times the cost"

/* Leaves a note in l->reason if the hierarchy at `root` lacks the controller whose files they are.
 */
void kpod_cgroup_note_controller(struct kpod_loaded *l, int root, const char *path);

/* File i of the collector and how often it could not be read. NULL: it reads no such files. */
const char *kpod_cgroup_file_errors(const struct kpod_loaded *l, size_t i, uint64_t *errors);

#endif

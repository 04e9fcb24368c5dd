/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cgroup2.h"
#include "base/parse.h"

int kpod_find_cgroup2(char *root, size_t size)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char *line = NULL, path[PATH_MAX];
	size_t room = 0;
	struct stat st = {};
	ssize_t length;

	if (!f)
		return -errno;
	root[0] = '\0';
	while (st.st_ino != KPOD_ROOT_ID && (length = getline(&line, &room, f)) > 0) {
		struct kpod_mount mount;

		if (!kpod_parse_mount((struct kpod_span){line, (size_t)length - 1}, &mount) ||
		    !kpod_span_is(mount.type, "cgroup2") ||
		    !kpod_unescape(mount.point, path, sizeof(path)) || stat(path, &st))
			continue;
		if (!root[0] || st.st_ino == KPOD_ROOT_ID)
			snprintf(root, size, "%s", path);
	}
	free(line);
	fclose(f);
	return root[0] ? 0 : -ENOENT;
}

bool kpod_is_own_cgroup(const char *root)
{
	char path[PATH_MAX + sizeof("/cgroup.procs")];
	struct stat st;
	bool found = false;
	long pid;
	FILE *f;

	if (stat(root, &st) || st.st_ino == KPOD_ROOT_ID)
		return false;
	snprintf(path, sizeof(path), "%s/cgroup.procs", root);
	f = fopen(path, "re");
	while (f && !found && fscanf(f, "%ld", &pid) == 1)
		found = pid == getpid();
	if (f)
		fclose(f);
	return found;
}

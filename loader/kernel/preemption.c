/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <bpf/btf.h>
#include <linux/magic.h>

#include "kernel/mount.h"
#include "kernel/preemption.h"

/* Since 7.0 a tracepoint keeps its programs by this lock; before, by disabling preemption. */
static bool tracepoints_preempt(void)
{
	struct btf *btf = btf__load_vmlinux_btf();
	bool found = btf &&
		     btf__find_by_name_kind(btf, "class_srcu_fast_notrace_t", BTF_KIND_TYPEDEF) > 0;

	btf__free(btf);
	return found;
}

/* The value of the last preempt=, as the kernel takes it; NULL: there is none. */
static const char *option_of(const char *commandline)
{
	const char *found = NULL;

	for (const char *at = commandline; (at = strstr(at, "preempt=")); at += strlen("preempt="))
		if (at == commandline || at[-1] == ' ')
			found = at + strlen("preempt=");
	return found;
}

bool kpod_functions_preempt(const char *version, const char *commandline, const char *modes)
{
	const char *mode;

	/* It was built for one mode (include/generated/compile.h). */
	if (!strstr(version, "PREEMPT_DYNAMIC"))
		return strstr(version, " PREEMPT") != NULL;
	mode = strchr(modes, '(');
	mode = mode ? mode + 1 : option_of(commandline);
	/* Not known: it may have been built for it, and to be wrong would lose events. */
	return !mode || !strncmp(mode, "full", 4) || !strncmp(mode, "lazy", 4);
}

static void read_text(int directory, const char *path, char *text, size_t size)
{
	int fd = openat(directory, path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);

	text[n < 0 ? 0 : n] = '\0';
	if (fd >= 0)
		close(fd);
}

enum kpod_preemption kpod_preemption(void)
{
	char commandline[4096], modes[64];
	struct utsname name = {};
	int debugfs;

	if (tracepoints_preempt())
		return KPOD_TRACEPOINTS_PREEMPT;
	uname(&name);
	read_text(AT_FDCWD, "/proc/cmdline", commandline, sizeof(commandline));
	debugfs = kpod_open_mount("/sys/kernel/debug", "debugfs", DEBUGFS_MAGIC);
	read_text(debugfs, "sched/preempt", modes, sizeof(modes));
	if (debugfs >= 0)
		close(debugfs);
	return kpod_functions_preempt(name.version, commandline, modes) ? KPOD_FUNCTIONS_PREEMPT
									: KPOD_NOTHING_PREEMPTS;
}

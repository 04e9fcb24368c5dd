/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the loader keeps of its privileges once everything is attached; docs/privileges.md says why.
 * The kernel checks most of what is done with BPF when it is made, not when it is used.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <linux/capability.h>
#include <seccomp.h>

#include "base/log.h"
#include "kernel/privileges.h"

struct sets {
	struct __user_cap_header_struct header;
	struct __user_cap_data_struct data[2];
};

static int get(struct sets *s)
{
	s->header = (struct __user_cap_header_struct){.version = _LINUX_CAPABILITY_VERSION_3};
	return syscall(SYS_capget, &s->header, s->data) ? -errno : 0;
}

/* Of those that are permitted now, these stay so, and these are in force. */
static int keep(uint64_t permitted, uint64_t effective)
{
	struct sets s;
	int err = get(&s);

	for (int i = 0; !err && i < 2; i++) {
		s.data[i].permitted &= (uint32_t)(permitted >> 32 * i);
		s.data[i].effective = s.data[i].permitted & (uint32_t)(effective >> 32 * i);
		s.data[i].inheritable = 0;
	}
	return err ? err : syscall(SYS_capset, &s.header, s.data) ? -errno : 0;
}

static bool capable(int capability)
{
	struct sets s;

	return !get(&s) && s.data[capability / 32].effective & 1u << capability % 32;
}

/* lockdown=confidentiality: kernel_lockdown(7). False also if securityfs is not mounted. */
static bool is_locked_down(void)
{
	int fd = open("/sys/kernel/security/lockdown", O_RDONLY | O_CLOEXEC);
	char text[64] = "";
	ssize_t size = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	return size > 0 && strstr(text, "[confidentiality]");
}

const char *kpod_missing_privilege(void)
{
	if (is_locked_down())
		return "the kernel is locked down (confidentiality): BPF programs may not read its "
		       "memory";
	if (capable(CAP_SYS_ADMIN))
		return "";
	if (!capable(CAP_BPF))
		return "CAP_BPF is missing (run it as root, or give it CAP_BPF and CAP_PERFMON)";
	if (!capable(CAP_PERFMON))
		return "CAP_PERFMON is missing (run it as root, or give it CAP_BPF and "
		       "CAP_PERFMON)";
	return "";
}

/* What the loop calls, and what the C library calls for it on both architectures. */
static const int at_work[] = {
	/* time and signals */
	SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_create1),
	SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime), SCMP_SYS(signalfd4),
	SCMP_SYS(inotify_init1), SCMP_SYS(inotify_add_watch), SCMP_SYS(clock_gettime),
	SCMP_SYS(clock_nanosleep), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn), SCMP_SYS(restart_syscall),
	/* memory */
	SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(mprotect), SCMP_SYS(madvise),
	SCMP_SYS(brk), SCMP_SYS(futex),
	/* files: the segment, the cgroup tree, /proc */
	SCMP_SYS(open), SCMP_SYS(openat), SCMP_SYS(openat2), SCMP_SYS(close), SCMP_SYS(read),
	SCMP_SYS(readv), SCMP_SYS(pread64), SCMP_SYS(write), SCMP_SYS(writev), SCMP_SYS(lseek),
	SCMP_SYS(fstat), SCMP_SYS(stat), SCMP_SYS(newfstatat), SCMP_SYS(statx), SCMP_SYS(statfs),
	SCMP_SYS(fstatfs), SCMP_SYS(access), SCMP_SYS(faccessat), SCMP_SYS(faccessat2),
	SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(getdents64), SCMP_SYS(fcntl),
	SCMP_SYS(dup), SCMP_SYS(dup3), SCMP_SYS(fallocate), SCMP_SYS(ftruncate), SCMP_SYS(fchmod),
	SCMP_SYS(rename), SCMP_SYS(renameat), SCMP_SYS(renameat2), SCMP_SYS(unlink),
	SCMP_SYS(unlinkat),
	/* itself, and the threads that ask file systems */
	SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(getpid), SCMP_SYS(gettid),
	SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(sched_getaffinity), SCMP_SYS(sched_yield),
	SCMP_SYS(sysinfo), SCMP_SYS(uname), SCMP_SYS(getrusage), SCMP_SYS(getrandom),
	SCMP_SYS(prlimit64), SCMP_SYS(capget), SCMP_SYS(capset), SCMP_SYS(exit),
	SCMP_SYS(exit_group), SCMP_SYS(tgkill)};

/* Of bpf(2). */
static const int bpf_at_work[] = {
	BPF_MAP_LOOKUP_ELEM,
	BPF_MAP_UPDATE_ELEM,
	BPF_MAP_DELETE_ELEM,
	BPF_MAP_GET_NEXT_KEY,
	BPF_MAP_LOOKUP_AND_DELETE_ELEM,
	BPF_MAP_LOOKUP_BATCH,
	BPF_MAP_DELETE_BATCH,
	BPF_PROG_TEST_RUN,
	BPF_ITER_CREATE,
	BPF_OBJ_GET_INFO_BY_FD,
};

/* For what loads a collector again. */
static const int bpf_to_load[] = {
	BPF_MAP_CREATE,	 BPF_MAP_FREEZE,    BPF_PROG_LOAD,	     BPF_PROG_ATTACH,
	BPF_PROG_DETACH, BPF_PROG_BIND_MAP, BPF_RAW_TRACEPOINT_OPEN, BPF_BTF_LOAD,
	BPF_LINK_CREATE, BPF_ENABLE_STATS,  BPF_BTF_GET_FD_BY_ID,    BPF_BTF_GET_NEXT_ID,
};

static int allow_bpf(scmp_filter_ctx filter, const int *commands, size_t count)
{
	int err = 0;

	for (size_t i = 0; !err && i < count; i++)
		err = seccomp_rule_add(
			filter, SCMP_ACT_ALLOW, SCMP_SYS(bpf), 1,
			SCMP_A0(SCMP_CMP_MASKED_EQ, UINT32_MAX, (scmp_datum_t)commands[i]));
	return err;
}

#define NAMESPACES                                                                                 \
	(CLONE_NEWCGROUP | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID |              \
	 CLONE_NEWUSER | CLONE_NEWUTS)

/* What is not allowed fails with EPERM. */
static int confine(bool loads)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int err = filter ? 0 : -ENOMEM;

	for (size_t i = 0; !err && i < KPOD_COUNT(at_work); i++)
		err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, at_work[i], 0);
	/* Threads only; of clone3 one cannot tell, so the C library is to do without.
	 */
	err = err ? err
		  : seccomp_rule_add(
			    filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
			    SCMP_A0(SCMP_CMP_MASKED_EQ, NAMESPACES | CLONE_THREAD, CLONE_THREAD));
	err = err ? err : seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	err = err ? err : allow_bpf(filter, bpf_at_work, KPOD_COUNT(bpf_at_work));
	if (loads) {
		err = err ? err : allow_bpf(filter, bpf_to_load, KPOD_COUNT(bpf_to_load));
		err = err ? err
			  : seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(perf_event_open), 0);
		err = err ? err : seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 0);
	}
	err = err ? err : seccomp_load(filter);
	if (filter)
		seccomp_release(filter);
	return err;
}

/* Before Linux 5.19 any use of bpf(2) wants CAP_BPF where unprivileged use is off. */
static bool use_is_refused(const struct kpod_bpf *bpf)
{
	struct kpod_cgroup entry;
	uint64_t none = 0;

	return bpf->cgroups_fd >= 0 &&
	       bpf_map_lookup_elem(bpf->cgroups_fd, &none, &entry) == -EPERM;
}

#define BIT(capability) (1ULL << (capability))

static void say_missing(const struct kpod_collector *c)
{
	static const struct {
		int number;
		const char *name;
	} known[] = {{CAP_SYS_PTRACE, "CAP_SYS_PTRACE"},
		     {CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"}};

	for (size_t i = 0; i < KPOD_COUNT(known); i++)
		if (c->capabilities & BIT(known[i].number) && !capable(known[i].number))
			kpod_warn(
				"collector %s: %s is missing: what it may not look at is left "
				"out, and counted",
				c->name, known[i].name);
}

/* To programs of cgroups another capability belongs than to load them. */
static bool has_cgroup_programs(const struct kpod_collector *c)
{
	for (size_t i = 0; i < c->attachment_count; i++)
		for (size_t step = 0; step < c->attachments[i].step_count; step++)
			if (c->attachments[i].steps[step].kind == KPOD_ATTACH_CGROUP)
				return true;
	return false;
}

int kpod_privileges_drop(const struct kpod_bpf *bpf, bool loads)
{
	uint64_t needed = loads ? BIT(CAP_BPF) | BIT(CAP_PERFMON) | BIT(CAP_SYS_ADMIN) : 0;
	int err, filter_err;

	for (size_t i = 0; i < bpf->loaded_count; i++) {
		if (!bpf->loaded[i].attachment)
			continue;
		needed |= bpf->loaded[i].collector->capabilities;
		if (loads && has_cgroup_programs(bpf->loaded[i].collector))
			needed |= BIT(CAP_NET_ADMIN);
		say_missing(bpf->loaded[i].collector);
	}
	err = keep(needed | BIT(CAP_BPF), needed);
	if (!err && use_is_refused(bpf))
		needed |= BIT(CAP_BPF);
	err = err ? err : keep(needed, needed);
	if (!err && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
		err = -errno;
	if (!err && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		err = -errno;
	if (err)
		kpod_log("capabilities cannot be dropped: %s", strerror(-err));
	filter_err = confine(loads);
	if (filter_err)
		kpod_log("the system call filter cannot be set: %s", strerror(-filter_err));
	return err ? err : filter_err;
}

/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "native.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/landlock.h>

/* What an interpreter that serves HTTP has no business with. Python calls too much to list that. */
static const int refused[] = {
	/* other processes */
	SCMP_SYS(ptrace),
	SCMP_SYS(process_vm_readv),
	SCMP_SYS(process_vm_writev),
	SCMP_SYS(pidfd_getfd),
	SCMP_SYS(kcmp),
	SCMP_SYS(process_madvise),
	SCMP_SYS(pidfd_send_signal),
	SCMP_SYS(process_mrelease),
	/* namespaces and mounts */
	SCMP_SYS(mount),
	SCMP_SYS(umount2),
	SCMP_SYS(pivot_root),
	SCMP_SYS(chroot),
	SCMP_SYS(move_mount),
	SCMP_SYS(open_tree),
	SCMP_SYS(fsopen),
	SCMP_SYS(fsmount),
	SCMP_SYS(fspick),
	SCMP_SYS(fsconfig),
	SCMP_SYS(umount),
	SCMP_SYS(mount_setattr),
	SCMP_SYS(setns),
	SCMP_SYS(unshare),
	SCMP_SYS(open_by_handle_at),
	/* the kernel */
	SCMP_SYS(bpf),
	SCMP_SYS(perf_event_open),
	SCMP_SYS(userfaultfd),
	SCMP_SYS(io_uring_setup),
	SCMP_SYS(io_uring_enter),
	SCMP_SYS(io_uring_register),
	SCMP_SYS(init_module),
	SCMP_SYS(finit_module),
	SCMP_SYS(delete_module),
	SCMP_SYS(kexec_load),
	SCMP_SYS(kexec_file_load),
	SCMP_SYS(reboot),
	SCMP_SYS(syslog),
	SCMP_SYS(keyctl),
	SCMP_SYS(add_key),
	SCMP_SYS(request_key),
	SCMP_SYS(quotactl),
	SCMP_SYS(quotactl_fd),
	SCMP_SYS(fanotify_init),
	SCMP_SYS(lookup_dcookie),
	SCMP_SYS(name_to_handle_at),
	SCMP_SYS(acct),
	SCMP_SYS(swapon),
	SCMP_SYS(swapoff),
	SCMP_SYS(iopl),
	SCMP_SYS(ioperm),
	SCMP_SYS(settimeofday),
	SCMP_SYS(clock_settime),
	SCMP_SYS(adjtimex),
	SCMP_SYS(clock_adjtime),
	SCMP_SYS(sethostname),
	SCMP_SYS(setdomainname),
};

static const unsigned int namespaces[] = {
	CLONE_NEWCGROUP, CLONE_NEWIPC,	CLONE_NEWNET, CLONE_NEWNS,
	CLONE_NEWPID,	 CLONE_NEWUSER, CLONE_NEWUTS,
};

int kpod_confine(void)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	int err = filter ? 0 : -ENOMEM;

	for (size_t i = 0; !err && i < sizeof(refused) / sizeof(refused[0]); i++) {
		err = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), refused[i], 0);
		if (err == -EDOM) /* this architecture has no such call */
			err = 0;
	}
	/* clone() says in its first argument what is new; clone3() in memory, which no filter can
	 * see: the C library falls back to clone(). */
	for (size_t i = 0; !err && i < sizeof(namespaces) / sizeof(namespaces[0]); i++)
		err = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
				       SCMP_A0(SCMP_CMP_MASKED_EQ, namespaces[i], namespaces[i]));
	err = err ? err : seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (!err && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		err = -errno;
	err = err ? err : seccomp_load(filter);
	if (filter)
		seccomp_release(filter);
	return err;
}

/* As of ABI 6; linux/landlock.h of older distributions ends with the first member. */
struct ruleset {
	__u64 files, ports, scopes;
};

#define SCOPES 3 /* abstract UNIX sockets, signals */

#define WRITES                                                                                     \
	(LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |                           \
	 LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_CHAR |                           \
	 LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |                               \
	 LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |                             \
	 LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM)
#define REFER (1ULL << 13)    /* ABI 2 */
#define TRUNCATE (1ULL << 14) /* ABI 3 */

static int allow_writes(int ruleset, __u64 files, const char *directory)
{
	struct landlock_path_beneath_attr rule = {
		.allowed_access = files,
		.parent_fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC),
	};
	int err = rule.parent_fd < 0 ? -errno : 0;

	if (!err && syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0))
		err = -errno;
	if (rule.parent_fd >= 0)
		close(rule.parent_fd);
	return err;
}

int kpod_landlock(const char *const *writable)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	struct ruleset attr = {.files = WRITES};
	size_t size = abi < 4 ? sizeof(attr.files) : abi < 6 ? 2 * sizeof(__u64) : sizeof(attr);
	int fd, err = 0;

	if (abi < 1)
		return 0;
	attr.files |= (abi < 2 ? 0 : REFER) | (abi < 3 ? 0 : TRUNCATE);
	attr.scopes = abi < 6 ? 0 : SCOPES;
	fd = (int)syscall(SYS_landlock_create_ruleset, &attr, size, 0);
	if (fd < 0)
		return -errno;
	for (; !err && *writable; writable++)
		err = allow_writes(fd, attr.files, *writable);
	if (!err && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		err = -errno;
	if (!err && syscall(SYS_landlock_restrict_self, fd, 0))
		err = -errno;
	close(fd);
	return err ? err : (int)abi;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What a confined loader can still do, and what it cannot. As root: else it has nothing to lose. */
#define _GNU_SOURCE
#include "test.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "kernel/privileges.h"

static int bpf_call(int command)
{
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1};

	return (int)syscall(SYS_bpf, command, &attr, sizeof(attr));
}

static void *nothing(void *argument)
{
	return argument;
}

#define REFUSED(call)                                                                              \
	do {                                                                                       \
		errno = 0;                                                                         \
		if ((call) != -1 || errno != EPERM)                                                \
			return "not refused: " #call;                                              \
	} while (0)
#define WORKS(call)                                                                                \
	do {                                                                                       \
		if (!(call))                                                                       \
			return "does not work: " #call;                                            \
	} while (0)

/* NULL, or what is wrong. */
static const char *look_around(bool loads)
{
	struct kpod_bpf bpf = {.cgroups_fd = -1};
	struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE, .size = sizeof(event)};
	char *const shell[] = {"/bin/true", NULL};
	pthread_t thread;
	FILE *f;

	WORKS(bpf_call(BPF_MAP_CREATE) >= 0);
	kpod_privileges_drop(&bpf, loads);
	REFUSED(socket(AF_INET, SOCK_STREAM, 0));
	REFUSED(socket(AF_UNIX, SOCK_STREAM, 0));
	REFUSED(execve(shell[0], shell, NULL));
	REFUSED((long)fork());
	REFUSED(unshare(CLONE_NEWUSER));
	REFUSED(setns(0, 0));
	REFUSED(mount("none", "/tmp", "tmpfs", 0, NULL));
	REFUSED(umount2("/proc", MNT_DETACH));
	REFUSED(chroot("/"));
	REFUSED(ptrace(PTRACE_ATTACH, 1, NULL, NULL));
	REFUSED(kill(1, 0));
	REFUSED(syscall(SYS_keyctl, 0, 0, 0));
	REFUSED(syscall(SYS_init_module, NULL, 0, ""));
	REFUSED(syscall(SYS_io_uring_setup, 1, NULL));
	REFUSED(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, 0));
	REFUSED(bpf_call(BPF_OBJ_PIN));
	REFUSED(bpf_call(BPF_PROG_GET_FD_BY_ID));
	if (loads) {
		WORKS(bpf_call(BPF_MAP_CREATE) >= 0);
		WORKS(bpf_call(BPF_PROG_LOAD) == -1 && errno != EPERM);
	} else {
		REFUSED(bpf_call(BPF_MAP_CREATE));
		REFUSED(bpf_call(BPF_PROG_LOAD));
		REFUSED(syscall(SYS_perf_event_open, &event, 0, -1, -1, 0));
	}
	WORKS(bpf_call(BPF_MAP_LOOKUP_ELEM) == -1 && errno != EPERM);
	WORKS((f = fopen("/proc/self/status", "re")));
	fclose(f);
	WORKS(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
	WORKS(!pthread_create(&thread, NULL, nothing, NULL) && !pthread_join(thread, NULL));
	return NULL;
}

static void confined(void **state)
{
	bool *loads = *state;
	int status;
	pid_t pid;

	if (geteuid() || bpf_call(BPF_MAP_CREATE) < 0)
		skip();
	pid = fork();
	if (!pid) {
		const char *wrong = look_around(*loads);

		if (wrong)
			fprintf(stderr, "%s: %s\n", wrong, strerror(errno));
		_exit(wrong ? 1 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
	static bool no = false, yes = true;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(confined, &no),
		cmocka_unit_test_prestate(confined, &yes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Makes a known number of system calls between two gates; linked statically, so that it knows. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "gate.h"

#define REPEAT(n) for (int i_ = 0; i_ < (n); i_++)

static char *self;
static int ends[2];

/* Until the process sleeps in a call: openat, close, and any number of pread64. */
static void wait_asleep(pid_t pid)
{
	char path[32], text[512];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY);
	do {
		ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

		must(n > 0, path);
		text[n] = '\0';
	} while (strrchr(text, ')')[2] != 'S');
	close(fd);
}

static void plain(void)
{
	struct timespec short_time = {.tv_nsec = 1000000}, sleep_time = {.tv_nsec = 3000000};
	int word = 0;
	char byte;

	must(!pipe2(ends, O_NONBLOCK), "pipe2");
	REPEAT(1000)
	syscall(SYS_getppid);
	REPEAT(300)
	must(open("/nowhere", O_RDONLY) < 0, "open");
	REPEAT(50)
	must(close(-1) < 0, "close");
	REPEAT(20)
	must(read(ends[0], &byte, 1) < 0, "read");
	REPEAT(7)
	must(syscall(SYS_futex, &word, FUTEX_WAIT, 0, &short_time) < 0, "futex");
	REPEAT(20)
	must(!syscall(SYS_nanosleep, &sleep_time, NULL), "nanosleep");
}

static void *thread(void *unused)
{
	(void)unused;
	REPEAT(500)
	syscall(SYS_getppid);
	return NULL;
}

static void threads(void)
{
	pthread_t all[4];

	REPEAT(4)
	must(!pthread_create(&all[i_], NULL, thread, NULL), "pthread_create");
	REPEAT(4)
	pthread_join(all[i_], NULL);
}

static void refuse(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpriority, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(filter) / sizeof(*filter), filter};

	must(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl");
	must(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), "seccomp");
	REPEAT(30)
	must(getpriority(PRIO_PROCESS, 0) < 0, "getpriority");
}

/* fork and exec_group: one of each; wait4: one. */
static void child(void (*act)(void))
{
	pid_t pid = fork();

	if (!pid) {
		act();
		_exit(0);
	}
	must(waitpid(pid, NULL, 0) == pid, "waitpid");
}

static void nothing(void)
{
}

static void exec_itself(void)
{
	execl(self, self, "nothing", NULL);
}

static void exec_nothing(void)
{
	execl("/nowhere", "nowhere", NULL);
}

static void lives(void)
{
	pid_t pid;

	threads();
	REPEAT(6)
	child(nothing);
	REPEAT(5)
	child(exec_itself);
	REPEAT(3)
	child(exec_nothing);
	REPEAT(2)
	{
		pid = fork();
		if (!pid)
			pause();
		wait_asleep(pid);
		kill(pid, SIGKILL);
		must(waitpid(pid, NULL, 0) == pid, "waitpid");
	}
	child(refuse);
}

static void on_signal(int number)
{
	if (number == SIGUSR2)
		must(write(ends[1], "x", 1) == 1, "write");
}

static void interrupt_parent(void)
{
	wait_asleep(getppid());
	kill(getppid(), SIGUSR2);
}

static void signals(void)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	sigset_t none, one;
	pid_t pid;
	char byte;

	sigemptyset(&none);
	sigemptyset(&one);
	sigaddset(&one, SIGUSR1);
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	sigprocmask(SIG_BLOCK, &one, NULL);
	REPEAT(3)
	{
		kill(getpid(), SIGUSR1);
		must(sigsuspend(&none) < 0, "sigsuspend");
	}
	must(!pipe(ends), "pipe");
	pid = fork();
	if (!pid) {
		interrupt_parent();
		_exit(0);
	}
	must(read(ends[0], &byte, 1) == 1, "read"); /* interrupted, and made again by the kernel */
	must(waitpid(pid, NULL, 0) == pid, "waitpid");
}

#ifdef __x86_64__
static void foreign(void)
{
	REPEAT(9)
	{
		long result = 20; /* getpid of i386, writev of x86_64 */

		__asm__ volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
		must(result == getpid(), "int 0x80");
	}
	REPEAT(4)
	syscall(0x40000000 + SYS_getppid);
}
#else
static void foreign(void)
{
}
#endif

static volatile int done;

static void stay(void *cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((long)cpu, &set);
	must(!sched_setaffinity(0, sizeof(set), &set), "sched_setaffinity");
}

/* Preempts call() wherever that is. */
static void *preempt(void *cpu)
{
	struct timespec nap = {.tv_nsec = 100000};
	struct sched_param param = {.sched_priority = 1};

	stay(cpu);
	must(!sched_setscheduler(0, SCHED_FIFO, &param), "sched_setscheduler");
	while (!done) {
		syscall(SYS_getpriority, PRIO_PROCESS, -1);
		syscall(SYS_nanosleep, &nap, NULL);
	}
	return NULL;
}

static void *call(void *cpu)
{
	stay(cpu);
	REPEAT(40000)
	{
		syscall(SYS_getppid);
		close(-1);
	}
	return NULL;
}

static void crowd(void)
{
	pthread_t callers[2], others[2];

	REPEAT(2)
	must(!pthread_create(&others[i_], NULL, preempt, (void *)(long)i_), "pthread_create");
	REPEAT(2)
	must(!pthread_create(&callers[i_], NULL, call, (void *)(long)i_), "pthread_create");
	REPEAT(2)
	pthread_join(callers[i_], NULL);
	done = 1;
	REPEAT(2)
	pthread_join(others[i_], NULL);
}

static void flood(void)
{
	REPEAT(1000000)
	syscall(SYS_getppid);
}

/* All alive at once. */
static void bomb(void)
{
	static pid_t pids[2000];

	REPEAT(2000)
	{
		pids[i_] = fork();
		must(pids[i_] >= 0, "fork");
		if (!pids[i_])
			for (;;)
				pause();
	}
	REPEAT(2000)
	{
		kill(pids[i_], SIGKILL);
		waitpid(pids[i_], NULL, 0);
	}
}

static const struct {
	const char *name;
	void (*run)(void);
} modes[] = {
	{"plain", plain}, {"lives", lives}, {"signals", signals}, {"foreign", foreign},
	{"flood", flood}, {"bomb", bomb},   {"crowd", crowd},
};

int main(int argc, char **argv)
{
	self = argv[0];
	for (size_t i = 0; argc > 1 && i < sizeof(modes) / sizeof(*modes); i++) {
		if (strcmp(argv[1], modes[i].name))
			continue;
		gate();
		modes[i].run();
		gate();
	}
	return 0;
}

#!/usr/bin/env bash
# execsnoop of libbpf-tools loses programs that a thread other than the first starts.
#
# Setting   libbpf-tools 0.26.0+ds-1 (Debian 12), Linux 6.18. A program execs itself ten times in a row: five times from its first
#           thread, five from a second one, as a Go program does that calls syscall.Exec() from a goroutine.
# Guess     execsnoop prints ten lines. All are of one process, whose number stays the same (execve(2): the other threads are
#           destroyed), so it does not matter which thread called.
# Seen      It prints the five of the first thread. The thread that calls becomes the first one and takes its number in the middle
#           of the system call, and execsnoop looks at its end for what it noted under the number at its beginning.
# So        What begins in sys_enter and ends in sys_exit cannot be matched by thread number for execve. The tracepoint
#           sched_process_exec has the old number beside the new one, and fires once for each program.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "needs root"
[ "$(uname -m)" = x86_64 ] || skip "the pinned package is of amd64"
[ -r /sys/kernel/btf/vmlinux ] || skip "the kernel has no BTF"
command -v gcc >/dev/null || skip "needs gcc"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq libbpf-tools=0.26.0+ds-1 2>/dev/null || skip "libbpf-tools 0.26.0+ds-1 cannot be had here"
dpkg-deb -x libbpf-tools_*.deb .
cat >again.c <<'C'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static char **arguments;
static void *again(void *thread)
{
	char left[16], *next[] = {"kpod_again", left, thread ? "second" : "first", NULL};

	snprintf(left, sizeof(left), "%d", atoi(arguments[1]) - 1);
	usleep(50000);
	execv("./kpod_again", next);
	_exit(9);
}
int main(int count, char **all)
{
	int left = atoi(all[1]);
	pthread_t thread;

	(void)count;
	arguments = all;
	if (!left)
		return 0;
	if (left > 5)
		again(NULL);
	pthread_create(&thread, NULL, again, "");
	pause();
}
C
gcc -pthread -o kpod_again again.c
# tracefs in a mount namespace of our own: the machine may have none.
unshare -m bash -c '
	mount -t tracefs none /sys/kernel/tracing || exit 77
	timeout -s INT 20 usr/sbin/execsnoop >out 2>err & tool=$!
	for _ in $(seq 200); do grep -q PCOMM out && break; sleep 0.05; done
	sleep 0.5
	./kpod_again 10; echo "exit status $?" >status
	sleep 0.5; kill -INT $tool; wait $tool || true' || skip "no tracefs"
grep -q PCOMM out || skip "execsnoop does not start here: $(head -1 err)"
cat status; grep -E '^(PCOMM|kpod_again)' out
[ "$(cat status)" = "exit status 0" ]
[ "$(grep -c 'first *$' out)" = 5 ]
[ "$(grep -c 'second *$' out || true)" = 0 ]
echo "as described: none from the second thread"

#!/usr/bin/env bash
# exitsnoop of libbpf-tools reports a process's end when its first thread ends.
#
# Setting   libbpf-tools 0.26.0+ds-1 (Debian 12), Linux 6.18. A program's main() starts a thread and calls
#           pthread_exit(); three seconds later that thread calls exit(3). POSIX: the process lives on until then.
# Guess     exitsnoop, which without -T shows processes, prints one line when the process ends: age about 3 s, exit code 3.
# Seen      It prints one line at once, age 0.00, exit code 0, and nothing when the process really ends. The tracepoint
#           sched_process_exit fires for each thread, and exitsnoop takes the one whose pid equals its tgid for the process.
# So        A count of exits by outcome has to look at the last thread (signal->live) and its group's exit code.
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
cat >leader.c <<'C'
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
static void *later(void *unused)
{
	sleep(3);
	exit(3);
	return unused;
}
int main(void)
{
	pthread_t thread;
	pthread_create(&thread, NULL, later, NULL);
	pthread_exit(NULL);
}
C
gcc -pthread -o kpod_leader leader.c
# tracefs in a mount namespace of our own: the machine may have none.
unshare -m bash -c '
	mount -t tracefs none /sys/kernel/tracing || exit 77
	timeout -s INT 12 usr/sbin/exitsnoop >out 2>err & tool=$!
	for _ in $(seq 100); do grep -q PCOMM out && break; sleep 0.05; done
	./kpod_leader; echo "exit status $?" >status
	sleep 0.5; kill -INT $tool; wait $tool || true' || skip "no tracefs"
grep -q PCOMM out || skip "exitsnoop does not start here: $(head -1 err)"
cat status; grep -E 'PCOMM|kpod_leader' out
[ "$(cat status)" = "exit status 3" ]
[ "$(grep -c kpod_leader out)" = 1 ]
awk '/kpod_leader/ { exit !($5 < 1 && $6 == 0) }' out
echo "as described: one line, of the first thread"

#!/usr/bin/env bash
# bpftrace counts nothing for the 4,097th key of a map, and says nothing.
#
# Setting   bpftrace 0.17.0-1 (Debian 12), Linux 6.18. `@one[args->child_pid] = count(); @all = count();` at sched_process_fork,
#           while a process starts 6,000 threads one after another.
# Guess     @one has 6,000 keys; or, if there is a bound to its size, a line on stderr says that events were lost, as it does for
#           what does not fit into the perf buffer.
# Seen      @all is 6,000, @one has 4,096 keys of 1. stderr has no word of it, not even with -kk ("check all bpf helper functions").
#           The bound is BPFTRACE_MAP_KEYS_MAX.
# So        A one-liner that counts by process, address or cgroup is a lower bound, and those that came late are missing whole. Beside
#           each such map a count without key tells. A map of ours that is full is a metric.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "needs root"
[ "$(uname -m)" = x86_64 ] || skip "the pinned packages are of amd64"
[ -r /sys/kernel/btf/vmlinux ] || skip "the kernel has no BTF"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq bpftrace=0.17.0-1 libbpfcc=0.26.0+ds-1 2>/dev/null || skip "bpftrace 0.17.0 of Debian 12 cannot be had here"
for package in ./*.deb; do dpkg-deb -x "$package" .; done
export LD_LIBRARY_PATH=$PWD/usr/lib/x86_64-linux-gnu
! missing=$(ldd usr/bin/bpftrace | grep 'not found') || skip "bpftrace lacks:" $missing
cat >threads.py <<'PY'
import threading

for _ in range(6000):
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
PY
ln -s "$(python3 -c 'import sys; print(sys.executable)')" finding_6000
# tracefs in a mount namespace of our own: the machine may have none.
unshare -m bash -c '
	mount -t tracefs none /sys/kernel/tracing || exit 77
	usr/bin/bpftrace -kk -e "BEGIN { printf(\"attached\\n\"); }
		tracepoint:sched:sched_process_fork /comm == \"finding_6000\"/ { @one[args->child_pid] = count(); @all = count(); }" \
		>out 2>err & tool=$!
	for _ in $(seq 600); do grep -q attached out && break; sleep 0.05; done
	grep -q attached out || { kill "$tool"; head -1 err; exit 77; }
	sleep 0.5
	env -u LD_LIBRARY_PATH ./finding_6000 -S threads.py
	kill -INT "$tool"; wait "$tool" || true
'
all=$(sed -n 's/^@all: //p' out) one=$(grep -c '^@one\[' out)
echo "counted in all: $all, by key: $one keys; lines about lost events: $(grep -ci 'lost\|full\|map' err)"
[ "$all" -ge 5900 ] && [ "$one" = 4096 ] && ! grep -qi 'lost\|full' err
echo "as described"

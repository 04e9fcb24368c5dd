#!/usr/bin/env bash
# statsnoop of libbpf-tools attaches none of its programs, on any kernel, prints its heading and no error.
#
# Setting   libbpf-tools 0.26.0+ds-1 (Debian 12), Linux 6.18 with debugfs, tracefs and every tracepoint that the tool wants.
# Guess     A line for each stat() and statfs(); at least the latter, as the tool names statfs, newstat and newlstat.
# Seen      Nothing but the heading. Before it loads, the tool looks for /sys/kernel/debug/tracing/events/syscalls/statfs/format and the
#           like; the tracepoints are called sys_enter_statfs. It takes all as missing and leaves out its ten programs.
# So        "No events" of a peer is no oracle: a test has to see at least one event that it caused itself.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "needs root"
[ "$(uname -m)" = x86_64 ] || skip "the pinned package is of amd64"
[ -r /sys/kernel/btf/vmlinux ] || skip "the kernel has no BTF"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq libbpf-tools=0.26.0+ds-1 2>/dev/null || skip "libbpf-tools 0.26.0+ds-1 cannot be had here"
dpkg-deb -x libbpf-tools_*.deb .
# debugfs, with tracefs in it, in a mount namespace of our own: the machine may have none.
unshare -m bash -c '
	mount -t debugfs none /sys/kernel/debug && cd /sys/kernel/debug/tracing/events/syscalls && ls -d sys_enter_statfs sys_enter_newfstatat \
		sys_enter_statx || exit 77
	cd "$0"
	timeout -s INT 20 usr/sbin/statsnoop -v >out 2>err & tool=$!
	for _ in $(seq 100); do [ -s out ] && break; sleep 0.05; done
	stat -f . >/dev/null; stat out >/dev/null
	sleep 1; kill -INT $tool; wait $tool || true' "$dir" || skip "no debugfs with the tracepoints of system calls"
skipped=$(grep -c 'skipped loading' err || true)
cat out; echo "programs skipped: $skipped"
[ "$(wc -l <out)" = 1 ] && grep -q '^PID' out
[ "$skipped" = 10 ]
echo "as described"

#!/usr/bin/env bash
# syscount of libbpf-tools counts a fork twice and an exit never.
#
# Setting   libbpf-tools 0.26.0+ds-1 (Debian 12), Linux 6.18. A process forks 3,000 times (libc's fork() is the call clone); each
#           child ends at once with exit_group, and the parent waits for it with wait4.
# Guess     syscount shows 3,000 of each, and what else goes on in the machine: clone, wait4, exit_group.
# Seen      clone is 6,000, wait4 3,000 and exit_group 0. syscount counts at sys_exit: a child's first step into user space fires it
#           for the call that it never made, and a call that does not return never fires it.
# So        Calls have to be counted at sys_enter, or what began has to be remembered by task; a rate of forks from such a tool is
#           twice the truth.
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
cat >forks.py <<'PY'
import os

for _ in range(3000):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
PY
# tracefs in a mount namespace of our own: the machine may have none.
unshare -m bash -c '
	mount -t tracefs none /sys/kernel/tracing || exit 77
	timeout -s INT 60 usr/sbin/syscount -T 400 >out 2>err & tool=$!
	sleep 2
	python3 forks.py
	kill -INT $tool; wait $tool || true' || skip "no tracefs"
grep -q SYSCALL out || skip "syscount does not start here: $(head -1 err)"
awk '$1 ~ /^(clone|wait4|exit_group)$/ { seen[$1] = $2 }
	END {
		printf "3000 forks: clone %d, wait4 %d, exit_group %d\n", seen["clone"], seen["wait4"], seen["exit_group"]
		exit !(seen["clone"] >= 5900 && seen["wait4"] >= 2950 && seen["wait4"] < 5000 && seen["exit_group"] < 300)
	}' out
echo "as described: twice, once and never"

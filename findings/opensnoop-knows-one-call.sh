#!/usr/bin/env bash
# opensnoop of libbpf-tools shows files that were opened by one of the calls that open files.
#
# Setting   libbpf-tools 0.26.0+ds-1 (Debian 12), Linux 6.18. A process opens one new file each by open, creat, openat and openat2,
#           in this order.
# Guess     opensnoop ("Trace open family syscalls") prints four lines.
# Seen      It prints that of openat. openat2 (Linux 5.6) is what container runtimes open files below a root with (runc, crun);
#           open and creat are what programs use that were not linked with a newer libc, or make their calls themselves.
# So        That a container opened no file, or how many it opened, cannot be read from it. Tools of one tracepoint a call age with
#           each call that comes; do_filp_open() is what all of them, and io_uring, go through.
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
cat >open.py <<'PY'
import ctypes
import os
import struct

OPEN, CREAT, OPENAT, OPENAT2, AT_FDCWD = 2, 85, 257, 437, -100  # x86_64
libc = ctypes.CDLL(None, use_errno=True)
flags = os.O_CREAT | os.O_WRONLY
how = struct.pack("QQQ", flags, 0o644, 0)
opened = {
    "open": libc.syscall(OPEN, b"kpod-by-open", flags, 0o644),
    "creat": libc.syscall(CREAT, b"kpod-by-creat", 0o644),
    "openat": libc.syscall(OPENAT, AT_FDCWD, b"kpod-by-openat", flags, 0o644),
    "openat2": libc.syscall(OPENAT2, AT_FDCWD, b"kpod-by-openat2", how, len(how)),
}
print("descriptors:", opened)
assert min(opened.values()) >= 0
PY
# tracefs in a mount namespace of our own: the machine may have none.
unshare -m bash -c '
	mount -t tracefs none /sys/kernel/tracing || exit 77
	timeout -s INT 30 usr/sbin/opensnoop >out 2>err & tool=$!
	for _ in $(seq 100); do cat /dev/null; grep -q null out && break; sleep 0.1; done
	python3 open.py || echo failed >failed
	sleep 1; kill -INT $tool; wait $tool || true' || skip "no tracefs"
[ -s out ] || skip "opensnoop does not start here: $(head -1 err)"
[ ! -e failed ]
seen=$(grep -o 'kpod-by-[a-z0-9]*' out | sort -u | tr '\n' ' ')
echo "opensnoop saw: $seen"
[ "$seen" = "kpod-by-openat " ]
echo "as described: openat only"

#!/usr/bin/env bash
# An LRU map does not count a look-up from user space as use.
#
# Setting   Linux 6.18, libbpf 1.1.2 (Debian 12), BPF_MAP_TYPE_LRU_HASH of 1,024 elements. One key is put in first. Then 4,000 others
#           are, and after each the first is looked up (bpf_map_lookup_elem()), or written again (bpf_map_update_elem()).
# Guess     The map evicts what was used longest ago, so the first key, which is used after each insertion, outlives all others
#           either way.
# Seen      Written again it stays. Only looked up it is evicted as soon as the map is full, as if nobody had asked for it: since
#           5.2 the system call goes around the mark that a program's look-up leaves (htab_lru_map_lookup_elem_sys()).
# So        A user-space process that reads such a map again and again keeps nothing alive in it. What must live as long as user space
#           wants it belongs in a plain hash, or has to be written.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(uname -m)" = x86_64 ] || skip "the pinned package is of amd64"
[ "$(id -u)" = 0 ] || skip "making a map needs root"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq libbpf1=1:1.1.2-0+deb12u1 2>/dev/null || skip "libbpf 1.1.2 of Debian 12 cannot be had here"
dpkg-deb -x libbpf1_*.deb .
python3 - "$PWD/usr/lib/x86_64-linux-gnu/libbpf.so.1" <<'PY'
import ctypes
import sys

LRU_HASH, ANY, EXIST, SIZE = 9, 0, 2, 1024
bpf = ctypes.CDLL(sys.argv[1])
value = ctypes.byref(ctypes.c_uint64(1))
first = ctypes.byref(ctypes.c_uint32(0))


def gone_after(use) -> int:
    """How many others are in the map when the first is found to be gone; 0: it stays."""
    fd = bpf.bpf_map_create(LRU_HASH, b"lru", 4, 8, SIZE, None)
    if fd < 0:
        print("skipped: the kernel makes no LRU map here")
        sys.exit(77)
    assert bpf.bpf_map_update_elem(fd, first, value, ANY) == 0
    for other in range(1, 4001):
        assert bpf.bpf_map_update_elem(fd, ctypes.byref(ctypes.c_uint32(other)), value, ANY) == 0
        if use(fd) != 0:
            return other
    return 0


looked_up = gone_after(lambda fd: bpf.bpf_map_lookup_elem(fd, first, ctypes.byref(ctypes.c_uint64())))
written = gone_after(lambda fd: bpf.bpf_map_update_elem(fd, first, value, EXIST))
print(f"looked up after each insertion: gone after {looked_up} others; written again: {'stays' if not written else written}")
sys.exit(not (0 < looked_up <= SIZE and written == 0))
PY
echo "as described: only writing keeps it"

#!/usr/bin/env bash
# bpf_core_field_exists() in a loop does not keep the kernel from seeing the field that it lacks.
#
# Setting   Linux 6.18, libbpf 1.1.2 and clang 14.0.6 (Debian 12), clang 18.1.6 (ziglang 0.13.0 of PyPI). A program goes over a
#           cgroup's ancestors by level: in the loop it asks whether struct cgroup has `ancestors` (since 6.1) and takes that
#           field's offset, else that of `ancestor_ids` (before 6.1). No compiler optimises on the field, as nobody knows its
#           offset before libbpf does.
# Guess     The offset of the missing field is in the branch that the verifier never enters: the program loads, whatever the
#           compiler. That is what the guard is for, and so are programs for several kernels written.
# Seen      clang 14 computes both offsets before the loop, where the verifier meets the one that libbpf could not resolve:
#           "failed to resolve CO-RE relocation", and nothing loads. The same file from clang 18 loads. (clang 21 was seen to do
#           it too, in a longer program.)
# So        A question about the kernel belongs around the loop, with a loop in each answer; that it went well with one compiler
#           says nothing of the next.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(uname -m)" = x86_64 ] || skip "the pinned packages are of amd64"
[ "$(id -u)" = 0 ] || skip "loading a program needs root"
[ -e /sys/kernel/btf/vmlinux ] || skip "the kernel has no BTF"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq clang-14=1:14.0.6-12 libllvm14=1:14.0.6-12 libclang-cpp14=1:14.0.6-12 libbpf1=1:1.1.2-0+deb12u1 \
	2>/dev/null || skip "clang 14.0.6 and libbpf 1.1.2 of Debian 12 cannot be had here"
for package in *.deb; do dpkg-deb -x "$package" .; done
python3 -m venv venv || skip "no python3-venv"
venv/bin/pip -q install --disable-pip-version-check ziglang==0.13.0 2>/dev/null || skip "ziglang 0.13.0 cannot be had here"
lib=$PWD/usr/lib/x86_64-linux-gnu
cat >walk.c <<'C'
typedef unsigned long long u64;
static long (*const probe_read)(void *to, unsigned size, const void *from) = (void *)113;
static void *(*const lookup)(void *map, const void *key) = (void *)1;
#define of_kernel __attribute__((preserve_access_index))
#define exists(type, field) __builtin_preserve_field_info(((type *)0)->field, 2)
#define offset(type, field) __builtin_preserve_field_info(((type *)0)->field, 0)
struct cgroup { int level; } of_kernel;
struct cgroup___new { struct cgroup *ancestors[1]; } of_kernel;
struct cgroup___old { u64 ancestor_ids[1]; } of_kernel;
struct { int (*type)[1]; u64 *key; u64 *value; int (*max_entries)[8]; } table __attribute__((section(".maps"), used));

static inline __attribute__((always_inline)) u64 ancestor(char *cgroup, int level)
{
	u64 found = 0;

	if (exists(struct cgroup___new, ancestors)) {
		probe_read(&found, 8, cgroup + offset(struct cgroup___new, ancestors) + level * 8);
		return found + 1;
	}
	probe_read(&found, 8, cgroup + offset(struct cgroup___old, ancestor_ids) + level * 8);
	return found;
}

__attribute__((section("raw_tp"), used)) int walk(u64 *arguments)
{
	char *cgroup = (char *)arguments[0];
	int level = arguments[1] & 15;

	for (int i = 0; i < 16 && level > 0; i++, level--) {
		u64 key = ancestor(cgroup, level), *value = lookup(&table, &key);

		if (value)
			return *value;
	}
	return 0;
}
char _license[] __attribute__((section("license"), used)) = "GPL";
C
LD_LIBRARY_PATH=$lib usr/lib/llvm-14/bin/clang -target bpf -g -O2 -c walk.c -o clang14.o
venv/bin/python -m ziglang cc -target bpfel-freestanding -g -O2 -c walk.c -o clang18.o
cat >load.py <<'PY'
import ctypes
import sys

bpf = ctypes.CDLL(sys.argv[1])
bpf.bpf_object__open_file.restype = ctypes.c_void_p
bpf.bpf_object__load.argtypes = [ctypes.c_void_p]
print(sys.argv[2], "is loaded:", bpf.bpf_object__load(bpf.bpf_object__open_file(sys.argv[2].encode(), None)), flush=True)
PY
for file in clang14.o clang18.o; do python3 load.py "$lib/libbpf.so.1" $file >$file.said 2>&1; grep -aE "resolve|is loaded" $file.said; done
grep -aq "clang18.o is loaded: 0" clang18.o.said || skip "this kernel loads neither, or cannot load programs of this kind here"
grep -aq "failed to resolve CO-RE relocation.*ancestor_ids" clang14.o.said
grep -aq "clang14.o is loaded: -22" clang14.o.said
echo "as described: the guard holds with clang 18 only"

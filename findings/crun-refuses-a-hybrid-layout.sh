#!/usr/bin/env bash
# Where cgroup v1 and v2 are both mounted, runc joins the v2 hierarchy and crun starts nothing.
#
# Setting   crun 1.8.1 and runc 1.1.5 (Debian 12) on systemd's "hybrid" layout: v1 controllers, and cgroup2 without any controller at
#           /sys/fs/cgroup/unified. The same bundle, cgroupsPath /NAME, no resources.
# Guess     Both place the process in /NAME of every hierarchy, the unified one included; if they differ, then in whether they join v2.
# Seen      runc does. crun ends before the container starts: "cgroups in hybrid mode not supported, drop all controllers from
#           cgroupv2", although v2 has none that could be dropped.
# So        Per-container figures from cgroup v2 on such nodes exist with one runtime and cannot with the other; tests that switch the
#           runtime test another layout.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "needs root"
[ "$(uname -m)" = x86_64 ] || skip "the pinned packages are of amd64"
[ "$(stat -f -c %T /sys/fs/cgroup/unified 2>/dev/null)" = cgroup2fs ] || skip "no hybrid layout here"
grep -q ':memory:' /proc/self/cgroup || skip "no v1 controllers here"
dir=$(mktemp -d)
name=kpod-finding-$$
clean() {
	find /sys/fs/cgroup -depth -type d -path "*/$name*" -exec rmdir {} + 2>/dev/null || true
	rm -rf "$dir"
}
trap clean EXIT
cd "$dir"
for package in crun=1.8.1-1+deb12u1 libyajl2=2.1.0-3+deb12u2 runc=1.1.5+ds1-1+deb12u1 busybox-static; do
	apt-get download -qq "$package" 2>/dev/null || skip "$package cannot be had here"
done
for package in *.deb; do dpkg-deb -x "$package" .; done
mkdir -p rootfs/bin
cp "$(find . -path '*bin/busybox')" rootfs/bin/
usr/sbin/runc spec
python3 - "$name" <<'PY'
import json
import sys

with open("config.json") as file:
    config = json.load(file)
config["process"] |= {"terminal": False, "args": ["/bin/busybox", "cat", "/proc/self/cgroup"]}
config["linux"] |= {"cgroupsPath": f"/{sys.argv[1]}"}
del config["linux"]["resources"]
with open("config.json", "w") as file:
    json.dump(config, file)
PY
usr/sbin/runc --root "$dir/state-runc" run "$name-a" >runc.out 2>&1 || skip "runc cannot run containers here: $(tail -1 runc.out)"
status=0
LD_LIBRARY_PATH=$dir/usr/lib/x86_64-linux-gnu usr/bin/crun --root "$dir/state-crun" run "$name-b" >crun.out 2>&1 || status=$?
echo "runc:"; cat runc.out; echo "crun: status $status"; cat crun.out
grep -q "^0::/$name" runc.out
[ "$status" != 0 ]
grep -q 'hybrid mode not supported' crun.out
echo "as described"

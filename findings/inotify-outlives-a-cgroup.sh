#!/usr/bin/env bash
# Whoever watches a cgroup's directory with inotify is not told when it is removed, and keeps the watch.
#
# Setting   Linux 6.18, cgroup2, Python of the machine; the same on tmpfs beside it. A directory and a file in it are watched for all
#           events, then the directory is removed (and on tmpfs the file before it).
# Guess     As on tmpfs: the directory's watch gets DELETE_SELF and then IGNORED, as inotify(7) says, and is gone from
#           /proc/PID/fdinfo. A watcher of cgroups can so take the end of a container from the watch on it.
# Seen      cgroup2 says nothing to the watches on the directory and on its cgroup.events, and both are still in fdinfo. Only a watch on
#           the parent directory hears of it (DELETE).
# So        A watcher of cgroups has to watch parents, and has to remove the watches on what is gone itself; else each container that
#           ends leaves some behind until the process does, against fs.inotify.max_user_watches.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "making cgroups needs root"
root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
[ -n "$root" ] || skip "cgroup2 is not mounted"
group=$root/finding-$$
mkdir "$group" 2>/dev/null || skip "may not make a cgroup in $root"
tmp=$(mktemp -d -p /dev/shm)
trap 'rmdir "$group"; rm -rf "$tmp"' EXIT
python3 - "$group" "$tmp" <<'PY'
import ctypes
import os
import struct
import sys
import time
from pathlib import Path

NAMES = {0x200: "DELETE", 0x400: "DELETE_SELF", 0x8000: "IGNORED"}
libc = ctypes.CDLL(None, use_errno=True)


def removed(parent: Path, file: str, *, has_files: bool) -> tuple[dict[str, list[str]], int]:
    """What each watch was told when parent/ended was removed, and how many watches are left."""
    fd = libc.inotify_init1(os.O_NONBLOCK)
    ended = parent / "ended"
    ended.mkdir()
    if not has_files:
        (ended / file).touch()
    watches = {
        libc.inotify_add_watch(fd, os.fsencode(path), sum(NAMES) & 0xFFF): name
        for name, path in (("parent", parent), ("directory", ended), ("file", ended / file))
    }
    if not has_files:
        (ended / file).unlink()
    ended.rmdir()
    time.sleep(1)
    told: dict[str, list[str]] = {name: [] for name in watches.values()}
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        data = b""
    while data:
        watch, mask, _, size = struct.unpack_from("iIII", data)
        told[watches[watch]] += [name for bit, name in NAMES.items() if mask & bit]
        data = data[16 + size :]
    left = Path(f"/proc/self/fdinfo/{fd}").read_text().count("inotify wd:")
    os.close(fd)
    return told, left


cgroup = removed(Path(sys.argv[1]), "cgroup.events", has_files=True)
tmpfs = removed(Path(sys.argv[2]), "file", has_files=False)
print("cgroup2:", *cgroup, "watches left")
print("tmpfs:  ", *tmpfs, "watches left")
sys.exit(not (
    cgroup == ({"parent": ["DELETE"], "directory": [], "file": []}, 3)
    and tmpfs[0]["directory"][-2:] == ["DELETE_SELF", "IGNORED"]
    and tmpfs[1] == 1
))
PY
echo "as described: only the parent's watch hears of it"

#!/usr/bin/env bash
# When a cgroup was made is not in its directory: mtime, ctime and birth.
#
# Setting   Linux 6.18, cgroup2, coreutils 9.1 (Debian 12).
# Guess     mtime and ctime of a cgroup's directory are the time of mkdir until somebody makes or removes a cgroup in it, as with
#           every directory; tools that show a container's age take one of them. statx may have a birth time.
# Seen      The times are those of the moment when the kernel made the inode, and the kernel forgets inodes that nobody uses: after
#           `echo 2 >/proc/sys/vm/drop_caches` a cgroup that is seconds old is new again, mtime and ctime alike. There is no birth.
#           A cgroup made inside changes mtime as expected, until the inode is forgotten.
# So        An agent that wants a container's age from cgroupfs has to read it once and keep it, or hold the directory open.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "making cgroups needs root"
root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
[ -n "$root" ] || skip "cgroup2 is not mounted"
group=$root/finding-$$
mkdir "$group" 2>/dev/null || skip "may not make a cgroup in $root"
trap 'rmdir "$group"' EXIT
made=$(date +%s)
sleep 3
first=$(stat -c '%Y %Z %W' "$group")
sleep 3
again=$(stat -c '%Y %Z %W' "$group")
{ echo 2 >/proc/sys/vm/drop_caches; } 2>/dev/null || skip "may not drop caches"
dropped=$(date +%s)
last=$(stat -c '%Y %Z %W' "$group")
echo "made $made; mtime, ctime, birth: after 3 s $first, after 6 s $again, after the caches were dropped at $dropped: $last"
[ "$first" = "$again" ]
read -r mtime ctime birth <<<"$last"
[ "$mtime" -ge $((dropped - 1)) ] && [ "$ctime" = "$mtime" ] && [ "$birth" = 0 ] && [ $((mtime - made)) -ge 5 ]
echo "as described: the directory's times are those of its inode in memory"

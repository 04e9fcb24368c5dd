#!/usr/bin/env bash
# nice_usec of a cgroup's cpu.stat is a part of user_usec; "nice" of /proc/stat is not a part of "user".
#
# Setting   Linux 6.18, cgroup2. A process with niceness 10 computes for two seconds in a cgroup of its own.
# Guess     The names are those of /proc/stat, where user and nice are apart: user_usec next to nothing, nice_usec what it computed,
#           and user + nice + system = usage.
# Seen      user_usec is what it computed and nice_usec is the same once more; user + system = usage. nice_usec can be a little more
#           than user_usec: that is scaled so that the sum is right (cputime_adjust()), nice_usec is as the ticks were counted.
# So        Who adds user_usec, nice_usec and system_usec, as one adds the fields of /proc/stat, counts twice, and user_usec - nice_usec
#           may be negative.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "making a cgroup needs root"
root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
[ -n "$root" ] || skip "there is no cgroup2"
group=$root/finding-$$
mkdir "$group" || skip "may not make a cgroup"
trap 'rmdir "$group"' EXIT
grep -q '^nice_usec' "$group/cpu.stat" || skip "cpu.stat has no nice_usec"
sh -c "echo \$\$ >$group/cgroup.procs; exec nice -n 10 python3 -S -c 'import time
while time.process_time() < 2: sum(range(1000))'"
declare -A now
while read -r name value; do now[$name]=$value; done <"$group/cpu.stat"
echo "usage ${now[usage_usec]} us: user ${now[user_usec]}, system ${now[system_usec]}, nice ${now[nice_usec]}"
[ "${now[nice_usec]}" -gt 200000 ]
[ $((now[user_usec] * 10)) -ge $((now[nice_usec] * 9)) ]
[ $((now[user_usec] + now[system_usec])) -le $((now[usage_usec] + 10)) ]
echo "as described"

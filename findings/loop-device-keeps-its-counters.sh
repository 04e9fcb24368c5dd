#!/usr/bin/env bash
# A loop device that gets another file keeps the counters of the file before, though it is a new disk by diskseq.
#
# Setting   Linux 6.18, losetup of util-linux. A file is attached and read, detached, and another one attached to the same number.
# Guess     /proc/diskstats starts at zero with the new file, as it does for a disk that is unplugged: the kernel itself says "another
#           disk" by a new /sys/block/loopN/diskseq.
# Seen      diskseq is new, the counters go on from where the old file's stood, also while nothing is attached.
# So        diskseq tells identities apart but is no birth of counters: whoever starts a series at a new diskseq has to subtract what
#           stood there, or the new disk is shown with the old one's I/O.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "needs root"
dir=$(mktemp -d)
device=
trap '[ -z "$device" ] || losetup -d "$device"; rm -rf "$dir"' EXIT
truncate -s 8M "$dir/one" "$dir/two"
device=$(losetup -f --show "$dir/one" 2>/dev/null) || { device=; skip "no free loop device"; }
name=${device#/dev/}
[ -r "/sys/block/$name/diskseq" ] || skip "no diskseq (before 5.15)"
reads() { awk -v name="$name" '$3 == name { print $6 }' /proc/diskstats; } # sectors
start=$(reads)
dd if="$device" of=/dev/null bs=1M iflag=direct status=none
read_first=$(reads) first=$(cat "/sys/block/$name/diskseq")
losetup -d "$device"
losetup "$device" "$dir/two" 2>/dev/null || { device=; skip "somebody else took $name"; }
read_second=$(reads) second=$(cat "/sys/block/$name/diskseq")
echo "first file: diskseq $first, sectors read $((read_first - start)); second file, unread: diskseq $second, $((read_second - start))"
[ "$first" != "$second" ]
[ $((read_first - start)) -ge 16384 ] && [ "$read_second" -ge "$read_first" ]
echo "as described"

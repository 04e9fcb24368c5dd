#!/usr/bin/env bash
# process-exporter counts what a process wrote once for it and once more for the parent that waited for it.
#
# Setting   Linux 6.18, prometheus-process-exporter 0.7.10-3+b5 (Debian 12). A process writes 10 MiB to a file and syncs it while the
#           exporter is scraped, and ends; its parent, which writes nothing itself, waits for it.
# Guess     /proc/PID/io is of the process whose number it is, and the exporter keeps the totals of those that ended in their group:
#           the sum of namedprocess_namegroup_write_bytes_total over both groups grows by 10 MiB.
# Seen      It grows by 20 MiB. When a child is waited for the kernel adds its I/O to the parent's (wait_task_zombie()), and
#           /proc/PID/io shows it there, unlike CPU time, of which cutime and cstime are apart. Each of the two is right about what
#           it says.
# So        A shell, a supervisor or a containerd-shim has in /proc/PID/io what all of its dead children did, in one step, maybe
#           in another cgroup. Sums over processes that outlive the processes count it again at each generation.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(uname -m)" = x86_64 ] || skip "the pinned package is of amd64"
[ "$(id -u)" = 0 ] || skip "/proc/PID/io of others needs root"
[ -r /proc/self/io ] || skip "the kernel has no task I/O accounting"
dir=$(mktemp -d -p /var/tmp) # on a disk: tmpfs has nothing to write back
trap 'rm -rf "$dir"' EXIT
cd "$dir"
[ "$(stat -f -c %T .)" != tmpfs ] || skip "/var/tmp is not on a disk"
apt-get download -qq prometheus-process-exporter=0.7.10-3+b5 2>/dev/null || skip "process-exporter 0.7.10 of Debian 12 cannot be had here"
dpkg-deb -x prometheus-process-exporter_*.deb .
printf 'process_names:\n  - name: "{{.Comm}}"\n    cmdline: [".+"]\n' >groups.yml
ln -s "$(python3 -c 'import sys; print(sys.executable)')" finding_parent
ln -s finding_parent finding_child
cat >child.py <<'PY'
import os
import sys

sys.stdin.readline()
file = os.open("written", os.O_CREAT | os.O_WRONLY)
os.write(file, bytes(10 << 20))
os.fsync(file)
print("written", flush=True)
sys.stdin.readline()
PY
cat >parent.py <<'PY'
import subprocess
import sys

child = subprocess.Popen(["./finding_child", "-S", "child.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
for answer in ("begun", "written", "waited for"):
    sys.stdin.readline()
    if answer != "begun":
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
    if answer == "waited for":
        child.wait()
    print(answer, flush=True)
sys.stdin.read()
PY
cat >scrape.py <<'PY'
import re
import subprocess
import sys
import time
import urllib.request

ADDRESS, MIB = "127.0.0.1:19256", 1 << 20
fetch = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def scrape() -> list[float]:
    for _ in range(100):
        try:
            page = fetch.open(f"http://{ADDRESS}/metrics", timeout=10).read().decode()
            break
        except OSError:
            time.sleep(0.1)
    found = dict(re.findall(r'(?m)^namedprocess_namegroup_write_bytes_total\{groupname="finding_(\w+)"\} (\S+)', page))
    return [float(found.get(who, 0)) / MIB for who in ("child", "parent")]


command = ["usr/bin/prometheus-process-exporter", f"-web.listen-address={ADDRESS}", "-config.path=groups.yml"]
exporter = subprocess.Popen(command, stderr=subprocess.DEVNULL)
parent = subprocess.Popen(["./finding_parent", "-S", "parent.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
seen = {}
try:
    scrape()
    for _ in range(3):
        parent.stdin.write("\n")
        parent.stdin.flush()
        step = parent.stdout.readline().strip()
        scrape()  # who is new has its first reading taken for zero
        seen[step] = scrape()
        print(f"{step}: MiB of the child's group {seen[step][0]:.1f}, of the parent's {seen[step][1]:.1f}")
finally:
    for process in (parent, exporter):
        process.kill()
        process.wait()
grown = [seen["waited for"][i] - seen["begun"][i] for i in range(2)]
sys.exit(not (seen["written"][1] == seen["begun"][1] and all(10 <= one < 11 for one in grown)))
PY
python3 scrape.py
echo "as described: 10 MiB written, 20 MiB counted"

#!/usr/bin/env bash
# node_exporter's forks, and vmstat's, are threads too.
#
# Setting   Linux 6.18, prometheus-node-exporter 1.5.0-1+b6 and procps 2:4.0.2-3 (Debian 12). One process starts 2,000 threads, one
#           after another, and no process.
# Guess     node_forks_total ("Total number of forks."), `vmstat --forks` and the line `processes` of /proc/stat count processes that
#           were started, so they hardly move.
# Seen      All of them move by 2,000: the kernel counts each clone() in total_forks, whether it makes a process or a thread.
# So        A thread pool that comes and goes looks like a fork storm. Processes alone are in no counter of /proc; they need the
#           tracepoint sched_process_fork (or exec), and a look at whether the child leads its group.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(uname -m)" = x86_64 ] || skip "the pinned packages are of amd64"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq prometheus-node-exporter=1.5.0-1+b6 procps=2:4.0.2-3 libproc2-0=2:4.0.2-3 2>/dev/null ||
	skip "node_exporter 1.5.0 and procps 4.0.2 of Debian 12 cannot be had here"
for package in *.deb; do dpkg-deb -x "$package" .; done
export LD_LIBRARY_PATH=$PWD/usr/lib/x86_64-linux-gnu
python3 - <<'PY'
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
exporter = subprocess.Popen(
    ["usr/bin/prometheus-node-exporter", f"--web.listen-address={address}", "--collector.disable-defaults", "--collector.stat"],
    stderr=subprocess.DEVNULL,
)
fetch = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def forks() -> tuple[int, int, int]:
    page = fetch.open(f"http://{address}/metrics", timeout=10).read().decode()
    vmstat = subprocess.check_output(["usr/bin/vmstat", "--forks"], text=True)
    with open("/proc/stat") as file:
        kernel = re.search(r"(?m)^processes (\d+)", file.read())
    return int(float(re.search(r"(?m)^node_forks_total (\S+)", page)[1])), int(vmstat.split()[0]), int(kernel[1])


try:
    for _ in range(100):
        try:
            before = forks()
            break
        except OSError:
            time.sleep(0.1)
    for _ in range(2000):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
    moved = [b - a for a, b in zip(before, forks())]
finally:
    exporter.terminate()
    exporter.wait()
print(f"2000 threads: node_forks_total +{moved[0]}, vmstat --forks +{moved[1]}, /proc/stat +{moved[2]}")
sys.exit(not min(moved) >= 2000)
PY
echo "as described: threads are counted as forks"

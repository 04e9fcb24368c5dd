#!/usr/bin/env bash
# A process's context switches, as psutil and pidstat give them, are those of its first thread.
#
# Setting   Linux 6.18, psutil 7.2.2, sysstat 12.6.1-1 (Debian 12). A process with four threads that sleep 2 ms at a time; the first
#           thread only waits for them.
# Guess     voluntary_ctxt_switches in /proc/PID/status, psutil's num_ctx_switches() and pidstat -w are sums over all threads, as
#           CPU time in /proc/PID/stat is, and equal getrusage(RUSAGE_SELF).ru_nvcsw to a few.
# Seen      The file has the first thread's own, and both tools repeat it: some tens where getrusage says thousands.
# So        A total per process needs /proc/PID/task/*/status, which forgets threads that ended; per container it needs the
#           scheduler's own events.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(uname -m)" = x86_64 ] || skip "the pinned package is of amd64"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq sysstat=12.6.1-1 2>/dev/null || skip "sysstat 12.6.1-1 cannot be had here"
dpkg-deb -x sysstat_*.deb .
python3 -m venv venv || skip "no python3-venv"
venv/bin/pip -q install --disable-pip-version-check psutil==7.2.2 2>/dev/null || skip "psutil 7.2.2 cannot be had here"
venv/bin/python - <<'PY'
import resource
import subprocess
import sys
import threading
import time
import os

import psutil

end = threading.Event()


def work() -> None:
    while not end.is_set():
        time.sleep(0.002)


def status() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("voluntary"))


before = status(), psutil.Process().num_ctx_switches().voluntary, resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
run = subprocess.run(["usr/bin/pidstat", "-w", "-p", str(os.getpid()), "3", "1"], capture_output=True, text=True,
                     env={"LC_ALL": "C"}, check=True)
end.set()
for thread in threads:
    thread.join()
after = status(), psutil.Process().num_ctx_switches().voluntary, resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
file, tool, truth = (b - a for a, b in zip(before, after))
rate = float(run.stdout.splitlines()[-1].split()[3])
print(f"/proc/PID/status {file}, psutil {tool}, pidstat {rate} a second for 3 s; getrusage {truth}")
sys.exit(not (truth > 1000 and file < truth / 10 and tool < truth / 10 and 3 * rate < truth / 10))
PY
echo "as described: a tenth of the truth, or less"

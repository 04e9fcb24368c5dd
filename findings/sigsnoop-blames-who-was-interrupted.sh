#!/usr/bin/env bash
# sigsnoop of libbpf-tools names as the sender of a timer's signal whoever had the CPU when the timer rang.
#
# Setting   libbpf-tools 0.26.0+ds-1 (Debian 12), Linux 6.18. Two processes on one CPU: one computes, the other sets a timer of its own
#           (setitimer(), SIGALRM each 50 ms for two seconds) and sleeps.
# Guess     The sender (PID, COMM) of the 40 signals is the process that set the timer, or 0, the kernel.
# Seen      It is the other process, all 40 times; on an idle CPU it is swapper. The tracepoint signal_generate runs in the timer's
#           interrupt, and sigsnoop prints the current task.
# So        The current task sends only where the signal's code says that a process did (SI_USER, SI_TKILL, SI_QUEUE). Of what a timer
#           sends it is a bystander, maybe of another container.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "needs root"
[ "$(uname -m)" = x86_64 ] || skip "the pinned package is of amd64"
[ -r /sys/kernel/btf/vmlinux ] || skip "the kernel has no BTF"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq libbpf-tools=0.26.0+ds-1 2>/dev/null || skip "libbpf-tools 0.26.0+ds-1 cannot be had here"
dpkg-deb -x libbpf-tools_*.deb .
cat >both.py <<'PY'
import collections
import os
import subprocess
import sys
import time

CPU = max(os.sched_getaffinity(0))
SLEEPER = """
import signal
import time
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
time.sleep(2)
"""


def start(code: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-S", "-c", code], preexec_fn=lambda: os.sched_setaffinity(0, {CPU}))


with open("out", "w") as out:
    tool = subprocess.Popen(["usr/sbin/sigsnoop", "-s", "14"], stdout=out, stderr=subprocess.STDOUT)
time.sleep(3)
other, sleeper = start("while True: pass"), start(SLEEPER)
sleeper.wait()
other.kill()
other.wait()
tool.send_signal(2)  # or its lines are lost in its buffer
tool.wait()
with open("out") as file:
    lines = [line.split() for line in file]
names = {str(other.pid): "the other", str(sleeper.pid): "itself", "0": "swapper"}
senders = collections.Counter(
    names.get(line[1], "somebody else") for line in lines if len(line) > 4 and line[4] == str(sleeper.pid)
)
print("senders of the sleeper's signals:", dict(senders))
if not lines or lines[0][:1] != ["TIME"]:
    print("skipped: sigsnoop cannot be attached here:", lines[:1])
    sys.exit(77)
sys.exit(not (senders["the other"] >= 20 and not senders["itself"]))
PY
# tracefs in a mount namespace of our own: the machine may have none.
unshare -m sh -c 'mount -t tracefs none /sys/kernel/tracing || exit 77; exec python3 both.py'
echo "as described"

"""What the aggregator may no longer do, tried in a process of its own."""

import subprocess
import sys

CODE = """
import ctypes, errno, os, platform, threading, urllib.request
from aggregator._native import lib

assert lib.kpod_confine() == 0
libc = ctypes.CDLL(None, use_errno=True)
calls = {
    "ptrace": lambda: libc.ptrace(16, 1, None, None),
    "mount": lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None),
    "unshare": lambda: libc.unshare(0x10000000),
    "setns": lambda: libc.setns(0, 0),
    "bpf": lambda: libc.syscall({"x86_64": 321, "aarch64": 280}[platform.machine()], 0, None, 0),
    "keyctl": lambda: libc.syscall({"x86_64": 250, "aarch64": 219}[platform.machine()], 0, 0),
}
for name, call in calls.items():
    ctypes.set_errno(0)
    assert call() == -1, name
    assert ctypes.get_errno() == errno.EPERM, (name, ctypes.get_errno())
thread = threading.Thread(target=os.listdir, args=("/",))
thread.start()
thread.join()
assert os.waitstatus_to_exitcode(os.system("true")) == 0
"""


def test_system_calls_that_serving_never_makes_are_refused() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

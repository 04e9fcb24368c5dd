"""What the aggregator may no longer do, tried in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

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
    "io_uring_setup": lambda: libc.syscall(425, 1, None),
    "open_tree": lambda: libc.syscall(428, -100, b"/", 1),
    "fsopen": lambda: libc.syscall(430, b"tmpfs", 0),
    "pidfd_getfd": lambda: libc.syscall(438, 0, 0, 0),
    "finit_module": lambda: libc.syscall(
        {"x86_64": 313, "aarch64": 273}[platform.machine()], 0, b"", 0
    ),
    "userfaultfd": lambda: libc.syscall(
        {"x86_64": 323, "aarch64": 282}[platform.machine()], 0
    ),
    **{
        # CLONE_NEW… with SIGCHLD, by clone() itself: user, PID, network, mount, IPC, UTS, cgroup.
        f"clone({flag:#x})": lambda flag=flag: libc.syscall(
            {"x86_64": 56, "aarch64": 220}[platform.machine()], flag | 17, None, None, None, 0
        )
        for flag in (1 << 28, 1 << 29, 1 << 30, 1 << 17, 1 << 27, 1 << 26, 1 << 25)
    },
}
for name, call in calls.items():
    ctypes.set_errno(0)
    assert call() == -1, name
    assert ctypes.get_errno() == errno.EPERM, (name, ctypes.get_errno())
thread = threading.Thread(target=os.listdir, args=("/",))
thread.start()
thread.join()
assert os.waitstatus_to_exitcode(os.system("true")) == 0
ctypes.set_errno(0)
assert libc.syscall(435, None, 0) == -1 and ctypes.get_errno() == errno.ENOSYS, "clone3"
"""

LANDLOCK = """
import errno, os, signal, sys
from aggregator._native import ffi, lib

inside, outside, victim = sys.argv[1], sys.argv[2], int(sys.argv[3])
names = [ffi.new("char[]", os.fsencode(inside))]
abi = lib.kpod_landlock(ffi.new("char *[]", [*names, ffi.NULL]))
assert abi >= 0, os.strerror(-abi)
if not abi:
    sys.exit(77)

def refused(what):
    try:
        what()
    except PermissionError:
        return True
    return False

assert open(outside + "/there").read() == "text"
for what in (
    lambda: open(outside + "/there", "a"),
    lambda: open(outside + "/new", "w"),
    lambda: os.mkdir(outside + "/directory"),
    lambda: os.symlink("a", outside + "/link"),
    lambda: os.mkfifo(outside + "/pipe"),
    lambda: os.unlink(outside + "/there"),
    lambda: os.rename(outside + "/there", outside + "/other"),
    lambda: open("/proc/self/oom_score_adj", "w"),
    *([lambda: os.truncate(outside + "/there", 0)] if abi >= 3 else []),
    *([lambda: os.kill(victim, signal.SIGTERM)] if abi >= 6 else []),
):
    assert refused(what), what.__code__.co_consts
with open(inside + "/new", "w") as file:
    file.write("x")
os.rename(inside + "/new", inside + "/name")
os.unlink(inside + "/name")
"""


def test_system_calls_that_serving_never_makes_are_refused() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_is_written_and_nobody_is_signalled(tmp_path: Path) -> None:
    """Tried as root, whom file permissions would not stop."""
    for name in ("inside", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "outside/there").write_text("text")
    directories = [str(tmp_path / name) for name in ("inside", "outside")]
    with subprocess.Popen(["sleep", "60"]) as victim:
        done = subprocess.run(
            [sys.executable, "-c", LANDLOCK, *directories, str(victim.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        alive = victim.poll() is None
        victim.kill()
    if done.returncode == 77:
        pytest.skip("the kernel has no Landlock, or it is not switched on")
    assert (done.returncode, done.stderr) == (0, "")
    assert alive
    assert (tmp_path / "outside/there").read_text() == "text"

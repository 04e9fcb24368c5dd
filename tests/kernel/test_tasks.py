"""The walk over processes, by which a container's interfaces and mounts are found."""

from pathlib import Path

import pytest

from tests.kernel.test_filesystem import MOUNTS, rows
from tests.kernel.test_interface import (
    FRAME,
    PACKETS,
    PAYLOAD,
    RECEIVER,
    RX,
    TX,
    UNSHARE,
    connect,
    container,
    moved,
    named,
)
from tests.live import IDLER, PRELUDE, TEST_LOADER, Cgroup, Worker, loader, wait_for

COLLECTORS = ("--collectors", "interface,filesystem")
VOLUME = 'mount("none", "{directory}/volume", "tmpfs", 0, "size=8m")'
FAILURES = "kpod_walk_failures_total"
SLICE = 1024  # KPOD_TASKS_SLICE

# Its main thread ends before another, which sends the packets.
HEADLESS = (
    MOUNTS
    + VOLUME
    + UNSHARE
    + PRELUDE
    + f"""
import socket, threading
def rest():
    os.read(0, 1)
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for i in range({PACKETS}):
        s.sendto(b"x" * {PAYLOAD}, ("10.9.9.2", 9))
        if not i % 100: time.sleep(0.01)
    gate()
    os._exit(0)
threading.Thread(target=rest).start()
ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 0) # exit: of this thread
"""
)
# So many processes that do nothing, all in one address space.
CROWD = (
    PRELUDE
    + """
import ctypes, mmap, signal
libc = ctypes.CDLL(None)
STACK = 4096
stacks = mmap.mmap(-1, {count} * STACK)
at = ctypes.addressof(ctypes.c_char.from_buffer(stacks))
pause = ctypes.cast(libc.pause, ctypes.c_void_p)
for i in range({count}):
    top = ctypes.c_void_p(at + (i + 1) * STACK)
    assert libc.clone(pause, top, 0x100 | signal.SIGCHLD, None) > 0 # CLONE_VM
gate()
"""
)
# Processes that come and go, so that the walk is often at one that has ended.
CHURN = (
    PRELUDE
    + """
while True:
    children = []
    for _ in range(20):
        pid = os.fork()
        if not pid:
            time.sleep(0.002)
            os._exit(0)
        children.append(pid)
    for pid in children: os.waitpid(pid, 0)
"""
)


@pytest.mark.guest("interface", "filesystem")
def test_process_whose_main_thread_has_ended(tmpfs: Path, tmp_path: Path, cgroups: Cgroup) -> None:
    """It has its namespaces, and its container's interfaces and volumes are shown."""
    a, b = container(cgroups, 0), container(cgroups, 1)
    headless = Worker(a, HEADLESS.format(directory=tmp_path))
    receiver = Worker(b, RECEIVER)
    connect(headless.pid, receiver.pid)
    headless.go()
    stat = Path(f"/proc/{headless.pid}/stat")
    wait_for("a zombie", lambda: stat.read_text().rsplit(") ", 1)[1][0] == "Z")
    try:
        with loader(tmpfs, *COLLECTORS) as running:
            wait_for("one interface", lambda: named(running.fresh(), a) == {"eth0"})
            wait_for("the other", lambda: named(running.fresh(), b) == {"eth0"})
            before = running.fresh()
            headless.go()
            assert headless.process.stdout
            assert headless.process.stdout.read(1) == b"x"
            sent = [PACKETS, PACKETS * FRAME]
            for one, columns in ((a, TX), (b, RX)):

                def look(c: Cgroup = one, columns: tuple[str, ...] = columns) -> bool:
                    return moved(before, running.fresh(), c, columns) == sent

                wait_for("all packets, and no more", look)
            wait_for("the volume", lambda: rows(running.fresh(), a, tmp_path))
            last = running.fresh()
    finally:
        headless.end()  # the kernel's cgroup.kill passes it by
    assert set(rows(last, a, tmp_path)) == {"/volume"}
    assert set(last.node("interface_reads").values()) == {0}
    assert last.node("filesystem_reads")["kpod_filesystem_read_errors_total"] == 0


def test_more_processes_than_a_slice(tmpfs: Path, tmp_path: Path, cgroups: Cgroup) -> None:
    """While others come and go. What has the node's namespaces never gets the node's interfaces
    and mounts, and what is newest, at the list's end, has its own in each snapshot."""
    crowd = Worker(cgroups.child("crowd.service"), CROWD.format(count=3 * SLICE))
    crowd.go()
    crowd.stopped()
    churns = [Worker(cgroups.child(f"churn{i}.service"), CHURN) for i in range(2)]
    for churn in churns:
        churn.go()
    own, node = container(cgroups, 0), container(cgroups, 1)
    mounts = MOUNTS + VOLUME.format(directory=tmp_path)
    with loader(tmpfs, *COLLECTORS, interval=0.05) as running:
        first = Worker(own, mounts + RECEIVER)
        second = Worker(container(cgroups, 2), UNSHARE + IDLER)
        connect(first.pid, second.pid)
        Worker(node, IDLER)
        wait_for("the interface", lambda: named(running.fresh(), own) == {"eth0"})
        wait_for("the volume", lambda: rows(running.fresh(), own, tmp_path))
        for _ in range(5):
            dump = running.fresh()
            assert named(dump, own) == {"eth0"}
            assert set(rows(dump, own, tmp_path)) == {"/volume"}
            assert named(dump, node) == set()
            assert dump.by_key(node.id, "filesystem") == {}
            assert dump.loader[FAILURES] == 0


def test_two_sources_need_one_walk(tmpfs: Path) -> None:
    """A machine with fewer processes than a slice has: the program runs once for each snapshot."""
    processes = len([p for p in Path("/proc").iterdir() if p.name.isdigit()])
    slices = 1 + processes // SLICE

    options = (*COLLECTORS, "--max-overhead", "100", "--governor-tick", "0.1")
    with loader(tmpfs, *options, interval=0.1, program=TEST_LOADER) as running:

        def runs() -> tuple[int, int]:
            dump = running.fresh()
            walks = [row for row in dump.keyed if "kpod_tasks_walk" in row["keys"]]
            return dump.sequence, sum(row["kpod_bpf_program_runs_total"] for row in walks)

        before, ran = runs()
        wait_for("the governor to look", lambda: runs()[1] > ran + 20)
        after, now = runs()
    assert now - ran <= 1.5 * slices * (after - before)

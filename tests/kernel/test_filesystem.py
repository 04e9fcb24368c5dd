"""Volumes of containers: what statfs() says inside, and nothing of the node's."""

import os
import re
import signal
import statistics
import time
from pathlib import Path

import pytest

from tests.live import IDLER, SLOWNESS, Cgroup, Dump, Worker, loader, wait_for
from tests.segment import FIELDS

MIB = 1 << 20

# A mount namespace of its own, and mounts in it.
MOUNTS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def mount(source, target, kind, flags=0, data=""):
    os.makedirs(target, exist_ok=True) if kind != "bind" else None
    args = [a.encode() for a in (source, target, kind)]
    assert not libc.mount(*args, flags, data.encode()), (target, os.strerror(ctypes.get_errno()))
assert not libc.unshare(0x20000) # CLONE_NEWNS
mount("none", "/", "none", 0x44000) # MS_REC | MS_PRIVATE
"""


class Mounter(Worker):
    """Does these in a directory, and stands still."""

    def __init__(self, cgroup: Cgroup, directory: Path, *mounts: str) -> None:
        code = "\n".join((MOUNTS, f"os.chdir({str(directory)!r})", *mounts, IDLER))
        super().__init__(cgroup, code)


def container(above: Cgroup, number: int) -> Cgroup:
    return above.child(f"docker-{number:064x}.scope")


def rows(dump: Dump, cgroup: Cgroup, directory: Path) -> dict[str, dict[str, int]]:
    """By mount point below the directory, without the names' common part."""
    return {
        point.removeprefix(str(directory)): {
            name.removeprefix("kpod_filesystem_"): value
            for name, value in row.items()
            if name.startswith("kpod_")
        }
        for (point,), row in dump.by_key(cgroup.id, "filesystem").items()
        if point.startswith(str(directory))
    }


@pytest.mark.guest("filesystem")
def test_volumes_are_what_statfs_says(tmpfs: Path, tmp_path: Path, cgroups: Cgroup) -> None:
    a, plain = container(cgroups, 0), container(cgroups, 1)
    unit = cgroups.child("a.service")
    d = str(tmp_path)
    mounts = (
        f'mount("none", "{d}/vol", "tmpfs", 0, "size=8m,nr_inodes=100")',
        'open("vol/file", "wb").write(bytes(3 << 20))',
        f'mount("none", "{d}/over", "tmpfs", 0, "size=4m")',
        f'mount("none", "{d}/over/below", "tmpfs", 0, "size=4m")',
        f'mount("none", "{d}/over", "tmpfs", 0, "size=16m")',
        f'mount("none", "{d}/with space", "tmpfs", 0, "size=4m")',
        f'mount("none", "{d}/{"x" * 150}", "tmpfs", 0, "size=4m")',
        f'mount("none", "{d}/pseudo", "proc")',
        'open("bound", "w").close()',
        f'mount("{d}/vol/file", "{d}/bound", "bind", 0x1000)',
    )
    Mounter(unit, tmp_path, *mounts)
    inside, _node = Mounter(a, tmp_path, *mounts), Worker(plain, IDLER)
    with loader(tmpfs) as running:

        def whole() -> Dump | None:
            """A snapshot does not wait for volumes, so the first may be without some."""
            dump = running.fresh()
            return dump if len(rows(dump, a, tmp_path)) == 4 else None

        dump = wait_for("all volumes", whole, 60)
        found = rows(dump, a, tmp_path)
        long = next(name for name in found if "xxx" in name)
        assert set(found) == {"/vol", "/over", "/with space", long}
        assert len(d + long) == 128
        assert found["/vol"] == {
            "size_bytes": 8 * MIB,
            "used_bytes": 3 * MIB,
            "available_bytes": 5 * MIB,
            "inodes": 100,
            "inodes_used": 2,
        }
        assert found["/over"]["size_bytes"] == 16 * MIB
        said = os.statvfs(f"/proc/{inside.pid}/root{d}/with space")
        assert found["/with space"]["size_bytes"] == said.f_blocks * said.f_frsize == 4 * MIB
        points = {point for (point,) in dump.by_key(a.id, "filesystem")}
        assert not points & {"/", "/dev", "/proc", "/sys"}
        # Who has the node's mounts is not charged with them.
        assert dump.by_key(plain.id, "filesystem") == dump.by_key(unit.id, "filesystem") == {}
        own = dump.node("filesystem_reads")
        assert own["kpod_filesystem_read_errors_total"] == 0
        assert left_out(dump).keys() <= {"unasked", "no_answer"}  # by a snapshot that came first
        assert own["kpod_filesystem_names_cut_total"] > 0
        # Nothing of it is held open: it can be unmounted, and it goes when its processes do.
        inside.end()
        wait_for("no volume", lambda: rows(running.fresh(), a, tmp_path) == {}, 60)


def test_links_of_the_container_lead_nowhere(tmpfs: Path, tmp_path: Path, cgroups: Cgroup) -> None:
    """A mount whose directory was moved away, and a link out of the container in its place."""
    a = container(cgroups, 0)
    d = str(tmp_path)
    Mounter(
        a,
        tmp_path,
        f'mount("none", "{d}/vol/deep", "tmpfs", 0, "size=4m")',
        'os.rename("vol", "moved")',
        'os.symlink("/", "vol")',
        f'mount("none", "{d}/moved/deep", "tmpfs", 0, "size=8m")',
    )
    with loader(tmpfs) as running:
        found = rows(running.fresh(), a, tmp_path)
    assert {name: row["size_bytes"] for name, row in found.items()} == {"/moved/deep": 8 * MIB}


def left_out(dump: Dump) -> dict[str, int]:
    """How many mounts have been left out, by reason."""
    found = {
        m[1]: value
        for name, value in dump.node("filesystem_reads").items()
        if (m := re.fullmatch(r"kpod_filesystem_left_out_total\{(\w+)\}", name))
    }
    return {reason: count for reason, count in found.items() if count}


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def hanging(pid: int) -> int:
    """Threads that wait for a FUSE server."""
    stacks = [(t / "stack").read_text() for t in Path(f"/proc/{pid}/task").iterdir()]
    return sum("fuse_" in stack for stack in stacks)


NO_FUSE = "needs FUSE, to have a file system that does not answer: no /dev/fuse"

# File systems in user space, after MOUNTS: each statfs() is answered after so many seconds, or
# never: UNREAD, UNANSWERED. One thread for each, so none waits for another.
UNREAD, UNANSWERED = -1, -2
FUSE = """
import struct, threading, time
INIT, STATFS, GETATTR, FORGET = 26, 17, 3, 2
def serve(fd, delay):
    while True:
        try: request = os.read(fd, 1 << 20)
        except OSError: return
        _, op, unique, node = struct.unpack_from("<IIQQ", request)
        if op == INIT:
            body = struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 1, 1, 4096, 1, 1, 0, 0)
        elif op == GETATTR:
            body = struct.pack("<QQQ52xIIIIIII", 60, 0, 1, 0o40755, 2, 0, 0, 0, 512, 0)
        elif op == STATFS:
            if delay < 0: continue
            time.sleep(delay)
            body = struct.pack("<QQQQQIIII24x", 1000, 500, 400, 100, 50, 4096, 255, 4096, 0)
        elif op == FORGET:
            continue
        else:
            os.write(fd, struct.pack("<IiQ", 16, -38, unique))
            continue
        os.write(fd, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)
def fuse(target, delay):
    fd = os.open("/dev/fuse", os.O_RDWR)
    mount("none", target, "fuse", 0, f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other")
    if delay != -1: threading.Thread(target=serve, args=(fd, delay), daemon=True).start()
"""


def sizes(dump: Dump, cgroup: Cgroup, directory: Path) -> dict[str, int]:
    return {name: row["size_bytes"] for name, row in rows(dump, cgroup, directory).items()}


def test_dead_mount_costs_itself_only(tmpfs: Path, tmp_path: Path, cgroups: Cgroup) -> None:
    """A FUSE server that never answers, as a dead NFS server does not."""
    if not Path("/dev/fuse").exists():
        pytest.skip(NO_FUSE)
    a, b, c = (container(cgroups, i) for i in range(3))
    d = str(tmp_path)
    mounts = (
        'fuse = os.open("/dev/fuse", os.O_RDWR)',
        f'mount("none", "{d}/dead", "fuse", 0, f"fd={{fuse}},rootmode=40000,user_id=0,group_id=0")',
        f'mount("none", "{d}/vol", "tmpfs", 0, "size=4m")',
    )
    dead = Mounter(a, tmp_path, *mounts)
    Mounter(b, tmp_path, f'mount("none", "{d}/vol", "tmpfs", 0, "size=8m")')
    with loader(tmpfs) as running:
        pid = running.process.pid
        wait_for("all but the dead", lambda: sizes(running.dump(), b, tmp_path))
        wait_for("its neighbour", lambda: sizes(running.dump(), a, tmp_path))
        first, last = running.fresh(), running.fresh()
        for dump in (first, last):
            assert sizes(dump, a, tmp_path) == {"/vol": 4 * MIB}
            assert sizes(dump, b, tmp_path) == {"/vol": 8 * MIB}
        waited = [left_out(x)["no_answer"] for x in (first, last)]
        assert waited[1] > waited[0] > 0
        assert hanging(pid) == 1
        # It comes back with an error when the server is gone, and its thread is free.
        dead.end()
        wait_for("the end of waiting", lambda: not hanging(pid))
        # The loader's end does not wait for one.
        Mounter(c, tmp_path, *mounts)
        wait_for("the next that hangs", lambda: left_out(running.fresh())["no_answer"] > waited[1])
        begun = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - begun < 1 * SLOWNESS


def test_slow_and_dead_volumes_cost_their_container_only(
    tmpfs: Path, tmp_path: Path, cgroups: Cgroup
) -> None:
    """16 that answer after 0.6 s in one container, 20 that never do in another; the neighbours'
    stay, snapshots are quick, and what is missing is counted."""
    if not Path("/dev/fuse").exists():
        pytest.skip(NO_FUSE)
    slow, dead, *others = (container(cgroups, i) for i in range(6))
    d = str(tmp_path)
    Mounter(slow, tmp_path, FUSE, f'for i in range(16): fuse(f"{d}/slow{{i}}", 0.6)')
    Mounter(dead, tmp_path, FUSE, f'for i in range(20): fuse(f"{d}/dead{{i}}", {UNREAD})')
    for i, cgroup in enumerate(others):
        Mounter(cgroup, tmp_path, f'mount("none", "{d}/vol", "tmpfs", 0, "size={4 + i}m")')
    with loader(tmpfs, "--collectors", "cpu,filesystem,interface", interval=0.25) as running:
        pid = running.process.pid
        heartbeats = []
        durations, whole = [], 0
        running.fresh()
        end = time.monotonic() + 8
        while time.monotonic() < end:
            dump = running.fresh()
            for i, cgroup in enumerate(others):
                assert sizes(dump, cgroup, tmp_path) == {"/vol": (4 + i) * MIB}
            durations.append(dump.loader["kpod_snapshot_duration_seconds"] / 1e9)
            whole = max(whole, len(sizes(dump, slow, tmp_path)))
            heartbeats.append(time.monotonic_ns() - heartbeat(running.segment))
        assert whole == 16, "slow ones come in time, one after the other"
        assert sizes(dump, slow, tmp_path).keys() == {f"/slow{i}" for i in range(16)}
        assert sizes(dump, dead, tmp_path) == {}
        # The most may be late for what else this machine does.
        assert statistics.median(durations) < 0.1
        assert sorted(durations)[-2] < 0.1 * SLOWNESS + 0.1
        assert max(heartbeats) < 3e9
        counted = left_out(dump)
        assert counted["no_answer"] > 0
        assert counted["unasked"] > 0
        before = counted
        after = left_out(running.fresh())
        assert after["no_answer"] + after["unasked"] - before["no_answer"] - before["unasked"] >= 20
        assert threads(pid) <= 2 + 2 + 2 + 2 + 4, "two at each, and no more than that hang"
        begun = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - begun < 1


def test_end_beside_a_request_that_was_read_and_never_answered(
    tmpfs: Path, tmp_path: Path, cgroups: Cgroup
) -> None:
    """The kernel lets no such thread go, not even for SIGKILL (request_wait_answer() of fs/fuse):
    all that the loader has made is gone at once all the same, so the next one can start."""
    if not Path("/dev/fuse").exists():
        pytest.skip(NO_FUSE)
    cgroup = container(cgroups, 0)
    server = Mounter(cgroup, tmp_path, FUSE, f'fuse("{tmp_path}/dead", {UNANSWERED})')
    with loader(tmpfs, "--collectors", "cpu,filesystem", interval=0.2) as running:
        wait_for("one that hangs", lambda: left_out(running.fresh()).get("no_answer"))
        begun = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        wait_for("the end of the segment", lambda: not list(tmpfs.iterdir()))
        with loader(tmpfs, "--collectors", "cpu", interval=0.2) as next_one:
            next_one.fresh()
        assert time.monotonic() - begun < 5
        server.end()
        assert running.stop() == 0


def heartbeat(segment: Path) -> int:
    at, size = FIELDS["kpod_header.heartbeat"]
    return int.from_bytes(segment.read_bytes()[at : at + size], "little")


def test_device_is_asked_once_for_all_that_have_it(
    tmpfs: Path, tmp_path: Path, cgroups: Cgroup
) -> None:
    """One slow server under many containers: each pass asks it once."""
    if not Path("/dev/fuse").exists():
        pytest.skip(NO_FUSE)
    many = [container(cgroups, i) for i in range(10)]
    d, log = str(tmp_path), tmp_path / "asked"
    counted = FUSE.replace(
        "time.sleep(delay)",
        f"""
            tid = struct.unpack_from("<I", request, 32)[0]
            group = open(f"/proc/{{tid}}/status").read().split("Tgid:")[1].split()[0]
            open("{log}", "a").write(f"{{group}},")
            time.sleep(delay)""",
    )
    server = Mounter(many[0], tmp_path, counted, f'fuse("{d}/vol", 0.2)')
    joined = f"""
import ctypes, os
fd = os.open("/proc/{server.pid}/ns/mnt", os.O_RDONLY)
libc = ctypes.CDLL(None)
assert not libc.setns(fd, 0x20000)
assert not libc.unshare(0x20000)
"""
    for cgroup in many[1:]:
        Worker(cgroup, joined + IDLER)
    with loader(tmpfs, "--collectors", "filesystem", interval=1) as running:

        def asked() -> int:
            # Another loader on this machine asks too.
            return log.read_text().split(",").count(str(running.process.pid))

        wait_for("all", lambda: all(sizes(running.dump(), c, tmp_path) for c in many))
        dump = running.fresh()
        before, sequence = asked(), dump.sequence
        running.fresh()
        dump = running.fresh()
        passes = dump.sequence - sequence
        assert 0 < asked() - before <= passes + 1, (running.process.pid, log.read_text())
        assert all(sizes(dump, c, tmp_path) == {"/vol": 1000 * 4096} for c in many)

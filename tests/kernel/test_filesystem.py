"""Volumes of containers: what statfs() says inside, and nothing of the node's."""

import os
from pathlib import Path

import pytest

from tests.live import IDLER, Cgroup, Dump, Worker, loader, wait_for

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
        dump = running.fresh()
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
        assert own["kpod_filesystem_timeouts_total"] == 0
        assert own["kpod_filesystem_names_cut_total"] > 0
        # Nothing of it is held open: it can be unmounted, and it goes when its processes do.
        inside.end()
        assert rows(running.fresh(), a, tmp_path) == {}


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


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_dead_mount_costs_itself_only(tmpfs: Path, tmp_path: Path, cgroups: Cgroup) -> None:
    """A FUSE server that never answers, as a dead NFS server does not."""
    if not Path("/dev/fuse").exists():
        pytest.skip("needs FUSE, to have a file system that does not answer: no /dev/fuse")
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

        def sizes(dump: Dump, cgroup: Cgroup) -> dict[str, int]:
            found = rows(dump, cgroup, tmp_path)
            return {name: row["size_bytes"] for name, row in found.items()}

        # Found once, it is not waited for again, and all others are there.
        wait_for("all but the dead", lambda: sizes(running.dump(), b) == {"/vol": 8 * MIB})
        wait_for("its neighbour", lambda: sizes(running.dump(), a) == {"/vol": 4 * MIB})
        first, last = running.fresh(), running.fresh()
        for dump in (first, last):
            assert sizes(dump, a) == {"/vol": 4 * MIB}
            assert sizes(dump, b) == {"/vol": 8 * MIB}
        timeouts = [
            x.node("filesystem_reads")["kpod_filesystem_timeouts_total"] for x in (first, last)
        ]
        assert timeouts[1] > timeouts[0] > 0
        assert threads(pid) == 3, "the loader, one that waits, and one that works"
        # It comes back with an error when the server is gone, and its thread ends.
        dead.end()
        wait_for("the thread's end", lambda: threads(pid) == 2)
        # The loader's end does not wait for one.
        Mounter(c, tmp_path, *mounts)
        wait_for("the next that hangs", lambda: threads(pid) == 3)
        assert running.stop() == 0

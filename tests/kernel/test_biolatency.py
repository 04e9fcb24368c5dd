"""Block I/O against workloads of known size, the disk's own counters and an idle neighbour.

On a disk of its own where there is one (in a guest, /dev/vdb); elsewhere on the disk that has /tmp,
where without an io controller all is the host's and said to be nobody's.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.live import GUEST, HOST, IDLER, PRELUDE, Cgroup, Dump, Worker, cgroup2, loader

BYTES = "kpod_block_io_bytes_total"
DEVICE = "kpod_block_io_device_seconds"
QUEUE = "kpod_block_io_queue_seconds"
UNATTRIBUTED = "kpod_block_io_unattributed_total"

pytestmark = pytest.mark.guest("biolatency")
needs_guest = pytest.mark.skipif(
    not GUEST, reason="needs an io controller in cgroup2, and a disk of its own: see tests/vm"
)

SIZE, COUNT = 65536, 100
DIRECT = (
    PRELUDE
    + """
import fcntl, mmap, struct
size, count = {size}, {count}
buffer = mmap.mmap(-1, size)
fd = os.open({path!r}, os.O_RDWR | os.O_DIRECT)
if "write" in {what!r}:
    for i in range(count): os.pwritev(fd, [buffer], i * size)
if "read" in {what!r}:
    for i in range(count): os.preadv(fd, [buffer], i * size)
if "flush" in {what!r}: os.fsync(fd)
if "discard" in {what!r}:
    fcntl.ioctl(fd, 0x1277, struct.pack("QQ", 0, size * count)) # BLKDISCARD
gate()
"""
)


def moved(before: Dump, after: Dump, cgroup: int, key: tuple[str, str]) -> dict[str, int]:
    """By column; of histograms, how many were counted."""

    def flat(dump: Dump) -> dict[str, int]:
        known = dump.slot(cgroup)  # others on this machine come and go
        row = dump.by_key(cgroup, "biolatency").get(key, {}) if known else {}
        return {
            name: sum(words) if isinstance(words, list) else words
            for name, words in row.items()
            if name.startswith("kpod_")
        }

    first, last = flat(before), flat(after)
    return {name: value - first.get(name, 0) for name, value in last.items()}


def with_io(cgroups: Cgroup, *names: str) -> list[Cgroup]:
    """Children that the io controller tells apart, and that have a cache of their own to write."""
    (cgroups.path / "cgroup.subtree_control").write_text("+io +memory")
    return [cgroups.child(name) for name in names]


@needs_guest
def test_direct_io_is_exact(tmpfs: Path, cgroups: Cgroup) -> None:
    a, b = with_io(cgroups, "a.service", "b.service")
    code = DIRECT.format(
        size=SIZE, count=COUNT, path="/dev/vdb", what=("write", "read", "flush", "discard")
    )
    with loader(tmpfs) as running:
        worker, _idle = Worker(a, code), Worker(b, IDLER)
        before = running.fresh()
        worker.go()
        worker.stopped()
        after = running.fresh()
    for operation in ("read", "write"):
        io = moved(before, after, a.id, ("vdb", operation))
        assert (io[BYTES], io[DEVICE], io[UNATTRIBUTED]) == (SIZE * COUNT, COUNT, 0)
        assert io[QUEUE] <= COUNT
        assert not moved(before, after, HOST, ("vdb", operation))
    assert moved(before, after, a.id, ("vdb", "discard"))[BYTES] == SIZE * COUNT
    flush = moved(before, after, HOST, ("vdb", "flush"))
    assert flush[DEVICE] == flush[UNATTRIBUTED] >= 1
    assert not [key for key in after.by_key(b.id, "biolatency") if key[0] == "vdb"]


BUFFERED = (
    PRELUDE
    + """
with open({path!r}, "wb") as f:
    f.write(b"x" * {size})
    f.flush()
    if {fsync}: os.fsync(f.fileno())
gate()
"""
)


@needs_guest
@pytest.mark.parametrize("fsync", [True, False], ids=["fsync", "writeback"])
def test_buffered_io_is_the_writers(tmpfs: Path, disk: Path, cgroups: Cgroup, fsync: bool) -> None:
    """Whoever writes it back: the writer itself, or a kworker when another syncs."""
    size = 8 << 20
    a, b = with_io(cgroups, "a.service", "b.service")
    with loader(tmpfs) as running:
        worker = Worker(a, BUFFERED.format(path=str(disk / "file"), size=size, fsync=fsync))
        _idle = Worker(b, IDLER)
        subprocess.run(["sync", "-f", disk], check=True)
        before = running.fresh()
        worker.go()
        worker.stopped()
        if not fsync:
            assert moved(before, running.fresh(), a.id, ("vdb", "write")).get(BYTES, 0) < size
            subprocess.run(["sync", "-f", disk], check=True)
        after = running.fresh()
    written = moved(before, after, a.id, ("vdb", "write"))
    assert size <= written[BYTES] <= 1.1 * size
    assert moved(before, after, HOST, ("vdb", "write")).get(BYTES, 0) < 0.1 * size
    assert not [key for key in after.by_key(b.id, "biolatency") if key[0] == "vdb"]


SYNCS = (
    PRELUDE
    + """
with open({path!r}, "wb", buffering=0) as f:
    for i in range({count}):
        os.pwrite(f.fileno(), bytes(4096), 4096 * i)
        os.fsync(f.fileno())
gate()
"""
)


def test_syncing_loses_nothing(tmpfs: Path, disk: Path, cgroups: Cgroup) -> None:
    """A request that asks for a flush only is ended by the kernel without being given to the disk.

    blk_flush_complete_seq() ends it with 0 bytes; the flush itself is a request of its own.
    """

    def untracked(dump: Dump) -> int:
        rows = (row for row in dump.keyed if row["table"] == "biolatency")
        return sum(row["kpod_block_io_untracked_total"] for row in rows)

    with loader(tmpfs, "--collectors", "biolatency") as running:
        worker = Worker(
            cgroups.child("a.service"), SYNCS.format(path=str(disk / "file"), count=COUNT)
        )
        before = running.fresh()
        worker.go()
        worker.stopped()
        after = running.fresh()
    # What was under way when the programs were attached may end later: far fewer than these.
    assert untracked(after) - untracked(before) < COUNT / 10


def counted(device: str) -> dict[str, tuple[int, int]]:
    """By operation, requests and bytes: Documentation/block/stat.rst."""
    stat = [int(n) for n in Path(f"/sys/block/{device}/stat").read_text().split()]
    return {"read": (stat[0], stat[2] << 9), "write": (stat[4], stat[6] << 9)}


def test_sum_is_what_the_kernel_counted(tmpfs: Path, disk: Path, cgroups: Cgroup) -> None:
    file = disk / "file"
    file.write_bytes(b"x" * SIZE * COUNT)
    subprocess.run(["sync", "-f", disk], check=True)
    sysfs = Path(f"/sys/dev/block/{os.major(disk.stat().st_dev)}:{os.minor(disk.stat().st_dev)}")
    if not sysfs.exists():
        pytest.skip(f"{disk} is not on a block device")
    device = sysfs.resolve().parent.name if (sysfs / "partition").exists() else sysfs.resolve().name
    a = cgroups.child("a.service")
    code = DIRECT.format(size=SIZE, count=COUNT, path=str(file), what=("write", "read"))
    with loader(tmpfs) as running:
        worker = Worker(a, code)
        # Others use the disk too: a snapshot lies between two readings.
        first, before, second = counted(device), running.fresh(), counted(device)
        worker.go()
        worker.stopped()
        third, after, last = counted(device), running.fresh(), counted(device)
    attributed = "io" in (cgroup2() / "cgroup.controllers").read_text().split()
    for operation in ("read", "write"):
        all_of_it = [
            moved(before, after, slot["cgroup_id"], (device, operation))
            for slot in after.slots.values()
        ]
        for index, column in enumerate((DEVICE, BYTES)):
            least = third[operation][index] - second[operation][index]
            most = last[operation][index] - first[operation][index]
            assert least >= (COUNT, SIZE * COUNT)[index]
            total = sum(io.get(column, 0) for io in all_of_it)
            assert 0.99 * least - 1 <= total <= 1.01 * most + 1, (operation, column)
        host = moved(before, after, HOST, (device, operation))
        if not attributed:
            assert host[UNATTRIBUTED] == host[DEVICE] >= 0.99 * COUNT

"""Block I/O against workloads of known size, the disk's own counters and an idle neighbour.

On a disk of its own where there is one (in a guest, /dev/vdb); elsewhere on the disk that has /tmp,
where without an io controller all is the host's and said to be nobody's.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import GUEST, HOST, IDLER, PRELUDE, Cgroup, Dump, Worker, cgroup2, loader, wait_for

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


needs_nvme = pytest.mark.skipif(
    not os.environ.get("KPOD_NVME"),
    reason="takes minutes in QEMU: KPOD_NVME=1 python -m tests.vm 6.12 '.venv/bin/python -m pytest "
    'tests/kernel/test_biolatency.py -k "disks or multipath"\'',
)
NVME = Path("/sys/bus/pci/drivers/nvme")
READ_DIRECT = (
    PRELUDE
    + """
import mmap
fd = os.open({path!r}, os.O_RDONLY | os.O_DIRECT)
buffer = mmap.mmap(-1, {size})
assert os.preadv(fd, [buffer], 0) == {size}
gate()
"""
)
MIB = 1 << 20


def bind(address: str, to: str) -> None:
    """Gives the driver a disk, or takes one away (unbind).

    QEMU's disks hang when they are taken away while the kernel is still looking at them, and it
    frees a disk's name some time after that: nothing tells when.
    """
    if to == "unbind":
        time.sleep(1)
    (NVME / to).write_text(address)
    wait_for(to, lambda: (NVME / address).exists() == (to == "bind"))
    if to == "unbind":
        time.sleep(1)


def nvme_names(address: str) -> list[str]:
    """In /sys/block, of the disks of a controller."""
    disks = Path("/sys/block").glob("nvme*")
    return [disk.name for disk in disks if f"/{address}/" in str(disk.resolve())]


def bind_as(address: str, name: str) -> None:
    """A name is only free some time after its disk is gone: until the kernel forgets the disk."""

    def tried() -> bool:
        bind(address, "bind")
        wait_for(f"a disk of {address}", lambda: nvme_names(address))
        if nvme_names(address) == [name]:
            return True
        bind(address, "unbind")
        return False

    wait_for(f"{name} of {address}", tried)


def number_of(name: str) -> str:
    return (Path("/sys/block") / name / "dev").read_text().strip()


@pytest.fixture
def nvme() -> Iterator[dict[str, str]]:
    """PCI addresses by serial number; none has the driver at first, nor at the end."""
    subprocess.run(["/run/modprobe", "nvme"], check=True)
    # None is taken away while the driver is still looking for its disk.
    wait_for("disks", lambda: len(list(Path("/sys/block").glob("nvme?n1"))) == 3)
    devices = Path("/sys/bus/pci/devices").iterdir()
    found = sorted(d.name for d in devices if (d / "class").read_text().strip() == "0x010802")
    assert len(found) == 3
    for address in found:
        bind(address, "unbind")
    yield dict(zip("ABM", found, strict=True))
    for address in found:
        if (NVME / address).exists():
            bind(address, "unbind")


def partition(operation: str) -> None:
    """A partition of /dev/vdb whose number is of those that NVMe disks get: 15 have their own."""
    arguments = ("16", "2048", "2048") if operation == "addpart" else ("16",)
    subprocess.run([operation, "/dev/vdb", *arguments], check=True)


@needs_nvme
def test_disks_by_name_whatever_their_numbers(
    tmpfs: Path, cgroups: Cgroup, nvme: dict[str, str]
) -> None:
    """NVMe disks get the lowest free number each time; names and numbers part ways."""
    (a,) = with_io(cgroups, "a.service")
    with loader(tmpfs, "--collectors", "cgroup,biolatency,cgroup_io") as running:

        def read(name: str, mib: int) -> int:
            """What the disk's row has, after a read of that size."""
            worker = Worker(a, READ_DIRECT.format(path=f"/dev/{name}", size=mib * MIB))
            worker.go()
            worker.stopped()
            worker.end()  # who has the disk open keeps its name from others
            dump = running.fresh()
            rows = [(row["table"], row["slot"], *row["keys"]) for row in dump.keyed]
            assert len(rows) == len(set(rows)), "a series is there twice"
            devices = {key[0] for key in dump.by_key(a.id, "biolatency")}
            assert not {d for d in devices if not (Path("/sys/block") / d).exists()}
            return int(dump.by_key(a.id, "biolatency")[name, "read"][BYTES])

        first, second = "nvme0n1", "nvme1n1"
        partition("addpart")
        bind_as(nvme["A"], first)
        numbers = {first: number_of(first)}
        partition("delpart")
        bind_as(nvme["B"], second)
        numbers[second] = number_of(second)
        assert read(first, 1) == 1 * MIB
        assert read(second, 2) == 2 * MIB
        for serial in "AB":
            bind(nvme[serial], "unbind")
        running.fresh()  # sees that they are gone: their series have ended
        bind_as(nvme["B"], first)
        bind_as(nvme["A"], second)
        # Each has the number that the other had.
        assert {second: number_of(first), first: number_of(second)} == numbers
        assert read(first, 4) == 4 * MIB
        assert read(second, 8) == 8 * MIB
        # A series of that name goes on, or begins anew if a snapshot saw that there was none.
        bind(nvme["A"], "unbind")
        bind_as(nvme["A"], second)
        assert read(second, 16) in (24 * MIB, 16 * MIB)


@needs_nvme
def test_multipath_is_shown_as_the_device(
    tmpfs: Path, cgroups: Cgroup, nvme: dict[str, str]
) -> None:
    """The requests are a hidden disk's, nvme0c0n1; /dev and io.stat have nvme0n1."""
    (a,) = with_io(cgroups, "a.service")
    with loader(tmpfs, "--collectors", "cgroup,biolatency,cgroup_io") as running:
        bind(nvme["M"], "bind")
        wait_for("a disk", Path("/sys/block/nvme0n1").exists)
        if not Path("/sys/block/nvme0c0n1").exists():
            pytest.skip("this kernel has no native multipath of NVMe")
        worker = Worker(a, READ_DIRECT.format(path="/dev/nvme0n1", size=3 * MIB))
        worker.go()
        worker.stopped()
        worker.end()
        after = running.fresh()
        row = after.by_key(a.id, "biolatency")["nvme0n1", "read"]
        assert row[BYTES] == 3 * MIB
        assert after.by_key(a.id, "cgroup_io")["nvme0n1",]["kpod_disk_bytes_total{read}"] == 3 * MIB
        assert {key[0] for key in after.by_key(a.id, "biolatency")} == {"nvme0n1"}

"""The loader with exactly the privileges of docs/privileges.md, and what it keeps of them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.test_filesystem import Mounter
from tests.live import HOG, LOADER, ONCPU, ROOT, Cgroup, Dump, Loader, Worker, loader, message

# The numbers are those of linux/capability.h.
NUMBERS = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
FOR_FILESYSTEM = {"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}
TO_LOAD = {"CAP_BPF", "CAP_PERFMON"}
GOVERNOR = ("--max-overhead", "1")


def documented() -> set[str]:
    table = (ROOT / "docs/privileges.md").read_text().partition("## Aggregator")[0]
    return set(re.findall(r"(?m)^\| (CAP_\w+) ", table))


def setpriv(capabilities: set[str], *, ambient: bool) -> tuple[str, ...]:
    wanted = "-all" + "".join(f",+{c.removeprefix('CAP_').lower()}" for c in sorted(capabilities))
    if not ambient:
        return ("setpriv", f"--bounding-set={wanted}")
    return (
        *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
        *(f"--inh-caps={wanted}", f"--ambient-caps={wanted}", f"--bounding-set={wanted}"),
    )


def kept(running: Loader) -> set[str]:
    """The capabilities of all its threads, which also have a filter and get no new ones."""
    found = set()
    for thread in Path(f"/proc/{running.process.pid}/task").iterdir():
        status = (thread / "status").read_text()
        assert re.search(r"(?m)^NoNewPrivs:\t1$", status)
        assert re.search(r"(?m)^Seccomp:\t2$", status)
        sets = dict(re.findall(r"(?m)^Cap(\w+):\t(\w+)$", status))
        assert sets["Prm"] == sets["Eff"]
        assert int(sets["Inh"], 16) == int(sets["Amb"], 16) == 0
        bits = int(sets["Prm"], 16)
        found |= {name for name, number in NUMBERS.items() if bits & 1 << number}
        assert bits == sum(1 << NUMBERS[name] for name in found), "none that is not documented"
    return found


def collectors(running: Loader) -> dict[str, str]:
    found = (re.search(r"collector (\w+): (up|down)", line) for line in running.log)
    return {m[1]: m[2] for m in found if m}


@pytest.fixture
def copied(tmpfs: Path) -> Path:
    """The loader, and a place for its segment, that any user may use."""
    program = tmpfs / "kpod-loader"
    program.write_bytes(LOADER.read_bytes())
    program.chmod(0o755)
    tmpfs.chmod(0o777)
    return program


def works(running: Loader, cgroup: Cgroup) -> None:
    hog = Worker(cgroup, HOG.format(seconds=0.3))
    before = running.fresh()
    spent = hog.schedstat()[0]
    hog.go()
    hog.stopped()
    spent = hog.schedstat()[0] - spent
    dump = running.fresh()
    assert dump.total(cgroup.id, ONCPU) - before.total(cgroup.id, ONCPU) == spent
    for failure in ("snapshot_failures", "rows_unmapped", "flush_failures", "walk_failures"):
        assert dump.loader[f"kpod_{failure}_total"] == 0


def test_all_that_is_documented_is_known() -> None:
    assert documented() == set(NUMBERS)


@pytest.mark.parametrize("ambient", [False, True], ids=["root", "nobody"])
def test_documented_capabilities_are_enough(
    tmpfs: Path, cgroups: Cgroup, copied: Path, ambient: bool
) -> None:
    """All collectors that run with every privilege there is run with these, and work."""
    with loader(tmpfs) as running:
        everything = collectors(running)
    needed = documented() - {"CAP_SYS_ADMIN"}
    prefix = setpriv(needed, ambient=ambient)
    with loader(tmpfs, program=copied, prefix=prefix) as running:
        assert collectors(running) == everything
        assert kept(running) == FOR_FILESYSTEM
        works(running, cgroups.child("a.service"))
        new = [cgroups.child(f"{i}.service") for i in range(130)]  # windows not yet mapped
        dump = running.fresh()
        assert all(dump.slot(c.id) for c in new)


@pytest.mark.parametrize("ambient", [False, True], ids=["root", "nobody"])
def test_the_least_it_starts_with(
    tmpfs: Path, cgroups: Cgroup, copied: Path, ambient: bool
) -> None:
    """Then it keeps nothing at all, and says what it does without."""
    options = ("--collectors", "cpu,exec,tcp", *GOVERNOR)
    prefix = setpriv(TO_LOAD, ambient=ambient)
    with loader(tmpfs, *options, program=copied, prefix=prefix) as running:
        assert set(collectors(running).values()) == {"up"}
        assert kept(running) == set()
        works(running, cgroups.child("a.service"))
    (said,) = [line for line in running.log if "overhead" in line]
    assert "neither measured nor limited" in said
    assert "CAP_SYS_ADMIN" in said


@pytest.mark.parametrize(("collector", "more"), [("cpu", set()), ("dns", {"CAP_NET_ADMIN"})])
def test_what_sheds_keeps_what_loads(
    tmpfs: Path, copied: Path, collector: str, more: set[str]
) -> None:
    prefix = setpriv(documented(), ambient=False)
    options = ("--collectors", collector, *GOVERNOR)
    with loader(tmpfs, *options, program=copied, prefix=prefix) as running:
        assert kept(running) == TO_LOAD | {"CAP_SYS_ADMIN"} | more
        assert not [line for line in running.log if "overhead" in line]


def test_programs_of_cgroups_need_net_admin(tmpfs: Path, copied: Path) -> None:
    """Without it their collectors are down, and say so; others run."""
    prefix = setpriv(TO_LOAD, ambient=False)
    options = ("--collectors", "cpu,dns,l7")
    with loader(tmpfs, *options, program=copied, prefix=prefix) as running:
        assert collectors(running) == {"cgroup": "up", "cpu": "up", "dns": "down", "l7": "down"}
    for name in ("dns", "l7"):
        (said,) = [line for line in running.log if f"collector {name}:" in line]
        assert "Operation not permitted" in said


@pytest.mark.parametrize("ambient", [False, True], ids=["root", "nobody"])
@pytest.mark.parametrize("gone", sorted(TO_LOAD))
def test_it_does_not_start_with_less(tmpfs: Path, copied: Path, gone: str, ambient: bool) -> None:
    done = subprocess.run(
        [*setpriv(documented() - {gone, "CAP_SYS_ADMIN"}, ambient=ambient), str(copied), "run"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert f"{gone} is missing" in done.stderr
    assert list(tmpfs.iterdir()) == [copied]


# Runs a command for which the kernel refuses one system call, as the runtime of a container may.
REFUSING = """
import ctypes, os, platform, struct, sys
EPERM, ALLOW = 0x50001, 0x7fff0000
number = {
    "x86_64": {"capset": 126, "seccomp": 317, "prctl": 157},
    "aarch64": {"capset": 91, "seccomp": 277, "prctl": 167},
}[platform.machine()]
# (code, jump if true, jump if false, k): load, jump if equal, return
def load(k): return 0x20, 0, 0, k
def equal(k, t, f): return 0x15, t, f, k
def end(k): return 6, 0, 0, k
program = [
    load(0), equal(number[sys.argv[1]], 3, 0), equal(number["prctl"], 0, 3), load(16),
    # What libseccomp does where there is no seccomp(): PR_SET_SECCOMP.
    equal(22 if sys.argv[1] == "seccomp" else 1 << 30, 0, 1), end(EPERM), end(ALLOW),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
fprog = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
assert ctypes.CDLL(None).prctl(22, 2, fprog, 0, 0) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("capset", "kpod-loader: capabilities cannot be dropped: Operation not permitted"),
        # libseccomp says ECANCELED for whatever the kernel said.
        ("seccomp", "kpod-loader: the system call filter cannot be set: Operation canceled"),
    ],
)
def test_what_cannot_be_dropped_ends_the_start(tmpfs: Path, call: str, said: str) -> None:
    refusing = (sys.executable, "-S", "-c", REFUSING, call)
    command = (str(LOADER), "run", "--collectors", "cpu", "--segment", str(tmpfs / "segment"))
    done = subprocess.run(
        [*refusing, *command], capture_output=True, text=True, check=False, timeout=120
    )
    why = "kpod-loader: it ends rather than run with them: see --allow-degraded-privileges"
    assert (done.returncode, [*map(message, done.stderr.splitlines())]) == (1, [said, why])
    assert [path.name for path in tmpfs.iterdir() if path.name != "segment.lock"] == []
    degraded = ("--collectors", "cpu", "--allow-degraded-privileges")
    with loader(tmpfs, *degraded, prefix=refusing) as running:
        assert running.fresh().slots
    assert said in running.log


@pytest.mark.parametrize("ambient", [False, True], ids=["root", "nobody"])
@pytest.mark.parametrize("gone", ["", *sorted(FOR_FILESYSTEM)])
def test_volumes_need_each_capability(
    tmpfs: Path, tmp_path: Path, cgroups: Cgroup, copied: Path, gone: str, ambient: bool
) -> None:
    """Without one the volume is left out; a line and a count say so."""
    private = tmp_path / "private"
    private.mkdir()
    mounts = (
        'mount("none", "private/volume", "tmpfs", 0, "size=8m")',
        'os.chown("private", 1234, 1234)',
        'os.chmod("private", 0o700)',
    )
    container = Mounter(cgroups.child(f"docker-{0:064x}.scope"), tmp_path, *mounts)
    options = ("--collectors", "cpu,filesystem")
    prefix = setpriv(documented() - {gone, "CAP_SYS_ADMIN"}, ambient=ambient)

    def errors(dump: Dump) -> int:
        reads = dump.node("filesystem_reads")
        failed = reads["kpod_filesystem_left_out_total{error}"]
        return int(reads["kpod_filesystem_read_errors_total"] + failed)

    def is_there(dump: Dump) -> bool:
        rows = [r["keys"] for r in dump.keyed if r["table"] == "filesystem"]
        return [f"{private}/volume"] in rows

    with loader(tmpfs, *options, program=copied, prefix=prefix) as running:
        dump = running.shows("the volume, or an error", lambda d: is_there(d) or errors(d))
    container.end()
    said = [line for line in running.log if "is missing" in line]
    assert is_there(dump) == (not gone)
    assert (errors(dump) > 0) == bool(gone)
    assert len(said) == bool(gone), said
    assert all(f"collector filesystem: {gone} is missing" in line for line in said)

"""CPU time of the whole loader a snapshot, and its memory, beside those of an older one.

The older loader is of commit BEFORE, which read a file of each cgroup for each statistic. It is
built from this repository's history. Both run the standard profile with the same containers, in
turn; each container has one process.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.http import memory
from tests.live import LOADER, ROOT, Cgroup, cgroup_tree, nodes, wait_for

BEFORE = "54627d3"
DIRECTORY = ROOT / "build/bench" / BEFORE
SIZES = (100, 1000, 5000)
BASE = 1000
PASSES = 20
INTERVAL = 0.25
DEFAULT_SLOTS = 2048
ROUNDS = 3
WANTED = 1 / 8  # of the older loader's cost with BASE containers
FLAT = 5.5  # times the cost at BASE, at five times as many
WANTED_KB = 16 << 10

# Puts a process into each cgroup that has none yet.
FILL = """
for cgroup in "$1"/*/; do
    read -r line <"$cgroup/cgroup.procs" || (
        echo 0 >"$cgroup/cgroup.procs"
        exec sleep 1000000
    ) &
done >/dev/null
"""


class NotThereError(Exception):
    """The older loader cannot be built."""


def older() -> Path:
    """The loader of the older commit, built if it was not."""
    program = DIRECTORY / "build/kpod-loader"
    if program.exists():
        return program
    found = subprocess.run(
        ["git", "-C", str(ROOT), "-c", f"safe.directory={ROOT}", "archive", BEFORE],
        capture_output=True,
        check=False,
    )
    if found.returncode:
        raise NotThereError(f"no commit {BEFORE}: {found.stderr.decode().strip()}")
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    DIRECTORY.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", str(DIRECTORY)], input=found.stdout, check=True)
    # What the make that runs this wants is nothing to the older Makefile.
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKEOVERRIDES")}
    built = subprocess.run(
        ["make", "-C", str(DIRECTORY), "build/kpod-loader"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        raise NotThereError(f"commit {BEFORE} does not build: {built.stderr.strip()[-300:]}")
    return program


@contextmanager
def running(program: Path, directory: Path, slots: int) -> Iterator[int]:
    """The process number of a loader that takes snapshots."""
    command = [
        *(str(program), "run", "--segment", str(directory / "segment")),
        *("--interval", str(INTERVAL), "--max-overhead", "100", "--max-containers", str(slots)),
        *(("--cgroup-root", ",".join(nodes)) if program == LOADER else ()),
    ]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def snapshots(program: Path, directory: Path) -> tuple[int, int]:
    """How many there were, and how many slots the last one has; (0, 0): none yet."""
    dump = subprocess.run(
        [str(program), "dump", str(directory / "segment"), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    head, _, rest = dump.stdout.partition("\n")
    return (json.loads(head)["sequence"], rest.count('"type":"slot"')) if head else (0, 0)


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process (clock_getcpuclockid(3))."""
    return time.clock_gettime_ns(~pid << 3 | 2)


def measure(program: Path, directory: Path, containers: int) -> tuple[float, int]:
    """Seconds of CPU a snapshot, and the most kB that were resident."""
    (directory / "segment").unlink(missing_ok=True)
    with running(program, directory, max(DEFAULT_SLOTS, 2 * containers)) as pid:
        wait_for("all slots", lambda: snapshots(program, directory)[1] >= containers)
        first, start = snapshots(program, directory)[0], cpu_ns(pid)
        time.sleep(PASSES * INTERVAL)
        spent = cpu_ns(pid) - start
        last = snapshots(program, directory)[0]
        return spent / (last - first) / 1e9, memory(pid)["VmHWM"]


def fill(top: Cgroup) -> None:
    subprocess.run(["sh", "-c", FILL, "-", str(top.path)], check=True)
    procs = [child / "cgroup.procs" for child in top.path.iterdir() if child.is_dir()]
    wait_for("a process in each", lambda: all(file.read_text() for file in procs))


def median(found: list[tuple[float, int]]) -> tuple[float, int]:
    """By the first."""
    return sorted(found)[len(found) // 2]


def compare(programs: dict[str, Path]) -> dict[int, dict[str, tuple[float, int]]]:
    """By containers and loader."""
    found: dict[int, dict[str, tuple[float, int]]] = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made, cgroup_tree() as top:
        there = 0
        for size in SIZES:
            for i in range(there, size):
                top.child(f"docker-{i:064x}.scope")
            there = size
            fill(top)
            rounds = [
                {name: measure(program, Path(made), size) for name, program in programs.items()}
                for _ in range(ROUNDS)
            ]
            found[size] = {name: median([each[name] for each in rounds]) for name in programs}
    return found


def main() -> bool:
    """Prints the figures; true if they are as wanted."""
    programs = {"now": LOADER}
    try:
        programs["then"] = older()
    except NotThereError as error:
        print(f"the loader of commit {BEFORE} is not compared with: {error}")
    found = compare(programs)
    base = found[BASE].get("then", (0.0, 0))[0]
    print(
        f"loader with the standard profile, ms of CPU a snapshot, median of {ROUNDS}; "
        f"most resident memory:"
    )
    good = True
    for size, costs in found.items():
        for name, (cost, resident) in sorted(costs.items(), reverse=True):
            ratio = f"   {cost / base:.3f} of {BEFORE} at {BASE}" if base else ""
            print(
                f"  {size:5} containers, {BEFORE if name == 'then' else name:7} "
                f"{1e3 * cost:8.2f} {resident:8} kB{ratio}"
            )
    largest = max(SIZES)
    now, growth = found[BASE]["now"][0], found[largest]["now"][0] / found[BASE]["now"][0]
    if base:
        good &= now <= WANTED * base
        print(f"  at {BASE}                     {now / base:8.3f}   (wanted: at most {WANTED})")
    print(f"  at {largest}, times that at {BASE} {growth:8.2f}   (wanted: at most {FLAT})")
    resident = found[largest]["now"][1]
    print(f"  resident at {largest}         {resident:8} kB   (wanted: at most {WANTED_KB})")
    return good and growth <= FLAT and resident <= WANTED_KB


if __name__ == "__main__":
    sys.exit(not main())

"""What a scrape shows is of the time of the scrape, whoever scrapes, and however often.

The oracle is cpu.stat of the same cgroup, read beside each scrape."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.stack import Aggregator, aggregator
from tests.live import HOG, IDLER, Cgroup, Loader, Worker, loader, unprivileged

FACTOR = 5  # all times are those of the defaults divided by this
INTERVAL, MIN_INTERVAL = 30 / FACTOR, 1 / FACTOR
FEW = ("--collectors", "cpu,cgroup_cpu", "--min-interval", str(MIN_INTERVAL))

# Rings as often as it can, up to this often a second.
RINGER = """
import os, sys, time
path, rate, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
begun = time.monotonic()
rings = 0
while (now := time.monotonic() - begun) < seconds:
    for _ in range(int(now * rate) - rings):
        os.close(os.open(path, os.O_RDONLY))
        rings += 1
    time.sleep(0.001)
print(rings)
"""


@dataclass
class Scraper:
    """Scrapes at its own times; points: cpu.stat's total before, the page's, cpu.stat's after."""

    served: Aggregator
    cgroup: Cgroup
    metric: str
    every: float
    phase: float
    points: list[tuple[float, float, float]] = field(default_factory=list)

    def usage(self) -> float:
        text = (self.cgroup.path / "cpu.stat").read_text().split()
        return int(text[text.index("usage_usec") + 1]) / 1e6

    def run(self, begun: float, seconds: float) -> None:
        at = begun + self.phase
        while at < begun + seconds:
            time.sleep(max(0, at - time.monotonic()))
            before = self.usage()
            series = self.served.series(self.metric, unit=self.cgroup.path.name)
            if series:
                self.points.append((before, sum(series.values()), self.usage()))
            at += self.every

    def errors(self) -> list[float]:
        """Of the rate from each scrape to the next, as a share of cpu.stat's.

        When within a scrape its snapshot was taken cannot be seen from here: what the rate may be
        for that alone is no error."""
        errors = []
        for a, b in zip(self.points, self.points[1:], strict=False):
            moved, least, most = b[1] - a[1], b[0] - a[2], b[2] - a[0]
            errors.append((max(moved - most, 0) - max(least - moved, 0)) / ((least + most) / 2))
        return errors


def test_rates_are_right_at_every_scrape(tmpfs: Path, cgroups: Cgroup) -> None:
    """Scrapes 15 s and 30 s apart at the defaults, by several, with phases of their own."""
    a = cgroups.child(f"fresh-{os.getpid()}.service")  # no other on this machine has its name
    hog = Worker(a, HOG.format(seconds=90))
    hog.go()
    with loader(tmpfs, *FEW, interval=INTERVAL) as running, aggregator(tmpfs) as served:
        assert running.process.poll() is None
        oncpu, usage = "kpod_cpu_oncpu_seconds_total", "kpod_cgroup_cpu_usage_seconds_total"
        scrapers = [
            Scraper(served, a, oncpu, 15 / FACTOR, 0.0),
            Scraper(served, a, usage, 15 / FACTOR, 1.21),  # another server
            Scraper(served, a, oncpu, 30 / FACTOR, 1.87),
            Scraper(served, a, usage, 30 / FACTOR, 0.05),  # it shares the first one's snapshots
        ]
        threads = [
            threading.Thread(target=s.run, args=(time.monotonic() + 0.5, 22)) for s in scrapers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        late = sum(served.series("kpod_scrapes_served_old_total").values())
        rung = sum(served.series("kpod_snapshots_rung_total").values())
    hog.end()
    for scraper in scrapers:
        errors = scraper.errors()
        assert len(errors) >= 3
        assert max(map(abs, errors)) < 0.03, (scraper.every, scraper.phase, errors, late)
    assert rung >= 12


def test_two_scrapes_within_the_least_interval_see_one_snapshot(tmpfs: Path) -> None:
    with loader(tmpfs, "--collectors", "cpu", interval=30), aggregator(tmpfs) as served:

        def stamp() -> float:
            return next(iter(served.series("kpod_snapshot_timestamp_seconds").values()))

        first, begun = stamp(), time.monotonic()
        second = stamp()
        if time.monotonic() - begun < 0.9:
            assert second == first
        time.sleep(1.1)
        third = served.samples()
        values = {name: value for (name, labels), value in third.items() if not labels}
        assert values["kpod_snapshot_timestamp_seconds"] > second
        assert values["kpod_snapshot_age_seconds"] < 1
        assert values["kpod_snapshot_interval_seconds"] == 30
        assert values["kpod_snapshot_min_interval_seconds"] == 1


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_flood_of_rings_costs_one_snapshot_a_second(tmpfs: Path, cgroups: Cgroup) -> None:
    """10,000 a second, by nobody, who may read the doorbell and no more."""
    idle = Worker(cgroups.child("idle.service"), IDLER)
    with loader(tmpfs, "--collectors", "cpu", interval=30) as running:
        bell = f"{running.segment}.doorbell"
        before, cpu = running.dump().sequence, cpu_seconds(running.process.pid)
        command = unprivileged(sys.executable, "-S", "-c", RINGER, bell, "10000", "4")
        begun = time.monotonic()
        rings = int(subprocess.check_output(command, text=True))
        seconds = time.monotonic() - begun
        cpu = cpu_seconds(running.process.pid) - cpu
        taken = running.dump().sequence - before
        assert rings > 10_000
        assert 3 <= taken <= seconds + 1
        assert cpu <= 0.05 + 0.02 * taken, "it does not even look at rings that it may not answer"
        held = [os.readlink(fd) for fd in Path(f"/proc/{running.process.pid}/fd").iterdir()]
        assert bell not in held, "it holds no descriptor of the doorbell, so it reads nothing"
        assert "inotify" in "".join(held)
        for mode in ("w", "a"):
            denied = f"open({bell!r}, {mode!r})"
            done = subprocess.run(
                unprivileged(sys.executable, "-S", "-c", denied), capture_output=True, check=False
            )
            assert b"PermissionError" in done.stderr
    idle.end()


def test_doorbell_that_was_removed_comes_back(tmpfs: Path) -> None:
    few = ("--collectors", "cpu", "--min-interval", "0.1")
    with loader(tmpfs, *few, interval=0.5) as running, aggregator(tmpfs) as served:
        bell = Path(f"{running.segment}.doorbell")
        inode = bell.stat().st_ino
        bell.unlink()
        running.fresh()
        assert bell.stat().st_ino != inode
        time.sleep(0.15)
        before = rung(running)
        served.samples()
        assert rung(running) > before


def rung(running: Loader) -> int:
    return int(running.dump().loader["kpod_snapshots_rung_total"])

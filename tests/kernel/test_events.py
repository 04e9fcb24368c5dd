"""`kpod-loader events exec`, against a workload that knows what it starts."""

import json
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.live import IDLER, LOADER, PRELUDE, Cgroup, Worker, unprivileged

NAME = "docker-" + "ab" * 32 + ".scope"

STARTS = (
    PRELUDE
    + """
import signal
def start(act):
    pid = os.fork()
    if not pid:
        try: act()
        finally: os._exit(1)
    os.waitpid(pid, 0)
for i in range(20):
    start(lambda: os.execv("/bin/true", ["true", "a b", 'quo"te', str(i)]))
for i in range(5): start(lambda: os._exit(7))
for i in range(3): start(lambda: os.kill(os.getpid(), signal.SIGTERM))
start(lambda: os.execv("/bin/true", ["true", "x" * 600]))
start(lambda: (os.setuid(65534), os.execv("/bin/true", ["true", "nobody"])))
gate()
"""
)
FLOOD = PRELUDE + "for _ in range(6000):\n  os.fork() or os._exit(0)\n  os.wait()\ngate()\n"


class Printer:
    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [str(LOADER), "events", "exec", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr
        assert "printing" in self.process.stderr.readline()
        self.output = ""
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        self.output = self.process.stdout.read()

    def stop(self) -> tuple[list[str], int, int]:
        """The lines, and how many it says it has printed and lost."""
        assert self.process.stderr
        self.process.send_signal(signal.SIGINT)
        self.reader.join()
        assert self.process.wait(timeout=60) == 0
        found = re.search(r"(\d+) events printed, (\d+) lost", self.process.stderr.read())
        assert found
        return self.output.splitlines(), int(found[1]), int(found[2])


@contextmanager
def printer(*options: str) -> Iterator[Printer]:
    running = Printer(*options)
    try:
        yield running
    finally:
        running.process.kill()
        running.reader.join()
        running.process.communicate()


def test_each_start_and_end_is_a_line(cgroups: Cgroup) -> None:
    a, b = cgroups.child(NAME), cgroups.child("b.service")
    worker, idle = Worker(a, STARTS), Worker(b, IDLER)
    with printer("--json") as running:
        begun = datetime.now(UTC)
        worker.go()
        worker.stopped()
        lines, printed, lost = running.stop()
    worker.end()
    idle.end()
    assert lost == 0
    assert len(lines) == printed
    events: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert not [event for event in events if event["cgroup_id"] == b.id]
    own = [event for event in events if event["cgroup_id"] == a.id]
    for event in own:
        assert event["cgroup"] == f"/{cgroups.path.name}/{NAME}"
        assert event["ppid"] == worker.pid
        time = datetime.fromisoformat(event["time"])
        assert begun - timedelta(seconds=1) < time < datetime.now(UTC) + timedelta(seconds=1)
    execs = [event for event in own if event["event"] == "exec"]
    ends = [event for event in own if event["event"] == "exit"]
    assert [e["args"] for e in execs[:20]] == [["true", "a b", 'quo"te', str(i)] for i in range(20)]
    assert {(e["filename"], e["comm"]) for e in execs} == {("/bin/true", "true")}
    assert [e["uid"] for e in execs] == [0] * 21 + [65534]
    long = [e for e in execs if e.get("args_cut")]
    assert [e["args"] for e in long] == [["true", "x" * (512 - len("true") - 1)]]
    assert [(e["status"], e["signal"]) for e in ends] == (
        [(0, 0)] * 20 + [(7, 0)] * 5 + [(0, 15)] * 3 + [(0, 0)] * 2
    )
    assert [e["pid"] for e in execs[:20]] == [e["pid"] for e in ends[:20]]


def test_text_cannot_break_a_line(cgroups: Cgroup) -> None:
    hostile = PRELUDE + "os.execv('/bin/true', ['true', 'a\\n\\x1b[2Jb'])"
    worker = Worker(cgroups.child("a.service"), hostile)
    with printer() as running:
        worker.go()
        worker.process.wait(timeout=60)
        lines, printed, _ = running.stop()
    assert len(lines) == printed
    line = next(line for line in lines if f"pid={worker.pid} " in line)
    assert 'args=["true","a\\u000a\\u001b[2Jb"]' in line


def test_what_is_lost_is_counted(cgroups: Cgroup) -> None:
    """More than the ring buffer holds, while nobody reads it."""
    a = cgroups.child("a.service")
    worker = Worker(a, FLOOD)
    with printer("--json") as running:
        running.process.send_signal(signal.SIGSTOP)
        worker.go()
        worker.stopped()
        running.process.send_signal(signal.SIGCONT)
        lines, printed, lost = running.stop()
    worker.end()
    own = sum(json.loads(line)["cgroup_id"] == a.id for line in lines)
    assert len(lines) == printed
    assert lost > 0
    assert own < 6000 <= own + lost


@pytest.mark.parametrize("arguments", [[], ["open"], ["exec", "--yaml"], ["exec", "--json", "x"]])
def test_bad_arguments(arguments: list[str]) -> None:
    done = subprocess.run(
        [str(LOADER), "events", *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "usage: kpod-loader events exec [--json]\n")


def test_without_privilege_one_clear_line(tmpfs: Path) -> None:
    copied = tmpfs / "kpod-loader"
    copied.write_bytes(LOADER.read_bytes())
    copied.chmod(0o755)
    done = subprocess.run(
        unprivileged(str(copied), "events", "exec"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "CAP_BPF is missing" in done.stderr

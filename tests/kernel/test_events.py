"""`kpod-loader events`, against workloads that know what happens to them."""

import json
import re
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.test_memory import TAKER, limited
from tests.kernel.test_tcpdrop import FILTER, NOBODY, tells_receiver
from tests.live import IDLER, LOADER, PRELUDE, Cgroup, Worker, unprivileged
from tests.net import namespaces

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
    def __init__(self, name: str, *options: str) -> None:
        self.process = subprocess.Popen(
            [str(LOADER), "events", name, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr
        assert "printing" in (said := self.process.stderr.readline()), said
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
def printer(name: str, *options: str) -> Iterator[Printer]:
    running = Printer(name, *options)
    try:
        yield running
    finally:
        running.process.kill()
        running.reader.join()
        running.process.communicate()


def test_each_start_and_end_is_a_line(cgroups: Cgroup) -> None:
    a, b = cgroups.child(NAME), cgroups.child("b.service")
    worker, idle = Worker(a, STARTS), Worker(b, IDLER)
    with printer("exec", "--json") as running:
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
    with printer("exec") as running:
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
    with printer("exec", "--json") as running:
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


def of(running: Printer) -> list[dict[str, Any]]:
    """All that it has printed, but for the times, which two of them do not share."""
    lines, printed, lost = running.stop()
    assert (len(lines), lost) == (printed, 0)
    events = [json.loads(line) for line in lines]
    for event in events:
        del event["time"]
    return events


def test_only_of_a_container(cgroups: Cgroup) -> None:
    """Chosen by text in the path of its cgroup, as a container's ID is."""
    chosen, other = cgroups.child(NAME), cgroups.child("other.service")
    workers = [Worker(cgroup, STARTS) for cgroup in (chosen, other)]
    with printer("exec", "--container", NAME[7:19], "--json") as running:
        for worker in workers:
            worker.go()
            worker.stopped()
        events = of(running)
    for worker in workers:
        worker.end()
    assert {event["cgroup_id"] for event in events} == {chosen.id}
    assert [event["event"] for event in events].count("exec") == 22


@pytest.mark.guest("memory")
def test_each_oom_kill_is_a_line(cgroups: Cgroup) -> None:
    """With the victim and who had asked for the memory; a SIGKILL of somebody else is none."""
    a, b, c = (cgroups.child(f"{name}.service") for name in ("victim", "asker", "neighbour"))
    with (
        limited(cgroups, 100) as processes,
        printer("oom", "--json") as every,
        printer("oom", "--container", "/victim.service", "--json") as chosen,
    ):
        victim = Worker(a, TAKER.format(megabytes=60))
        asker = Worker(b, TAKER.format(megabytes=55))
        neighbour = Worker(c, TAKER.format(megabytes=1))
        for worker in (victim, asker, neighbour):
            processes.write_text(str(worker.pid))
        Path(f"/proc/{victim.pid}/oom_score_adj").write_text("500")
        victim.go()
        victim.stopped()
        asker.go()
        assert asker.process.stdout
        survived = asker.process.stdout.read(1) == b"x"  # as in test_memory.py
        assert victim.process.wait(60) == -signal.SIGKILL
        for worker in (asker, neighbour):
            worker.end()
        events = [e for e in of(every) if e["cgroup_id"] in (a.id, b.id, c.id)]
        of_victim = of(chosen)
    (kill,) = (event for event in events if event["cgroup_id"] == a.id)
    assert (kill["event"], kill["pid"], kill["uid"]) == ("oom", victim.pid, 0)
    assert (kill["by_pid"], kill["score_adj"]) == (asker.pid, 500)
    assert kill["cgroup"] == f"/{cgroups.path.name}/victim.service"
    assert kill["address_space_bytes"] >= 60 << 20
    assert kill["comm"].startswith("python")
    assert [event["cgroup_id"] for event in events[1:]] == [b.id] * (not survived)
    assert of_victim == [kill]


@pytest.mark.guest("tcpdrop")
def test_each_dropped_packet_is_a_line(tmpfs: Path, cgroups: Cgroup) -> None:
    """With its two ends, the kernel's reason and, if it has a socket, whose that is."""
    a, b = cgroups.child("a.service"), cgroups.child("b.service")
    with (
        namespaces("a") as (own,),
        printer("drop", "--json") as every,
        printer("drop", "--container", "/a.service", "--json") as chosen,
    ):
        nobody = Worker(b, NOBODY.format(path=own.path))
        filtering = Worker(a, FILTER.format(path=own.path, counted=str(tmpfs / "drops")))
        for worker in (nobody, filtering):
            worker.go()
            worker.stopped()
        events, of_a = of(every), of(chosen)
        for worker in (nobody, filtering):
            worker.end()
    dropped = int((tmpfs / "drops").read_text())
    # Others on this machine lose packets, too: but none of port 5000 on its loopback.
    filtered = [e for e in events if e["reason"] == "socket_filter" and ":5000" in e["to"]]
    assert len(filtered) == dropped >= 2
    for event in filtered:
        assert event["event"] == "drop"
        assert event["to"] == "127.0.0.1:5000"
        assert "A" in event["flags"]
    refused = [e for e in events if e["reason"] == "no_socket" and e["flags"] == "S"]
    by_end = Counter(e["to"] for e in refused)
    assert 9 in by_end.values()
    assert {(e["cgroup_id"], e["cgroup"]) for e in refused} == {(0, "")}
    if tells_receiver():
        assert {e["cgroup_id"] for e in filtered} == {a.id}
        assert [e for e in of_a if e["reason"] == "socket_filter"] == filtered
    assert {e["cgroup_id"] for e in of_a} <= {a.id}


@pytest.mark.parametrize(
    "arguments",
    [[], ["open"], ["exec", "--yaml"], ["exec", "--json", "x"], ["oom", "--container"]],
)
def test_bad_arguments(arguments: list[str]) -> None:
    done = subprocess.run(
        [str(LOADER), "events", *arguments], capture_output=True, text=True, check=False
    )
    said = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert said[-1] == "usage: kpod-loader events exec|oom|drop [--container TEXT] [--json]"
    assert len(said) <= 2  # getopt has a line of its own


def test_without_privilege_one_clear_line(tmpfs: Path) -> None:
    copied = tmpfs / "kpod-loader"
    copied.write_bytes(LOADER.read_bytes())
    copied.chmod(0o755)
    done = subprocess.run(
        unprivileged(str(copied), "events", "exec"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "CAP_BPF is missing" in done.stderr

"""`kpod-loader top` and `doctor` in terminals of 80x24 and of 200x50: tmux says what a person sees.

`top` reads segments made from the specification; the oracle is what was written into them.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live import LOADER, missing, wait_for
from tests.segment import CLOSED, HOST_SLOT, UNIT, Row, Segment, Slot, column, schema, table
from tests.ui.node import SECOND, identity, rows, segment, slots

pytestmark = [
    pytest.mark.skipif(not shutil.which("tmux"), reason="no tmux: make setup-test"),
    pytest.mark.skipif(not LOADER.exists(), reason="no build/kpod-loader: make live"),
]

PROMPT = r"(?m)^[#$] ?$"
SIZES = [(80, 24), (200, 50)]


class Terminal:
    """A tmux server of its own, with one window and a shell in it."""

    def __init__(self, socket: Path, width: int, height: int) -> None:
        self._socket, self.width, self.height = socket, width, height
        self._run(
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            str(width),
            "-y",
            str(height),
            *("env", "-u", "ENV", "PS1=# ", "sh"),
        )
        self.waits_for(PROMPT)  # what is typed before that is on the screen twice

    def _run(self, *command: str) -> str:
        return subprocess.check_output(["tmux", "-S", str(self._socket), *command], text=True)

    def keys(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def screen(self, *, history: bool = False) -> list[str]:
        """Its lines; those that wrap are several. history: also what has scrolled out of it."""
        return self._run("capture-pane", "-p", *(["-S", "-"] if history else [])).splitlines()

    def waits_for(self, pattern: str) -> list[str]:
        """The screen once it has this."""

        def look() -> list[str]:
            lines = self.screen()
            drawn = re.search(pattern, "\n".join(lines)) and lines == self.screen()
            return lines if drawn else []

        try:
            found: list[str] = wait_for(pattern, look, 60)
        except TimeoutError:
            raise AssertionError((pattern, self.screen())) from None
        return found

    def close(self) -> None:
        subprocess.run(["tmux", "-S", str(self._socket), "kill-server"], check=False)


@pytest.fixture(params=SIZES, ids=lambda size: "x".join(map(str, size)))
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    found = Terminal(tmp_path / "tmux", *request.param)
    yield found
    found.close()


def top(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(LOADER), "top", "--segment", str(path), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def names(lines: list[str]) -> list[str]:
    """Of the rows."""
    return [line.split()[-1] for line in lines[2:-1] if line.strip()]


def test_top(terminal: Terminal, tmp_path: Path) -> None:
    """What fits, the busiest first; sorted, reversed, filtered and left by keys."""
    path = tmp_path / "segment"
    now = time.monotonic_ns()
    segment(5, 100, at_ns=now - 10 * SECOND).write(path)
    terminal.keys(f"{LOADER} top --segment {path}; echo status=$?", "Enter")
    terminal.waits_for("kpod-loader top: 7 live")
    segment(5, 110, at_ns=now).write(path)
    lines = terminal.waits_for(r"top: 7 live, 0 ended, 10\.0 s")
    heads = lines[1].split()
    assert heads[0] == "CPU%v"
    assert heads[-1] == "NAME"
    assert len(heads) == (8 if terminal.width == 80 else 17)
    assert {"MEM", "IO/s", "RETR", "DROP"} <= set(heads)
    assert len(lines) == terminal.height
    assert lines[-1].startswith("q quit")
    # Slot i has done this in the ten seconds, by what was written.
    cpu = {r.slot: r.words[0] for r in rows(slots(5), 110) if r.table == 0}
    for r in rows(slots(5), 100):
        if r.table == 0:
            cpu[r.slot] -= r.words[0]
    uid = "00000000/"
    called = {0: "host", 1: "nginx.service", 6: identity(6)[:12]} | {
        slot: uid + identity(slot)[:12] for slot in (2, 3, 4, 5)
    }
    shown = {line.split()[-1]: float(line.split()[0]) for line in lines[2:-1] if line.strip()}
    assert shown == {called[i]: pytest.approx(cpu[i] / 1e8, abs=0.051) for i in called}
    assert list(shown.values()) == sorted(shown.values(), reverse=True)
    before = names(lines)
    terminal.keys("r")
    assert names(terminal.waits_for(r"CPU%\^"))[::-1] == before
    terminal.keys("r")
    terminal.keys(">")
    terminal.waits_for("WAITv")
    terminal.keys("<", "<")
    assert names(terminal.waits_for("NAME v")) == sorted(called.values())
    terminal.keys("/", "NGinx")
    terminal.waits_for("filter: NGinx_")
    terminal.keys("Enter")
    assert names(terminal.waits_for(r"filter: NGinx  \(/")) == ["nginx.service"]
    terminal.keys("/", "Escape")
    assert len(names(terminal.waits_for("q quit"))) == 7
    terminal.keys("Space")
    terminal.waits_for("paused")
    terminal.keys("q")
    # The screen of before, and a terminal that echoes again.
    lines = terminal.waits_for("status=0")
    assert not any("q quit" in line for line in lines)
    terminal.keys("echo ec''ho", "Enter")
    terminal.waits_for("(?m)^echo$")


def test_top_of_many_scrolls(terminal: Terminal, tmp_path: Path) -> None:
    path = tmp_path / "segment"
    segment(100).write(path)
    terminal.keys(f"{LOADER} top --sort name --segment {path}", "Enter")
    first = terminal.waits_for("102 live")
    assert len(names(first)) == terminal.height - 3
    terminal.keys("Down", "Down", "Down")
    wait_for("three lines", lambda: names(terminal.screen())[0] == names(first)[3])
    terminal.keys("Up")
    wait_for("two lines", lambda: names(terminal.screen())[0] == names(first)[2])
    terminal.keys("C-c")
    terminal.waits_for(PROMPT)


def test_top_says_that_the_loader_has_gone(terminal: Terminal, tmp_path: Path) -> None:
    path = tmp_path / "segment"
    segment(5).write(path)
    terminal.keys(f"{LOADER} top --segment {path}; echo status=$?", "Enter")
    terminal.waits_for("7 live")
    Segment(schema(table("t", 1, [column("t_total")])), [HOST_SLOT], state=CLOSED).write(path)
    lines = terminal.waits_for("status=1")
    assert f"kpod-loader: {path}: closed" in "".join(lines)


def test_top_once_and_json(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    segment(5, 100).write(path)
    done = top(path, "--json")
    assert done.returncode == 0
    told: dict[str, Any] = json.loads(done.stdout)
    assert len(told["rows"]) == 7
    for row in told["rows"]:
        assert row.keys() - {"name", "path"} == told["units"].keys()
    # One snapshot: gauges are there, rates are not, and all of it was waited for.
    memory = {r.slot: r.words[0] for r in rows(slots(5), 100) if r.table == 2}
    assert sorted(row["memory"] for row in told["rows"]) == sorted(memory.values())
    assert {row["cpu"] for row in told["rows"]} == {None}
    text = top(path, "--once", "--filter", "nginx").stdout
    assert "\033" not in text
    assert [line.split()[-1] for line in text.splitlines()] == ["NAME", "nginx.service"]
    for options, status, says in (
        ((), 1, "kpod-loader: top needs a terminal: use --once, or --json\n"),
        (("--sort", "x"), 2, "kpod-loader: --sort: 'x' is none of name, cpu, wait, "),
    ):
        done = top(path, *options)
        assert (done.returncode, done.stdout) == (status, "")
        assert done.stderr.startswith(says)
        assert done.stderr.count("\n") == 1
    done = top(tmp_path / "none", "--once")
    assert (done.returncode, done.stderr) == (1, f"kpod-loader: {tmp_path}/none: absent\n")


def test_names_cannot_act_upon_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    evil = Slot(1, "/\033]0;title\007\r\n\x9b2J.service", UNIT)
    cpu = column("kpod_cpu_oncpu_seconds_total", decimals=9)
    Segment(
        schema(table("cpu", 1, [cpu])),
        [HOST_SLOT, evil],
        [Row(0, 0, [1]), Row(0, 1, [1])],
        stale_after_ns=10**15,
    ).write(path)
    for options in (["--once"], ["--json"]):
        text = top(path, *options).stdout
        assert not re.search(r"[^\x20-\x7e\n]", text)
        assert "]0;title" in text


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_doctor(terminal: Terminal) -> None:
    """No line wraps; what is not well says what to do; the summary is the last."""
    terminal.keys(f"{LOADER} doctor; echo status=$?", "Enter")
    terminal.waits_for("status=[0-9]")
    lines = terminal.screen(history=True)
    assert any(line.startswith("kernel  ") for line in lines), lines
    first = next(i for i, line in enumerate(lines) if line.startswith("kernel  "))
    last = next(i for i, line in enumerate(lines) if line.startswith("status="))
    told = lines[first:last]
    assert max(map(len, told)) <= 80
    assert all(
        re.match(r"\w+ +(ok|note|EMPTY|NO) +\S|                       \S", line) for line in told
    )
    heads = [line.split()[:2] for line in told if line[0] != " "]
    assert heads[-1][0] == "summary"
    failed = [name for name, state in heads[:-1] if state == "NO"]
    assert lines[last] == f"status={int(bool(failed))}"
    wrong = [
        name for name, state in heads if state in ("NO", "EMPTY", "note") and name != "summary"
    ]
    assert sum(line.strip().startswith("-> ") for line in told) == len(wrong)

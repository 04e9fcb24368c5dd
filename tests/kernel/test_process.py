"""The loader as a process: privileges, signals, what it opens, how it fails."""

import fcntl
import json
import os
import re
import signal
import subprocess
import termios
import threading
import time
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.live import (
    HOG,
    LOADER,
    ONCPU,
    ROOT,
    TEST_LOADER,
    Cgroup,
    Dump,
    Worker,
    loader,
    unprivileged,
    wait_for,
)

SEGMENT = "--segment=/dev/shm/kpod-test-never-made"


def run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command, capture_output=True, text=True, timeout=60, check=False, **options
    )


@pytest.fixture
def copied(tmpfs: Path) -> str:
    """The loader where an unprivileged user can run it."""
    target = tmpfs / "kpod-loader"
    target.write_bytes(LOADER.read_bytes())
    target.chmod(0o755)
    return str(target)


@pytest.mark.parametrize(
    ("capabilities", "lacks"),
    [("-all", "CAP_BPF"), ("-all,+perfmon", "CAP_BPF"), ("-all,+bpf", "CAP_PERFMON")],
)
def test_without_privilege_one_clear_line(copied: str, capabilities: str, lacks: str) -> None:
    done = run("setpriv", f"--bounding-set={capabilities}", copied, "run", SEGMENT)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"kpod-loader: {lacks} is missing")
    assert not Path(SEGMENT.partition("=")[2]).exists()


def test_as_nobody_one_clear_line(copied: str) -> None:
    done = run(*unprivileged(copied, "run", SEGMENT))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "CAP_BPF is missing" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fly"], "'fly' is not a command"),
        (["run", "--interval", "0"], "--interval: '0' is not a number from 0.01 to 3600"),
        (["run", "--interval", "x"], "--interval: 'x' is not a number"),
        (["run", "--max-containers", "1e9"], "--max-containers: '1e9' is not a number"),
        (["run", "--ring-size", "100000"], "--ring-size: a power of two"),
        (["run", "extra"], "'extra' is not an option"),
        (["run", "--nonsense"], "see kpod-loader --help"),
        (["run", "--profile", "all"], "--profile: 'all' is not minimal, standard or compreh"),
    ],
)
def test_bad_arguments(arguments: list[str], says: str) -> None:
    done = run(str(LOADER), *arguments)
    assert done.returncode == 2
    assert says in done.stderr


def test_segment_that_cannot_be_made() -> None:
    done = run(str(LOADER), "run", "--segment", "/nowhere/at/all/segment")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot make /nowhere/at/all/segment: No such file or directory" in done.stderr


def test_dump_of_nothing_names_the_state(tmpfs: Path) -> None:
    done = run(str(LOADER), "dump", str(tmpfs / "segment"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"kpod-loader: {tmpfs}/segment: absent\n"
    (tmpfs / "segment").write_bytes(b"x" * 5000)
    done = run(str(LOADER), "dump", str(tmpfs / "segment"))
    assert done.stderr == f"kpod-loader: {tmpfs}/segment: incompatible: not a kpod segment\n"


def test_dump_is_in_base_units(tmpfs: Path) -> None:
    """As the names of the metrics say, every digit of it; --raw: words as the segment has them."""

    def rows(*options: str) -> tuple[int, list[dict[str, Any]]]:
        text = run(str(LOADER), "dump", str(tmpfs / "segment"), "--json", *options).stdout
        head, *rest = (json.loads(line, parse_float=Decimal) for line in text.splitlines())
        return head["sequence"], rest

    with loader(tmpfs, "--collectors", "cpu,cgroup_cpu") as running:
        running.fresh()
        running.process.send_signal(signal.SIGSTOP)  # one snapshot for both, and no other
        (sequence, shown), again = rows(), rows("--raw")
        text = run(str(LOADER), "dump", str(tmpfs / "segment")).stdout
        running.process.send_signal(signal.SIGCONT)
    assert (sequence, len(shown)) == (again[0], len(again[1]))
    schema = json.loads(run(str(LOADER), "schema").stdout)
    decimals = {c["name"]: c["decimals"] for t in schema["tables"] for c in t["columns"]}
    seen = set()
    for row, raw in zip(shown, again[1], strict=True):
        assert list(row) == list(raw)
        for name, value in row.items():
            scale = 10 ** decimals.get(name.partition("{")[0], 0)
            if isinstance(value, int | Decimal):
                assert value * scale == raw[name], name
                if value and scale > 1:
                    seen.add(name)
    host = next(r for r in shown if r.get("table") == "cpu" and not r["slot"])
    assert ONCPU in seen
    assert f"row cpu slot=0 generation=0 {ONCPU}={host[ONCPU]} " in text


def test_check_says_whether_a_loader_is_at_work(tmpfs: Path) -> None:
    """What the chart's probe runs: a loader that stopped answers like one that is not there."""
    check = str(LOADER), "check", str(tmpfs / "segment")
    assert run(*check).returncode == 1
    with loader(tmpfs, "--collectors", "cpu") as running:
        done = run(*check)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        running.process.send_signal(signal.SIGSTOP)
        try:
            wait_for("a stale segment", lambda: run(*check).returncode == 1, 30)
            assert run(*check).stderr == f"kpod-loader: {tmpfs}/segment: stale\n"
        finally:
            running.process.send_signal(signal.SIGCONT)
        wait_for("a live segment", lambda: run(*check).returncode == 0)
    assert run(*check).returncode == 1


def bpf_programs(pid: int) -> int:
    infos = Path(f"/proc/{pid}/fdinfo")
    return sum("prog_type" in (infos / fd.name).read_text() for fd in infos.iterdir())


def test_environment_sets_options_and_the_command_line_wins() -> None:
    """KPOD_ and the option's name; each bad value is one line that names where it is from."""
    for name, value, says in (
        ("KPOD_INTERVAL", "0", "KPOD_INTERVAL: '0' is not a number from 0.01 to 3600"),
        ("KPOD_PROFILE", "x", "KPOD_PROFILE: 'x' is not minimal"),
        ("KPOD_PODS_ONLY", "x", "KPOD_PODS_ONLY: 'x' is not true or false"),
    ):
        done = run(str(LOADER), "schema", env={name: value})
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert says in done.stderr
    few = {"KPOD_COLLECTORS": "cpu", "KPOD_MAX_OVERHEAD": ""}
    schema = json.loads(run(str(LOADER), "schema", env=few).stdout)
    assert [c["name"] for c in schema["collectors"]] == ["cgroup", "cpu"]
    schema = json.loads(run(str(LOADER), "schema", "--collectors", "exec", env=few).stdout)
    assert [c["name"] for c in schema["collectors"]] == ["cgroup", "exec"]


def test_every_option_is_in_the_help_and_on_the_page() -> None:
    page = (ROOT / "docs/options.md").read_text()
    assert page == run(str(LOADER), "options").stdout, "make docs"
    on_page = set(re.findall(r"(?m)^\| `--([\w-]+)", page))
    in_help = set(re.findall(r"(?m)^  --([\w-]+)", run(str(LOADER), "--help").stdout))
    assert on_page == in_help - {"help"}
    assert {"min-interval", "segment", "max-containers"} <= on_page


SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_ends_it_and_leaves_nothing(tmpfs: Path, number: signal.Signals) -> None:
    with loader(tmpfs) as running:
        assert bpf_programs(running.process.pid) >= 4
        assert running.stop(number) == 0
        assert list(tmpfs.iterdir()) == []
    assert not list(Path("/sys/fs/bpf").glob("**/*kpod*"))


def test_kill_then_restart(tmpfs: Path, cgroups: Cgroup) -> None:
    a = cgroups.child("a.service")
    with loader(tmpfs) as first:
        assert first.fresh().slot(a.id)
        first.stop(signal.SIGKILL)
        left = Dump.of(first.segment)  # what it wrote last is still whole
        assert left.slot(a.id)
    with loader(tmpfs) as second:
        dump = second.fresh()
        assert dump.slot(a.id)
        assert dump.sequence < left.sequence + 100
        assert dump.total(a.id, ONCPU) == 0
    assert list(tmpfs.iterdir()) == []


def test_removed_segment_comes_back(tmpfs: Path) -> None:
    with loader(tmpfs) as running:
        first = running.fresh()
        running.segment.unlink()
        wait_for("another segment", running.segment.exists)
        assert running.fresh().sequence > first.sequence
    assert any("somebody removed the segment" in line for line in running.log)
    assert list(tmpfs.iterdir()) == []


def test_second_loader_is_refused(tmpfs: Path) -> None:
    """In one line that names the first; which does not notice. A killed one's lock is nobody's."""
    command = (str(LOADER), "run", "--segment", str(tmpfs / "segment"))
    with loader(tmpfs) as first:
        before, inode = first.fresh().sequence, first.segment.stat().st_ino
        done = run(*command)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert f"segment: the loader with process number {first.process.pid} writes" in done.stderr
        assert first.segment.stat().st_ino == inode
        assert first.fresh().sequence > before
        first.stop(signal.SIGKILL)
        with loader(tmpfs) as second:
            second.fresh()
            assert str(second.process.pid) in run(*command).stderr
    assert list(tmpfs.iterdir()) == []


def test_it_makes_its_directory(tmpfs: Path) -> None:
    directory = tmpfs / "kpod"
    umask = os.umask(0o077)
    try:
        with loader(directory) as running:
            running.fresh()
            assert directory.stat().st_mode & 0o777 == 0o755
            assert running.segment.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(umask)
    assert list(directory.iterdir()) == [], "it stays: readers may have mounted it"


def test_nohup_is_respected(tmpfs: Path) -> None:
    with loader(tmpfs, prefix=("nohup",)) as running:
        running.process.send_signal(signal.SIGHUP)
        running.fresh()
        assert running.stop() == 0


def test_it_opens_no_socket(tmpfs: Path) -> None:
    """Through its whole life, by strace; and at work, by /proc/PID/fd."""
    with loader(tmpfs) as running:
        running.fresh()
        kinds = [os.readlink(fd) for fd in Path(f"/proc/{running.process.pid}/fd").iterdir()]
    assert any("bpf-prog" in kind for kind in kinds), "it was looked at while it worked"
    assert not [kind for kind in kinds if kind.startswith("socket:")]

    log = tmpfs / "strace"
    traced = subprocess.Popen(
        [
            *("strace", "-f", "-qq", "-o", str(log), "-e", "trace=%network,bpf,execve"),
            *(str(LOADER), "run", "--segment", str(tmpfs / "s"), "--interval", "0.1"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert traced.stderr
    while "snapshots every" not in (line := traced.stderr.readline()):
        assert line, "the loader ended"
    time.sleep(0.5)
    children = Path(f"/proc/{traced.pid}/task/{traced.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)
    traced.communicate(timeout=60)
    calls = log.read_text()
    assert calls.count("bpf(") > 10, "strace saw what it does"
    assert not re.findall(r"\b(?:socket|socketpair|connect|bind|listen|accept4?)\(", calls)


def test_failing_collector_leaves_the_rest(tmpfs: Path, cgroups: Cgroup) -> None:
    a = cgroups.child("a.service")
    options = ("--inject-load-failure", "cpu")
    with loader(tmpfs, *options, program=TEST_LOADER) as running:
        dump = running.fresh()
        assert dump.slot(a.id)
        assert not [key for key in dump.rows if key[0] == "cpu"]
        assert any("collector cpu: down: made to fail" in line for line in running.log)
        assert any("collector cgroup: up" in line for line in running.log)


def test_failing_slots_fail_all_that_need_them(tmpfs: Path) -> None:
    options = ("--inject-load-failure", "cgroup")
    with loader(tmpfs, *options, program=TEST_LOADER) as running:
        assert running.dump().slots == {}
        assert any("collector cpu: down: needs collector cgroup" in x for x in running.log)
        assert running.dump().loader["kpod_slots_capacity"] > 0


def test_the_release_has_no_injection() -> None:
    done = run(str(LOADER), "run", "--inject-load-failure", "cpu", SEGMENT)
    assert done.returncode == 2


@pytest.mark.parametrize("format_", ["text", "json"])
def test_log_has_time_and_level(tmpfs: Path, format_: str) -> None:
    """Of `run`; what is wrong with the command line is said plainly."""
    before = time.time()
    done = run(
        *("timeout", "-s", "TERM", "4", str(LOADER), "run", "--collectors", "exec"),
        *("--log-format", format_, "--segment", f"{tmpfs}/segment"),
    )
    # The directory of a directory is not made.
    none = f'{tmpfs}/no "such"/place/segment'
    failed = run(str(LOADER), "run", "--log-format", format_, "--segment", none)
    assert failed.returncode == 1
    lines = [*done.stderr.splitlines(), *failed.stderr.splitlines()]
    levels = set()
    for line in lines:
        if format_ == "json":
            told = json.loads(line)
            assert set(told) == {"time", "level", "program", "message"}
            assert told["program"] == "kpod-loader"
        else:
            at, level, program, text = line.split(" ", 3)
            assert program == "kpod-loader:"
            told = {"time": at, "level": level, "message": text}
        assert before - 1 <= datetime.fromisoformat(told["time"]).timestamp() <= time.time() + 1
        levels.add(told["level"])
        if told["level"] == "info":
            assert "collector" in told["message"] or "snapshots every" in told["message"]
    assert told["level"] == "error"
    assert told["message"] == f"cannot make {none}: No such file or directory"
    assert "info" in levels
    refused = run(str(LOADER), "run", "--log-format", "xml")
    assert (refused.returncode, refused.stderr) == (
        2,
        "kpod-loader: --log-format: 'xml' is not text or json\n",
    )


def test_doctor() -> None:
    done = run(str(LOADER), "doctor", "--json")
    assert done.returncode == 0, done.stdout
    told = json.loads(done.stdout)
    rows = {
        check["name"]: "ok" if check["state"] in ("note", "empty") else check["state"]
        for check in told["checks"]
    }
    schema = json.loads(run(str(LOADER), "schema", "--profile", "comprehensive").stdout)
    collectors = [collector["name"] for collector in schema["collectors"]]
    assert {"cgroup", "cpu", "exec", "cgroup_cpu"} <= set(collectors)
    assert rows == dict.fromkeys(
        ["kernel", "btf", "privilege", "pids", "clocks", "cgroup2", "maps", *collectors], "ok"
    )
    assert told["ok"] is True
    assert told["summary"].startswith(f"all {len(rows)} checks are well")
    # The same for people: in 80 columns, a line or more for each, and what to do beside a note.
    text = run(str(LOADER), "doctor").stdout
    assert max(map(len, text.splitlines())) <= 80
    said = " ".join(text.split())
    for check in told["checks"]:
        assert check["text"] in said
        assert check["do"] in said
        assert bool(check["do"]) == (check["state"] != "ok")
    assert text.splitlines()[-1].startswith("summary          ok    all ")


def test_proc_that_is_none(tmpfs: Path) -> None:
    """Costs the collectors that need it, and says so; the rest runs."""
    done = run(str(LOADER), "doctor", "--proc", str(tmpfs))
    assert done.returncode == 1
    text = " ".join(done.stdout.split())
    down = re.findall(r"(?m)^(\w+) +NO ", done.stdout)
    assert down == ["interface", "filesystem", "summary"]
    said = f"{tmpfs}/self/status: No such file or directory: --proc is to be a"
    assert text.count(said) == 2
    assert text.count("-> the other collectors run without it") == 2
    assert text.endswith(" checks failed: see NO above")


def test_print_shows_the_busiest(tmpfs: Path, cgroups: Cgroup) -> None:
    """By name, without a byte that a terminal would act upon: any user may choose such a name."""
    hog = Worker(cgroups.child("\x1b]0;title\x07\x9b.service"), HOG.format(seconds=600))
    hog.go()
    name = r"/\u001b]0;title\u0007\u00c2\u009b.service"
    shown = ""
    process = subprocess.Popen(
        [
            *(str(LOADER), "run", "--print"),
            *("--interval", "0.3", "--segment", str(tmpfs / "segment")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    for line in process.stdout:
        shown += line
        if name in line:
            process.send_signal(signal.SIGINT)
    watchdog.cancel()
    assert process.wait(60) == 0
    hog.end()
    assert name in shown
    assert "cpu, per second:" in shown
    assert re.search(r'(?m)^ +\d+\.\d{4} .*  "/"$', shown)
    assert shown.isascii()
    assert shown.replace("\n", "").isprintable()
    assert list(tmpfs.iterdir()) == []


def private_directories() -> set[Path]:
    return set(Path("/dev/shm").glob("kpod-print.*"))


@pytest.mark.parametrize("end", ["hang up", "close"])
def test_print_alone_has_a_private_segment(end: str) -> None:
    """A closed terminal, or a reader of the table that goes away, leaves nothing."""
    before = private_directories()
    leader, follower = os.openpty()
    output = follower if end == "hang up" else subprocess.PIPE
    process = subprocess.Popen(
        [str(LOADER), "run", "--print", "--collectors", "cpu", "--interval", "0.1"],
        stdin=follower,
        stdout=output,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(follower)
    try:
        (made,) = wait_for("its segment", lambda: private_directories() - before)
        wait_for("a table", lambda: (made / "segment").exists())
        if process.stdout:
            assert process.stdout.readline() == b"\n"
            process.stdout.close()
        else:
            os.close(leader)
        assert process.wait(20) == 0
    finally:
        process.kill()
    assert not made.exists()

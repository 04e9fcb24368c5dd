"""The whole path, as it is deployed."""

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGHUP, SIGINT
from subprocess import PIPE, Popen

import pytest

from tests.e2e.stack import (
    PROMTOOL,
    Aggregator,
    aggregator,
    comes_alive,
    prometheus,
    runc_container,
    scrape_of,
    state,
)
from tests.live import HOG, LOADER, TEST_LOADER, Cgroup, Worker, loader, node_root, wait_for
from tests.scrape import openmetrics_samples

ONCPU = "kpod_cpu_oncpu_seconds_total"
UID = "12345678-1234-1234-1234-1234567890ab"
ID = "ab" * 32


def test_metrics_are_clean_and_real(tmpfs: Path, cgroups: Cgroup) -> None:
    a, b = cgroups.child("hog.service"), cgroups.child("idle.service")
    with loader(tmpfs) as running, aggregator(tmpfs) as served:
        hog, _idle = Worker(a, HOG.format(seconds=1)), Worker(b, HOG.format(seconds=1))
        running.fresh()
        before = served.samples()
        start = hog.schedstat()
        hog.go()
        hog.stopped()
        end = hog.schedstat()
        running.fresh()
        after = served.samples()
        _, body = served.get("/metrics")
        checked = subprocess.run(
            [PROMTOOL, "check", "metrics"], input=body, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
        assert served.get("/healthz") == (200, "ok\n")
        assert served.get("/readyz") == (200, "ready\n")
        assert '<th scope="row">cpu</th><td>runs</td>' in served.get("/")[1]

        def moved(name: str) -> float:
            key = next(k for k in after if k[0] == ONCPU and ("unit", name) in k[1])
            return after[key] - before.get(key, 0)

        assert moved("hog.service") == pytest.approx((end[0] - start[0]) / 1e9, rel=0.01)
        assert moved("hog.service") > 0
        assert moved("idle.service") == 0
        for bucket in ("0.03125", "+Inf"):
            found = served.series("kpod_cpu_runqueue_latency_seconds_bucket", le=bucket)
            assert any(("unit", "hog.service") in labels for labels in found)


def test_privileges_of_the_aggregator(tmpfs: Path) -> None:
    with loader(tmpfs) as running, aggregator(tmpfs) as served:
        running.fresh()
        assert served.series(ONCPU, scope="host")
        status = Path(f"/proc/{served.pid}/status").read_text()
        for ids in re.findall(r"(?m)^[UG]id:\t(.+)$", status):
            assert ids.split() == ["65534"] * 4
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert re.search(rf"(?m)^{name}:\t0+$", status), name
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        mounts = Path(f"/proc/{served.pid}/mounts").read_text()
        mount = next(m for m in mounts.splitlines() if m.split()[1] == str(tmpfs))
        assert "ro" in mount.split()[3].split(",")
        maps = Path(f"/proc/{served.pid}/maps").read_text()
        mapped = [line.split()[1] for line in maps.splitlines() if str(tmpfs) in line]
        assert mapped
        assert all("w" not in permissions for permissions in mapped)
        # Through its own eyes: it cannot open the file for writing.
        entered = subprocess.run(
            [
                *("nsenter", "--mount", f"--target={served.pid}", "sh", "-c"),
                f"echo x >> {running.segment}",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Read-only file system" in entered.stderr


@pytest.mark.parametrize(
    "path",
    [
        f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}"
        f".slice/cri-containerd-{ID}.scope",
        f"kubepods/burstable/pod{UID}/{ID}",
    ],
    ids=["systemd", "cgroupfs"],
)
def test_runc_container_is_named(tmpfs: Path, tmp_path: Path, path: str) -> None:
    burn = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass\n"
    burn += "print(time.process_time(), flush=True)\ntime.sleep(60)\n"
    top = f"kpod-test-{time.monotonic_ns()}"
    with (
        node_root(f"/{top}"),
        loader(tmpfs) as running,
        aggregator(tmpfs) as served,
        runc_container(tmp_path, f"/{top}/{path}", "/usr/bin/python3", "-S", "-c", burn) as out,
    ):
        spent = float(wait_for("the container's work", out.read_text))
        running.fresh()
        found = served.series(ONCPU, container_id=ID)
        assert len(found) == 1
        ((labels, value),) = found.items()
        assert dict(labels) == {"scope": "container", "pod_uid": UID, "container_id": ID}
        # runc's own start-up happens in the container's cgroup too.
        assert spent - 0.01 <= value <= spent + 0.3
        # The pod's own cgroup is no unit, and the slices above are nobody's.
        assert not served.series(ONCPU, scope="unit", unit=path.split("/")[-2])


def test_failing_collector_is_said(tmpfs: Path) -> None:
    options = ("--inject-load-failure", "cpu")
    with loader(tmpfs, *options, program=TEST_LOADER) as running, aggregator(tmpfs) as served:
        running.fresh()
        assert served.series("kpod_collector_up", collector="cpu") == {
            frozenset({("collector", "cpu")}): 0
        }
        assert list(served.series("kpod_collector_up", collector="cgroup").values()) == [1]
        (labels,) = served.series("kpod_collector_info", collector="cpu")
        assert dict(labels)["reason"] == "made to fail by --inject-load-failure"
        assert not served.series(ONCPU)
        assert list(served.series("kpod_loader_up").values()) == [1]
        assert next(iter(served.series("kpod_snapshots_total").values())) > 0
        assert served.get("/readyz")[0] == 200
        assert "made to fail" in served.get("/")[1]


def test_loader_comes_and_goes(tmpfs: Path) -> None:
    with aggregator(tmpfs) as served:
        assert state(served) == "absent"
        assert served.get("/readyz")[0] == 503
        with loader(tmpfs) as running:
            running.fresh()
            comes_alive(served)
            first = served.series("kpod_loader_start_time_seconds")
        assert state(served) in ("closed", "absent")
        assert not served.series(ONCPU)
        with loader(tmpfs) as running:
            running.fresh()
            comes_alive(served)
            assert served.series("kpod_loader_start_time_seconds") != first
            running.stop(9)
            wait_for("the aggregator to see it", lambda: state(served) == "stale")
            assert not served.series(ONCPU)
            assert served.get("/healthz")[0] == 200
        served.process.terminate()
        assert served.process.wait(10) == 0


def test_prometheus_scrapes_it(tmpfs: Path, tmp_path: Path) -> None:
    """Debian's Prometheus takes every sample; the rate of the host's switches is a real number."""
    with (
        loader(tmpfs, interval=0.5) as running,
        aggregator(tmpfs) as served,
        prometheus(tmp_path, scrape_of(served)) as server,
    ):
        running.fresh()
        wait_for("the target to be up", lambda: server.value("up") == 1)
        rate = "sum(rate(kpod_cpu_context_switches_total[10s]))"
        assert wait_for("a rate", lambda: server.value(rate)) > 10

        def complete() -> bool:
            """Other cgroups of this machine come and go meanwhile."""
            _, body = served.get("/metrics", accept="application/openmetrics-text")
            return server.value("scrape_samples_scraped") == len(openmetrics_samples(body))

        wait_for("every sample", complete, 60)
        assert server.query("kpod_cpu_runqueue_latency_seconds_bucket")
        assert not server.query("kpod_cpu_oncpu_seconds_created")


RUN_LOCAL = LOADER.parent.parent / "deploy/run-local"
PLAIN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


@contextmanager
def run_local(log: Path, *prefix: str, **variables: str) -> Iterator[tuple[str, Popen[str]]]:
    """What `make run` ends in, once it says where to look: that URL, and the process."""
    with (
        log.open("w") as file,
        Popen(
            [*prefix, RUN_LOCAL], stdout=PIPE, stderr=file, text=True, env=PLAIN | variables
        ) as process,
    ):
        assert process.stdout
        try:
            line = process.stdout.readline()
            found = re.match(r"kpod-metrics: (http://\S+)/metrics \(status", line)
            assert found, f"{line}{log.read_text()}"
            yield found[1], process
        finally:
            process.terminate()


def segment_of(process: Popen[str]) -> Path:
    """Of the loader that run-local started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
        if "--segment" in words:
            return Path(words[words.index("--segment") + 1])
    raise AssertionError("no loader")


@pytest.mark.parametrize("number", [SIGINT, SIGHUP], ids=["Ctrl-C", "closed terminal"])
def test_make_run_is_whole(tmp_path: Path, number: int) -> None:
    """It says where to look, serves that, and leaves nothing; twice at once if need be."""
    with (
        run_local(tmp_path / "log") as (url, process),
        run_local(tmp_path / "other") as (other, _),
    ):
        assert url != other
        assert url.startswith("http://127.0.0.1:")
        served = Aggregator(url, process)
        wait_for("real numbers", lambda: served.series(ONCPU, scope="host"))
        segment = segment_of(process)
        assert segment.exists()
        process.send_signal(number)
        assert process.wait(60) == 0
        assert not segment.parent.exists()
        assert "Traceback" not in (tmp_path / "log").read_text()
        with pytest.raises(OSError, match="refused"):
            served.get("/metrics")


def test_make_run_says_last_why_it_ended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [RUN_LOCAL],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=PLAIN | {"KPOD_LISTEN": where},
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "run-local: the aggregator ended with status 1: "
        f"kpod-aggregator: cannot listen on {where}: Address already in use"
    )
    assert "kpod-metrics: " not in done.stdout


def test_make_run_in_a_closed_directory(tmp_path: Path) -> None:
    """Where uid 65534 may not read the tree the aggregator still is that user, not root."""
    (tmp_path / "closed").mkdir(mode=0o700)
    tree = tmp_path / "closed/tree"
    tree.mkdir()
    bind = 'mount --bind "$1" "$2" && exec "$2/deploy/run-local"'
    prefix = ("unshare", "--mount", "bash", "-c", bind, "-", str(RUN_LOCAL.parents[1]), str(tree))
    with run_local(tmp_path / "log", *prefix) as (url, process):
        served = Aggregator(url, process)
        wait_for("real numbers", lambda: served.series(ONCPU, scope="host"))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        uids = {
            (Path(f"/proc/{child}/comm").read_text().strip(), Path(f"/proc/{child}").stat().st_uid)
            for child in children
        }
        assert ("kpod-loader", 0) in uids
        assert {uid for comm, uid in uids if comm.startswith("python")} == {65534}

"""Loader and aggregator as they are deployed: two processes, one file, one direction."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.live import ROOT, unprivileged, wait_for

PROMTOOL = ROOT / ".cache/prometheus/usr/bin/promtool"
PROMETHEUS = ROOT / ".cache/prometheus/usr/bin/prometheus"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass
class Aggregator:
    url: str
    process: "subprocess.Popen[str]"

    @property
    def pid(self) -> int:
        return self.process.pid

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(self.url + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def samples(self) -> Samples:
        status, body = self.get("/metrics")
        assert status == 200
        return {
            (s.name, frozenset(s.labels.items())): s.value
            for family in text_string_to_metric_families(body)
            for s in family.samples
        }

    def series(self, name: str, **labels: str) -> dict[frozenset[tuple[str, str]], float]:
        """The series of this name that have these labels."""
        wanted = set(labels.items())
        return {
            found: value
            for (metric, found), value in self.samples().items()
            if metric == name and wanted <= found
        }


def state(served: Aggregator) -> str:
    (labels,) = [k for k, v in served.series("kpod_segment_state").items() if v]
    return dict(labels)["state"]


def comes_alive(served: Aggregator) -> None:
    """At once, but on a machine that is so busy that the loader's heartbeat is late."""
    wait_for("the aggregator to see it", lambda: state(served) == "live")


@contextmanager
def aggregator(directory: Path, *options: str) -> Iterator[Aggregator]:
    """As uid 65534 without capabilities, in a mount namespace where the directory is read-only."""
    inner = unprivileged(
        *(sys.executable, "-m", "aggregator", "--segment", str(directory / "segment")),
        *("--listen", "127.0.0.1:0", *options),
    )
    script = 'mount --bind -o ro "$0" "$0" && exec "$@"'
    process = subprocess.Popen(
        ["unshare", "--mount", "bash", "-c", script, str(directory), *inner],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stderr
    try:
        while "serving http://" not in (line := process.stderr.readline()):
            assert line, "the aggregator did not start"
        url = line.split()[-1].removesuffix("/metrics")
        yield Aggregator(url, process)
    finally:
        process.terminate()
        process.communicate(timeout=60)


@dataclass
class Prometheus:
    url: str
    process: "subprocess.Popen[str]"

    def query(self, expression: str) -> dict[frozenset[tuple[str, str]], float]:
        """Values by labels; none while it is not up yet."""
        arguments = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{arguments}", timeout=60) as body:
                answer = json.load(body)
        except OSError:
            return {}
        return {
            frozenset(found["metric"].items()): float(found["value"][1])
            for found in answer["data"]["result"]
            if "value" in found
        }

    def value(self, expression: str) -> float | None:
        """Of the only series there is."""
        found = self.query(expression)
        assert len(found) < 2, found
        return next(iter(found.values()), None)


@contextmanager
def prometheus(
    directory: Path, scrape: dict[str, Any], *options: str, rules: Sequence[Path] = ()
) -> Iterator[Prometheus]:
    """Debian's, with one scrape configuration and these files of rules."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    config = directory / "prometheus.yml"
    document = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "scrape_configs": [scrape],
        "rule_files": [str(path) for path in rules],
    }
    config.write_text(json.dumps(document))  # JSON is YAML too
    process = subprocess.Popen(
        [
            *(str(PROMETHEUS), f"--config.file={config}", "--log.level=warn", *options),
            f"--storage.tsdb.path={directory}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        text=True,
    )
    try:
        yield Prometheus(f"http://127.0.0.1:{port}", process)
    finally:
        process.terminate()
        process.wait(60)


def scrape_of(served: Aggregator, **more: Any) -> dict[str, Any]:
    target = urllib.parse.urlsplit(served.url).netloc
    return {"job_name": "kpod", "static_configs": [{"targets": [target]}], **more}


@contextmanager
def runc_container(directory: Path, cgroup_path: str, *command: str) -> Iterator[Path]:
    """A real container at this cgroup path; yields the file that its output goes to."""
    name = f"kpod-test-{os.getpid()}-{time.monotonic_ns()}"
    bundle = directory / name
    (bundle / "rootfs").mkdir(parents=True)
    subprocess.run(["runc", "spec"], cwd=bundle, check=True)
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"] |= {"terminal": False, "args": list(command)}
    spec["mounts"] = [m for m in spec["mounts"] if m["destination"] in ("/proc", "/dev")]
    for path in ("/usr", "/lib", "/lib64", "/bin"):
        (bundle / f"rootfs{path}").mkdir()
        spec["mounts"].append(
            {"destination": path, "type": "bind", "source": path, "options": ["bind", "ro"]}
        )
    spec["linux"]["cgroupsPath"] = cgroup_path
    (bundle / "config.json").write_text(json.dumps(spec))
    output = bundle / "output"
    with output.open("w") as out:
        runc = subprocess.Popen(
            ["runc", "run", name], cwd=bundle, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        yield output
    finally:
        subprocess.run(["runc", "delete", "--force", name], check=False, capture_output=True)
        runc.wait(timeout=60)
        remove_cgroups(cgroup_path.strip("/").split("/")[0])
        shutil.rmtree(bundle)


def remove_cgroups(top: str) -> None:
    """What runc leaves of the path above its own directory, in every hierarchy."""
    for found in Path("/sys/fs/cgroup").glob(f"*/{top}"):
        for directory, _, _ in os.walk(found, topdown=False):

            def removed(directory: str = directory) -> bool:
                with suppress(OSError):
                    os.rmdir(directory)
                return not os.path.exists(directory)

            wait_for(f"{directory} to be removed", removed)

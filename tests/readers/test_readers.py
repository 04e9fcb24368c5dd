"""What real readers store of a known page, compared with the exact list (truth.py).

docs/readers.md is the table of what is asserted here. All servers are started once and scrape the
same aggregator; a reader that this machine could not get is skipped, with its name.
"""

import contextlib
import json
import math
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aggregator.http.server import Application
from aggregator.push.otlp import requests
from aggregator.segment.formats import PROTOBUF_TYPE
from aggregator.segment.store import Store
from tests.aggregator.test_http import server
from tests.live import ROOT, wait_for
from tests.readers import truth
from tests.readers.truth import Native, Samples
from tests.scrape import openmetrics_samples, protobuf_samples, text_samples

READERS = ROOT / ".cache/readers"
OLD = READERS / "bookworm/prometheus"
UNPACKED = ROOT / ".cache/prometheus/usr/bin"
PROMETHEUS = {
    "2.42": OLD if OLD.exists() else UNPACKED / "prometheus",  # as setup.sh has it
    "2.53": READERS / "trixie/prometheus",
    "3.5": READERS / "sid/prometheus",
}
VICTORIA = {
    "1.79": READERS / "bookworm/victoria-metrics",
    "1.145": READERS / "sid/victoria-metrics",
}
PUSHGATEWAY = {
    "1.5": READERS / "bookworm/prometheus-pushgateway",
    "1.11": READERS / "sid/prometheus-pushgateway",
}

TEXT, OPENMETRICS = "PrometheusText0.0.4", "OpenMetricsText1.0.0"
PROTOBUF = "PrometheusProto"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an aggregator, host:port."""
    path = tmp_path_factory.mktemp("readers") / "segment"
    truth.write(path)
    store = Store(str(path), clock=time.monotonic_ns, resolver=truth.resolver, node=truth.NODE)
    with server(Application(store), 20) as (host, port):
        yield f"{host}:{port}"


def get(url: str, data: bytes | None = None, **more: Any) -> bytes:
    request = urllib.request.Request(url, data, **more)
    with urllib.request.urlopen(request, timeout=20) as answer:
        body: bytes = answer.read()
    return body


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def needs(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.relative_to(ROOT)} could not be had: tests/readers/setup.sh")
    return path


@contextlib.contextmanager
def running(command: Sequence[str | Path], log: Path) -> Iterator[None]:
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@dataclass
class Server:
    url: str
    log: Path

    def up(self, job: str) -> bool:
        """Whether it has scraped this job."""
        with contextlib.suppress(OSError):
            found = self.query(f'up{{job="{job}"}}')
            return bool(found) and found[0]["value"][1] == "1"
        return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        body = get(f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        found: list[dict[str, Any]] = json.loads(body)["data"]["result"]
        return found

    def stored(self, job: str) -> tuple[Samples, dict[truth.Series, Native]]:
        """Samples and native histograms, without the labels of the job."""
        wait_for(f"a scrape of {job}", lambda: self.up(job), 120)
        floats: Samples = {}
        histograms: dict[truth.Series, Native] = {}
        for found in self.query(f'{{job="{job}",__name__=~"r_.+"}}'):
            labels = found["metric"]
            name = labels.pop("__name__")
            del labels["job"], labels["instance"]
            key = name, frozenset(labels.items())
            assert key not in floats
            assert key not in histograms
            if "histogram" in found:
                h = found["histogram"][1]
                buckets = frozenset(truth.bucket(*map(float, b[1:])) for b in h["buckets"])
                histograms[key] = float(h["count"]), float(h["sum"]), buckets
            else:
                floats[key] = float(found["value"][1])
        return floats, histograms


Start = Callable[..., Server]


@pytest.fixture(scope="module")
def start(page: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a Prometheus once for each set of flags, with these jobs."""
    with contextlib.ExitStack() as stack:
        known: dict[str, Server] = {}

        def run(version: str, *flags: str, **jobs: dict[str, Any]) -> Server:
            name = f"{version} {flags}"
            if name in known:
                return known[name]
            program = needs(PROMETHEUS[version])
            directory = tmp_path_factory.mktemp("prometheus")
            targets = [{"targets": [page]}]
            config = {
                "global": {"scrape_interval": "1s"},
                "scrape_configs": [
                    {"job_name": job, "static_configs": targets, **options}
                    for job, options in jobs.items()
                ],
            }
            (directory / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML too
            port = free_port()
            command: list[str | Path] = [
                program,
                f"--config.file={directory}/prometheus.yml",
                *flags,
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ]
            stack.enter_context(running(command, directory / "log"))
            known[name] = Server(f"http://127.0.0.1:{port}", directory / "log")
            return known[name]

        yield run


NATIVE = "--enable-feature=native-histograms"
PLAIN_JOBS: dict[str, dict[str, Any]] = {
    "default": {},
    "text": {"scrape_protocols": [TEXT]},
    "openmetrics": {"scrape_protocols": [OPENMETRICS]},
    "protobuf": {"scrape_protocols": [PROTOBUF]},
    "protobuf, classic": {"scrape_protocols": [PROTOBUF]},
}
CLASSIC_TOO = {
    "2.53": {"scrape_classic_histograms": True},
    "3.5": {"always_scrape_classic_histograms": True},
}


def plain_server(start: Start, version: str) -> Server:
    if version == "2.42":  # it has no option to choose a format
        return start(version, default={})
    jobs = dict(PLAIN_JOBS)
    jobs["protobuf, classic"] = jobs["protobuf, classic"] | CLASSIC_TOO[version]
    return start(version, **jobs)


@pytest.mark.parametrize(
    ("version", "job"),
    [
        ("2.42", "default"),
        *((version, job) for version in ("2.53", "3.5") for job in PLAIN_JOBS),
    ],
)
def test_prometheus(start: Start, version: str, job: str) -> None:
    """Without native histograms: each series, the buckets too, whatever the format; the `le` of a
    bucket is the same text in all of them.

    Protobuf needs the option that scrapes classic buckets: without it Prometheus parses the native
    part alone, and then stores nothing of it; 2.53 a zero, with or without that option.
    """
    floats, histograms = plain_server(start, version).stored(job)
    assert not histograms
    wanted = truth.plain() | (truth.classic() if job != "protobuf" else {})
    if version == "2.53" and "protobuf" in job:
        wanted |= dict.fromkeys(truth.native(), 0.0)
    assert floats == wanted


@pytest.mark.parametrize("version", PROMETHEUS)
@pytest.mark.parametrize("classic", [False, True])
def test_prometheus_with_native_histograms(start: Start, version: str, classic: bool) -> None:
    if classic and version not in CLASSIC_TOO:
        pytest.skip("Prometheus 2.42 has no option to scrape both kinds")
    both = {"both": CLASSIC_TOO[version]} if version in CLASSIC_TOO else {}
    found = start(version, NATIVE, native={}, **both)
    floats, histograms = found.stored("both" if classic else "native")
    assert histograms == truth.native()
    assert floats == truth.plain() | (truth.classic() if classic else {})


@pytest.mark.parametrize("version", PROMETHEUS)
@pytest.mark.parametrize("q", [0.05, 0.5, 0.9, 0.99])
def test_quantiles_are_within_a_bucket(start: Start, version: str, q: float) -> None:
    values = [
        2.0 ** (truth.FIRST + bucket / 4)
        for bucket, count in enumerate(truth.counts(0))
        for _ in range(count)
    ]
    true = values[math.ceil(q * len(values)) - 1]
    host = 'scope="host"'
    both = {"both": CLASSIC_TOO[version]} if version in CLASSIC_TOO else {}
    native = start(version, NATIVE, native={}, **both)
    native.stored("native")
    what = f'{{job="native",{host}}}'
    (found,) = native.query(f"histogram_quantile({q}, r_latency_seconds{what})")
    assert true * 2**-0.25 * 0.999 <= float(found["value"][1]) <= true * 1.001
    plain = plain_server(start, version)
    plain.stored("default")
    what = f'{{job="default",{host}}}'
    (found,) = plain.query(f"histogram_quantile({q}, r_latency_seconds_bucket{what})")
    above = min(2.0**e for e in truth.BOUNDS if 2.0**e >= true * 0.999)
    below = max((2.0**e for e in truth.BOUNDS if 2.0**e < true * 0.999), default=0)
    assert below <= float(found["value"][1]) <= above


def test_prometheus_created_and_units(start: Start) -> None:
    """3.5 with each experimental flag that reads more of a page: it lives (one that found times of
    creation in native histograms has ended), and a series has the same identity in each format."""
    features = "native-histograms,created-timestamp-zero-ingestion,type-and-unit-labels"
    jobs = {"openmetrics": PLAIN_JOBS["openmetrics"], "protobuf": PLAIN_JOBS["protobuf"]}
    found = start(
        "3.5",
        f"--enable-feature={features}",
        **{name: job | CLASSIC_TOO["3.5"] for name, job in jobs.items()},
    )
    openmetrics, _ = found.stored("openmetrics")
    protobuf, histograms = found.stored("protobuf")
    assert len(histograms) == len(truth.native())
    assert openmetrics == protobuf
    assert {name for name, _ in openmetrics} == {n for n, _ in truth.plain() | truth.classic()}
    for name, labels in protobuf:
        unit = dict(labels).get("__unit__", "")
        base = name.removesuffix("_total").removesuffix("_bucket").removesuffix("_count")
        base = base.removesuffix("_sum")
        assert unit == next((u for u in ("bytes", "seconds") if base.endswith(f"_{u}")), "")
    assert "panic" not in found.log.read_text()


@pytest.mark.parametrize("version", VICTORIA)
def test_victoria_metrics(page: str, tmp_path: Path, version: str) -> None:
    """vmagent has the same scraper; both ask for the text format."""
    program = needs(VICTORIA[version])
    config = tmp_path / "scrape.yml"
    jobs = [{"job_name": "kpod", "static_configs": [{"targets": [page]}]}]
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    port = free_port()
    command: list[str | Path] = [
        *(program, f"-promscrape.config={config}", f"-storageDataPath={tmp_path}/data"),
        *(f"-httpListenAddr=127.0.0.1:{port}", "-search.latencyOffset=0s"),
    ]
    with running(command, tmp_path / "log"):
        victoria = Server(f"http://127.0.0.1:{port}", tmp_path / "log")
        floats, _ = wait_for(
            "what was scraped to be found",
            lambda: found if (found := victoria.stored("kpod"))[0] else None,
            120,
        )
        assert floats == truth.plain() | truth.classic()


def test_victoria_metrics_by_otlp(tmp_path: Path) -> None:
    """Pushed histograms have other buckets than scraped ones, under the same name: the two do not
    mix, as docs/readers.md says. Counts and sums are right, and so is everything else."""
    program = needs(VICTORIA["1.145"])
    truth.write(tmp_path / "segment")
    store = Store(
        str(tmp_path / "segment"),
        clock=time.monotonic_ns,
        resolver=truth.resolver,
        node=truth.NODE,
    )
    port = free_port()
    command: list[str | Path] = [
        *(program, f"-storageDataPath={tmp_path}/data", f"-httpListenAddr=127.0.0.1:{port}"),
        "-search.latencyOffset=0s",
    ]
    url = f"http://127.0.0.1:{port}"
    with running(command, tmp_path / "log"):

        def ready() -> bool:
            with contextlib.suppress(OSError):
                return get(f"{url}/health") == b"OK"
            return False

        wait_for("the server", ready, 120)
        # The snapshot's time is years ago, which is outside of what it keeps.
        now = time.time_ns()
        assert store.refresh() == "live"
        assert store.snapshot
        store.snapshot.native.realtime_ns = now
        for body in requests(store.snapshot):
            headers = {"Content-Type": "application/x-protobuf"}
            get(f"{url}/opentelemetry/v1/metrics", body, headers=headers)

        def found() -> list[dict[str, Any]]:
            export = get(f"{url}/api/v1/export?match[]=" + urllib.parse.quote('{__name__=~"r_.+"}'))
            return [json.loads(line) for line in export.splitlines()]

        wait_for("what was pushed", lambda: any("r_of_node" in str(x) for x in found()), 120)
        host = [x for x in found() if x["metric"].get("scope") == "host"]
    stored = {x["metric"]["__name__"]: x["values"][-1] for x in host}
    classic = [dict(labels) for name, labels in truth.classic() if name.endswith("_bucket")]
    buckets = [x["metric"] for x in host if x["metric"]["__name__"] == "r_latency_seconds_bucket"]
    assert buckets
    assert all("vmrange" in labels and "le" not in labels for labels in buckets)
    assert all("le" in labels for labels in classic)
    assert stored["r_bytes_total"] == truth.words(0)[0]
    assert stored["r_latency_seconds_count"] == sum(truth.counts(0))
    assert stored["r_latency_seconds_sum"] == truth.scaled(truth.words(0)[truth.SUM], 9)


@pytest.mark.parametrize("version", PUSHGATEWAY)
@pytest.mark.parametrize("media", ["text/plain", PROTOBUF_TYPE])
def test_pushgateway(page: str, tmp_path: Path, version: str, media: str) -> None:
    """The page as somebody may push it: what Prometheus' common/expfmt makes of it, as Telegraf and
    prom2json do. It writes bounds without a needless .0."""
    program = needs(PUSHGATEWAY[version])
    port = free_port()
    command: list[str | Path] = [program, f"--web.listen-address=127.0.0.1:{port}"]
    with running(command, tmp_path / "log"):

        def ready() -> bool:
            with contextlib.suppress(OSError):
                return get(f"http://127.0.0.1:{port}/-/ready") == b"OK"
            return False

        wait_for("the gateway", ready, 120)
        request = urllib.request.Request(f"http://{page}/metrics", headers={"Accept": media})
        with urllib.request.urlopen(request, timeout=20) as answer:
            headers, body = {"Content-Type": answer.headers["Content-Type"]}, answer.read()
        if media == "text/plain":
            # It has metrics of a process of its own.
            wanted = [b for b in body.splitlines(True) if b" process_" not in b"# " + b]
            body = b"".join(x for x in wanted if not x.startswith(b"process_"))
        target = f"http://127.0.0.1:{port}/metrics/job/kpod"
        try:
            get(target, body, headers=headers, method="PUT")
        except urllib.error.HTTPError as error:
            pytest.fail(f"{error}: {error.read().decode()}")
        # Its own parser was its own; this reads what it serves.
        found = text_samples(get(f"http://127.0.0.1:{port}/metrics").decode())
    stored = {
        (name, frozenset(p for p in labels if p[0] not in ("job", "instance"))): value
        for (name, labels), value in found.items()
        if name.startswith("r_")
    }
    assert with_bounds(stored) == with_bounds(truth.plain() | truth.classic())


def with_bounds(samples: Samples) -> Samples:
    """With the numbers that are meant by `le`."""

    def number(pair: tuple[str, str]) -> tuple[str, str]:
        return ("le", str(float(pair[1]))) if pair[0] == "le" else pair

    return {(n, frozenset(map(number, labels))): v for (n, labels), v in samples.items()}


def scrape(page: str, accept: str) -> bytes:
    return get(f"http://{page}/metrics", headers={"Accept": accept})


def ours(samples: Samples) -> Samples:
    return {key: value for key, value in samples.items() if key[0].startswith("r_")}


def test_prometheus_client(page: str) -> None:
    wanted = truth.plain() | truth.classic()
    assert ours(text_samples(scrape(page, "text/plain").decode())) == wanted
    body = scrape(page, "application/openmetrics-text").decode()
    assert ours(openmetrics_samples(body)) == wanted
    # By the official description of the messages.
    found = ours(protobuf_samples(scrape(page, PROTOBUF_TYPE)))
    assert {k: v for k, v in found.items() if not k[0].endswith("_created")} == wanted


def test_promtool(page: str) -> None:
    """It complains of nothing in families of ours."""
    program = needs(UNPACKED / "promtool")
    body = scrape(page, "text/plain")
    done = subprocess.run([program, "check", "metrics"], input=body, capture_output=True)
    complaints = [x for x in done.stderr.decode().splitlines() if x.startswith("r_")]
    assert (done.stdout, complaints) == (b"", [])


def test_javascript(page: str) -> None:
    """parse-prometheus-text-format of npm, by what it calls metrics, buckets and labels."""
    modules = needs(READERS / "node_modules/parse-prometheus-text-format").parent
    script = Path(__file__).with_name("javascript.js")
    done = subprocess.run(
        ["node", script, modules], input=scrape(page, "text/plain"), capture_output=True, check=True
    )
    stored: Samples = {}
    last = len(truth.UNITS)
    ends = [(repr(2.0**e), 4 * (e - truth.FIRST) + 1) for e in truth.BOUNDS]
    ends.append(("+Inf", truth.BUCKETS))
    for family in json.loads(done.stdout):
        for metric in family["metrics"] if family["name"].startswith("r_") else ():
            name, labels = family["name"], set(metric.get("labels", {}).items())
            if family["type"] != "HISTOGRAM":
                stored[name, frozenset(labels)] = float(metric["value"])
                continue
            # It makes one histogram of all series of a family, the last of which remains.
            assert (len(family["metrics"]), labels) == (1, set())
            assert {le: float(count) for le, count in metric["buckets"].items()} == {
                le: sum(truth.counts(last)[:inside]) for le, inside in ends
            }
    assert stored == truth.plain()


@pytest.mark.parametrize("specification", ["standard", "latest"])
def test_datadog(page: str, specification: str) -> None:
    """Datadog's check, with `use_latest_spec` (OpenMetrics) and without (text)."""
    needs(READERS / "venv/ready")
    done = subprocess.run(
        [
            *(READERS / "venv/bin/python", Path(__file__).with_name("datadog.py")),
            *(f"http://{page}/metrics", specification),
        ],
        capture_output=True,
        check=True,
    )
    stored: Samples = {}
    for line in done.stdout.splitlines():
        name, _, value, tags = json.loads(line)
        pairs = dict(tag.split(":", 1) for tag in tags)
        # It has the two bounds of each bucket; the lower one follows from the others.
        pairs.pop("lower_bound", None)
        if "upper_bound" in pairs:
            pairs["le"] = pairs.pop("upper_bound")
        key = name.removeprefix("dd."), frozenset(pairs.items())
        stored[key] = stored.get(key, 0) + value
    wanted: Samples = {}
    for (name, labels), number in (truth.plain() | truth.classic()).items():
        renamed = name.removesuffix("_total").removesuffix("_bucket")
        for suffix in ("_count", "_sum"):
            if renamed == "r_latency_seconds" + suffix:
                renamed = f"r_latency_seconds.{suffix[1:]}"
        if name.endswith("_total"):
            renamed += ".count"
        if name.endswith("_bucket"):
            renamed += ".bucket"
        if ("le", "+Inf") not in labels:  # that is the count
            wanted[renamed, labels] = number
    assert with_bounds(stored) == with_bounds(wanted)

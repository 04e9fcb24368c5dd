"""Every expression that we ship, on real Prometheis that scraped the agent as the PodMonitor says.

Two pods work beside the agent: they fight for a CPU, talk TCP and UDP, lose packets and fail. One
Prometheus stores classic histograms, the other native ones. Whatever a selector names must be
there, but for what this machine's kernel or cgroups do not give, which the scrape itself shows.
"""

import contextlib
import json
import os
import re
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.chart import HELM, one, render
from tests.deploy.expressions import RULES, Expression, Selector, every, rules, selectors
from tests.deploy.pod import NODE_ROOTS, kubelets
from tests.e2e.stack import Aggregator, Prometheus, prometheus, scrape_of
from tests.e2e.test_pods import Cluster, run, serve
from tests.kubernetes.server import NODE
from tests.live import Loader, cgroup2, loader, missing, node_root, wait_for

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing() or "no kernel"),
    pytest.mark.skipif(not HELM.exists(), reason="no helm: make setup-test (x86-64 only)"),
]

WORK = """
import os, socket, threading, time
tcp = socket.create_server(("127.0.0.1", 5000))
def serve():
    while True:
        peer, _ = tcp.accept()
        while data := peer.recv(65536): peer.sendall(data)
        peer.close()
threading.Thread(target=serve, daemon=True).start()
deaf = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
deaf.bind(("127.0.0.1", 5001))
print(0, flush=True)
for second in range(600):
    with socket.create_connection(("127.0.0.1", 5000)) as peer:
        for _ in range(50):
            peer.sendall(b"x" * 5000)
            got = 0
            while got < 5000: got += len(peer.recv(65536))
    try: socket.create_connection(("127.0.0.1", 5002))
    except OSError: pass
    for _ in range(600): deaf.sendto(b"x" * 1400, ("127.0.0.1", 5001))
    for code in (0, 1):
        if not (child := os.fork()): os._exit(code)
        os.waitpid(child, 0)
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
    end = time.monotonic() + 0.5
    while time.monotonic() < end: pass
    time.sleep(0.05)
"""
# Of a relabelling, where prometheus-operator's name is not Prometheus's.
NAMES = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
# Of this process: another run of the tests on this machine has others.
UID = [f"{os.getpid():08x}-1111-2222-3333-{i:012x}" for i in range(2)]
ID = [f"{os.getpid():063x}{i}" for i in range(2)]
PRESENT = ("kpod_cpu_", "kpod_process_", "kpod_tcp_bytes", "kpod_tcp_segments", "kpod_tcp_rtt")
# What stands for a value in runbooks.
FILLED = {
    '"NAMESPACE"': '"shop"',
    '"POD"': '"web-0"',
    '"NODE"': f'"{NODE}"',
    '"COLLECTOR"': '"tcp"',
}
# Labels of things that did not happen here: the metric is there, this of it is not.
NOT_HAPPENED = (
    'state="unnamed"',
    'pod=""',
    'cause="limit"',
    'event="oom_kill"',
    "kpod_hardirq_stolen_seconds_total",  # whom a device interrupts is the device's choice
)


def scrape(served: Aggregator) -> dict[str, Any]:
    """The PodMonitor's endpoint as prometheus-operator writes it for Prometheus."""
    (endpoint,) = one(render(), "PodMonitor")["spec"]["podMetricsEndpoints"]
    target = scrape_of(served)["static_configs"][0]["targets"]
    found = {  # what discovery and the operator put on the target
        "__meta_kubernetes_pod_node_name": NODE,
        "namespace": "kpod-metrics",
        "pod": "kpod-metrics-x",
        "container": "aggregator",
        "endpoint": "metrics",
    }
    return {
        "job_name": "kpod-metrics/kpod-metrics",
        "honor_labels": endpoint["honorLabels"],
        "scheme": endpoint["scheme"],
        "metrics_path": endpoint["path"],
        "static_configs": [{"targets": target, "labels": found}],
        "relabel_configs": [
            {NAMES.get(key, key): value for key, value in rule.items()}
            for rule in endpoint["relabelings"]
        ],
    }


@dataclass
class Stack:
    served: Aggregator
    classic: Prometheus
    native: Prometheus

    def absent(self) -> set[str]:
        """Metrics of the schema that no scrape has."""
        _, text = self.served.get("/metrics")
        there = {line.partition("{")[0].partition(" ")[0] for line in text.splitlines()}
        there |= {name.removesuffix("_bucket") for name in there}  # native: by that name
        return {s.metric for e in every() for s in selectors(filled(e))} - there


def filled(expression: Expression) -> str:
    text = expression.text
    for placeholder, value in FILLED.items():
        text = text.replace(placeholder, value)
    return text


def ask(server: Prometheus, expression: str) -> list[Any]:
    """The result; an error is raised with what the server says of it."""
    arguments = urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(f"{server.url}/api/v1/query?{arguments}", timeout=30) as body:
            found: list[Any] = json.load(body)["data"]["result"]
            return found
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{expression}: {error.read().decode()}") from None


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("queries")
    cluster = Cluster()
    with ExitStack() as stack:
        stack.callback(cluster.close)
        tmpfs = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        tmpfs.chmod(0o755)
        for top in NODE_ROOTS:
            stack.enter_context(node_root(top))
        running: Loader = stack.enter_context(
            loader(tmpfs, "--profile", "comprehensive", interval=1)
        )
        served = serve(stack, tmpfs, cluster)
        for i, name in enumerate(("web-0", "web-1")):
            cluster.event("ADDED", UID[i], name, {"web": ID[i]})
            run(stack, directory, kubelets(UID[i], ID[i], i), WORK)()
        running.fresh()
        wait_for("names", lambda: served.series("kpod_process_execs_total", pod="web-1"), 30)
        # Not every 30 s: the test is to end.
        records = directory / "records.yaml"
        records.write_text((RULES / "records.yaml").read_text().replace("interval: 30s", ""))
        servers = []
        for kind, options in (
            ("classic", ()),
            ("native", ("--enable-feature=native-histograms",)),
        ):
            (directory / kind).mkdir()
            made = prometheus(directory / kind, scrape(served), *options, rules=[records])
            servers.append(stack.enter_context(made))
        found = Stack(served, *servers)
        recorded = "namespace:kpod_cpu_oncpu_seconds:rate5m"
        wait_for(recorded, lambda: all(server.query(recorded) for server in servers), 60)
        yield found


def exists(stack: Stack, selector: Selector, absent: set[str]) -> bool:
    """Whether it selects anything, in the one server or the other; or cannot on this machine."""
    servers = (stack.classic, stack.native)
    return any(ask(s, f"count({selector.text})") for s in servers) or unavailable(selector, absent)


def unavailable(selector: Selector, absent: set[str]) -> bool:
    base = selector.metric
    for suffix in ("_bucket", "_sum", "_count"):
        base = base.removesuffix(suffix)
    recorded = {r["record"]: r["expr"] for r in rules() if "record" in r}
    if base in recorded:
        return any(unavailable(s, absent) for s in selectors(recorded[base]))
    if base.startswith("kpod_block_io_") and 'container!=""' in selector.text:
        # The kernel's owner of a request is the cgroup of its io controller.
        return "io" not in (cgroup2() / "cgroup.controllers").read_text().split()
    return base in absent or any(text in selector.text for text in NOT_HAPPENED)


def test_every_selector_selects_something(stack: Stack) -> None:
    absent = stack.absent()
    # What no process here can have: controllers that cgroup2 lacks, cuts, kills, old kernels.
    assert not {m for m in absent if m.startswith(PRESENT)}, absent
    nothing = {
        (str(e), s.text)
        for e in every()
        for s in selectors(filled(e))
        if not exists(stack, s, absent)
    }
    assert nothing == set()


@pytest.mark.parametrize("kind", ["classic", "native"])
def test_every_expression_is_understood_and_has_an_answer(stack: Stack, kind: str) -> None:
    server = stack.classic if kind == "classic" else stack.native
    absent = stack.absent()

    def empty() -> list[tuple[str, str]]:
        """Those without an answer that should have one."""
        found = []
        for expression in every():
            text = filled(expression)
            answer = ask(server, text)
            named = selectors(text)
            filters = re.search(r"[<>=] *[-0-9.]+|[<>] ", text)
            if not answer and not filters and not any(unavailable(s, absent) for s in named):
                found.append((str(expression), text))
        return found

    # A rate needs two scrapes, and what is read in threads comes a snapshot later.
    with contextlib.suppress(TimeoutError):
        wait_for("answers", lambda: not empty(), 60)
    assert empty() == []


def test_the_agents_own_series_and_the_pods_keep_apart(stack: Stack) -> None:
    """honorLabels: what a series is about, not who told of it; and the agent's own by node."""
    pods = ask(
        stack.classic, 'sum by (namespace, pod, container) (kpod_cpu_oncpu_seconds_total{pod!=""})'
    )
    names = {
        tuple(found["metric"].get(k, "") for k in ("namespace", "pod", "container"))
        for found in pods
    }
    assert {("shop", "web-0", "web"), ("shop", "web-1", "web")} <= names
    assert "kpod-metrics" not in {namespace for namespace, _, _ in names}
    (up,) = ask(stack.classic, 'up{job=~"(.*/)?kpod-metrics"}')
    assert (up["metric"]["node"], up["metric"]["instance"]) == (NODE, NODE)
    (host,) = ask(stack.classic, 'kpod_cpu_oncpu_seconds_total{scope="host"}')
    assert not {"namespace", "pod", "container"} & host["metric"].keys()
    assert {f["metric"]["node"] for f in ask(stack.classic, "kpod_loader_up")} == {NODE}


def test_answers_are_true(stack: Stack) -> None:
    """Of the ten questions, those whose answer the workload decides."""
    two = 'sum by (pod) (rate(kpod_cpu_oncpu_seconds_total{namespace="shop"}[10s]))'
    for found in ask(stack.classic, two):
        assert 0.05 < float(found["value"][1]) <= 2
    failures = ask(
        stack.classic, 'sum by (pod) (rate(kpod_process_exits_total{outcome="failure"}[10s])) > 0'
    )
    assert {"web-0", "web-1"} <= {found["metric"].get("pod") for found in failures}
    (owner,) = ask(
        stack.native, 'histogram_count(kpod_tcp_rtt_seconds{pod="web-0", container="web"}) > 0'
    )
    assert owner["metric"]["namespace"] == "shop"
    assert ask(stack.classic, 'kpod_tcp_rtt_seconds_bucket{pod="web-0", le="+Inf"} > 0')

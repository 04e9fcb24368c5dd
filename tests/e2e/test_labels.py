"""Prometheus scrapes the agent as a target in the cluster: only its own series are its own."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import PROMETHEUS, aggregator, prometheus, scrape_of
from tests.e2e.test_pods import Cluster
from tests.kubernetes.server import NODE, kubeconfig
from tests.live import HOG, LOADER, Cgroup, Worker, loader, wait_for

UID = "0000def0-1111-2222-3333-444444444444"
ID = "ab" * 32
# As the service discovery of Kubernetes gives them to the agent's own pod.
AGENT = {"namespace": "monitoring", "pod": "kpod-agent-x", "container": "aggregator", "node": "n9"}
ONCPU = "kpod_cpu_oncpu_seconds_total"
SOFTIRQS = "kpod_softirq_duration_seconds_count"
WHOSE = ("namespace", "pod", "container")


def loaders_families() -> tuple[str, ...]:
    tables = json.loads(subprocess.check_output([LOADER, "schema"]))["tables"]
    return tuple(column["name"] for table in tables for column in table["columns"])


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.mark.skipif(not PROMETHEUS.exists(), reason="needs Debian's Prometheus: make setup-test")
@pytest.mark.parametrize("honor", [True, False])
def test_nothing_is_the_agents(
    tmpfs: Path, tmp_path: Path, cgroups: Cgroup, cluster: Cluster, honor: bool
) -> None:
    container = cgroups.below(f"kubepods/burstable/pod{UID}/{ID}")
    beside = cgroups.below(f"kubepods/burstable/pod{UID}")
    unit = cgroups.child("cron.service")
    cluster.event("ADDED", UID, "web-0", {"web": ID})
    config = kubeconfig(tmpfs, cluster.server.url)
    config.chmod(0o644)
    options = ("--pods", "api", "--node", NODE, "--kubeconfig", str(config))
    with (
        loader(tmpfs, "--collectors", "cpu,softirqs") as running,
        aggregator(tmpfs, *options) as served,
    ):
        for cgroup in (container, beside, unit):
            hog = Worker(cgroup, HOG.format(seconds=0.1))
            hog.go()
            hog.stopped()
        running.fresh()
        scrape = scrape_of(served, honor_labels=honor)
        scrape["static_configs"][0]["labels"] = AGENT
        with prometheus(tmp_path, scrape) as prom:
            wait_for("a scrape", lambda: len(prom.query(f"count by (scope) ({ONCPU})")) >= 4, 60)
            whose = ",".join(WHOSE)
            found = prom.query(f"count by (scope,exported_pod,{whose}) ({ONCPU})")
            node = prom.query(f"count by ({whose}) ({SOFTIRQS})")
            summed = prom.query(f"sum by (namespace, pod) ({ONCPU})")
            own = prom.query(f'count by (__name__) ({{pod="{AGENT["pod"]}"}})')
    by_scope = {dict(labels)["scope"]: dict(labels) for labels in found}
    assert by_scope.keys() >= {"host", "unit", "pod", "container"}
    agent = {name: AGENT[name] for name in WHOSE}
    if honor:  # as the shipped configuration has it
        pod = {"namespace": "shop", "pod": "web-0"}
        assert by_scope["container"] == {"scope": "container", "container": "web", **pod}
        assert by_scope["pod"] == {"scope": "pod", **pod}
        assert by_scope["host"] == {"scope": "host"}
        assert by_scope["unit"] == {"scope": "unit"}
        assert [dict(labels) for labels in node] == [{}]
        said = {v for labels in (*found, *node) for _, v in labels}
        assert not said & set(AGENT.values()), json.dumps(sorted(said))
        assert {frozenset(labels) for labels in summed} == {frozenset(), frozenset(pod.items())}
        # The agent's own are what it says of itself; none is of those that the loader makes.
        names = {dict(labels)["__name__"] for labels in own}
        assert "kpod_scrapes_total" in names
        assert not {n for n in names if n.startswith(loaders_families())}
    else:  # then ours are called exported_…, and nobody else's are
        assert by_scope["container"] == {"scope": "container", "exported_pod": "web-0", **agent}
        assert by_scope["host"] == {"scope": "host", **agent}

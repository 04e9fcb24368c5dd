"""Rules, dashboards and query pages: each alert fires and stays silent, and nothing is named that
is not there. The oracles are promtool, a PromQL parser and the schema the loader gives."""

import json
import re
import subprocess
import sys
import time
from functools import cache

import pytest
import yaml

from aggregator.pods.names import Names
from aggregator.pods.podinfo import FAMILIES, SourceCollector
from aggregator.pods.table import PodTable
from aggregator.segment.store import Store
from aggregator.selfmetrics import SelfMetrics
from tests.deploy.expressions import (
    DASHBOARDS,
    RULES,
    Expression,
    every,
    grouping,
    rules,
    selectors,
)
from tests.e2e.stack import PROMTOOL
from tests.live import LOADER, ROOT

# Of every series of a slot (docs/metrics.md, README "Pods"), of each target, and of Prometheus.
OWNER = {"scope", "namespace", "pod", "container", "node", "pod_uid", "container_id", "cgroup_id"}
NAMED = OWNER | {"unit", "machine"}  # of an owner that a row names, each with the key's before it
TARGET = {"job", "instance", "node"}
ALERTS = [rule for rule in rules() if "alert" in rule]


class Source:
    """Of pods: one that has not asked yet."""

    def __init__(self) -> None:
        self.table = PodTable(time.monotonic_ns)
        self.synced, self.last_sync = False, 0.0
        self.requests, self.events, self.errors = {"list": 1}, {"ADDED": 1}, {"403": 1}


def test_nothing_leans_on_ids() -> None:
    """They are on series only where names are not enough, so a sum or a join by them is wrong
    (docs/decisions/0012-identity-labels.md). What has no name has its ids.
    """
    for expression in every():
        if re.search(r"pod_uid|container_id", expression.text):
            assert 'pod=""' in expression.text, expression


@cache
def known() -> dict[str, set[str]]:
    """The labels of every metric that there is."""
    text = subprocess.check_output([LOADER, "schema", "--profile", "comprehensive"], text=True)
    schema = json.loads(text)
    found: dict[str, set[str]] = {"up": TARGET}
    for table in schema["tables"]:
        keys = {key["label"] for key in table["keys"] if not key["owner"]}
        for key in table["keys"]:
            if key["owner"]:
                keys |= {f"{key['label']}_{label}" for label in NAMED}
        owner = OWNER if table["scope"] == "slot" else TARGET
        for column in table["columns"]:
            labels = found.setdefault(column["name"], set())
            labels |= keys | set(column["labels"]) | owner
            if column["kind"] == "histogram":
                for suffix in ("_bucket", "_sum", "_count"):
                    found[column["name"] + suffix] = labels | {"le"}
    store = Store("/nonexistent", clock=time.monotonic_ns, resolver=lambda _: None)
    own = SelfMetrics(store)
    table = PodTable(time.monotonic_ns)
    own.register(SourceCollector(Source(), Names(table, clock=time.monotonic_ns)))  # type: ignore[arg-type]
    for family in own.collect():
        names = {sample.name for sample in family.samples} | {family.name}
        if family.type == "counter":
            names |= {f"{family.name}_total"}
        for name in names:
            labels = found.setdefault(name, set())
            labels |= TARGET | set(getattr(family, "_labelnames", ()))
            labels |= {label for sample in family.samples for label in sample.labels}
    # These need a segment.
    found["kpod_snapshot_timestamp_seconds"] = TARGET
    found["kpod_series_cut"] = TARGET | {"family"}
    for name in ("kpod_collector_up", "kpod_collector_info"):
        found[name] = TARGET | {"collector", "attach", "reason"}
    found["kpod_loader_info"] = TARGET | {"version", "kernel"}
    for name, _ in FAMILIES:
        found[name] = {*OWNER, "owner_kind", "owner_name"}
    for rule in rules():
        if "record" in rule:
            found[rule["record"]] = grouping(rule["expr"])
    return found


@pytest.mark.parametrize("expression", every(), ids=str)
def test_nothing_is_named_that_is_not_there(expression: Expression) -> None:
    found = selectors(expression.text)
    assert found
    labels = set()
    for selector in found:
        assert selector.metric in known(), f"no metric {selector.metric}"
        assert set(selector.labels) <= known()[selector.metric], selector.text
        labels |= known()[selector.metric]
    assert grouping(expression.text) <= labels


def test_what_is_not_there_would_be_found() -> None:
    assert [s.metric for s in selectors("rate(kpod_gone_total[5m]) > 0")] == ["kpod_gone_total"]
    assert grouping('sum by (a, b) (x) / on (c) group_left (d) y{by="e"}') == {"a", "b", "c", "d"}
    (one,) = selectors('histogram_quantile(0.9, sum by (le) (rate(x_bucket{a="b"}[5m])))')
    assert (one.metric, one.labels) == ("x_bucket", ("a",))


def test_promtool_understands_the_rules() -> None:
    files = [str(path) for path in RULES.glob("*.yaml")]
    subprocess.run([PROMTOOL, "check", "rules", *files], check=True, capture_output=True)


def test_every_alert_fires_and_stays_silent() -> None:
    cases = RULES / "tests/alerts.yaml"
    done = subprocess.run(
        [PROMTOOL, "test", "rules", cases.name], cwd=cases.parent, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    fires: set[str] = set()
    silent: set[str] = set()
    for case in yaml.safe_load(cases.read_text())["tests"]:
        for check in case["alert_rule_test"]:
            (fires if check["exp_alerts"] else silent).add(check["alertname"])
    assert fires == silent == {rule["alert"] for rule in ALERTS}


def test_every_alert_has_a_runbook() -> None:
    for rule in ALERTS:
        page = ROOT / rule["annotations"]["runbook_url"]
        assert page.read_text().startswith(f"# {rule['alert']}\n")
        assert rule["labels"]["severity"] in ("warning", "info")
    pages = {path.stem for path in (ROOT / "docs/runbooks").glob("*.md")}
    assert pages == {rule["alert"] for rule in ALERTS}
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)


def test_dashboards_are_what_the_source_makes() -> None:
    command = [sys.executable, "-m", "deploy.dashboards.make", "--check"]
    subprocess.run(command, check=True, cwd=ROOT)
    uids = set()
    for path in DASHBOARDS.glob("*.json"):
        dashboard = json.loads(path.read_text())
        uids.add(dashboard["uid"])
        variables = {v["name"] for v in dashboard["templating"]["list"]} | {"__rate_interval"}
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            for target in panel.get("targets", ()):
                assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                (metric,) = re.findall(r"label_values\((\w+)", variable["definition"])
                assert metric in known()
    assert len(uids) == 4


def test_ten_questions() -> None:
    assert len([e for e in every() if e.where.startswith("queries.md")]) == 10

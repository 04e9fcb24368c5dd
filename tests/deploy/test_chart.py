"""The chart: what it renders is valid, confined as docs/privileges.md says, and understood.

Oracles: helm itself, the schemas of Kubernetes' API from 1.29 on (kubernetes-validate), the models
of prometheus-operator's (cloudcoil), the Pod Security Standards, and the two programs' own parsers.
"""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from aggregator import cli
from tests.deploy.chart import (
    CHART,
    HELM,
    NEWEST,
    OLDEST,
    VALUES,
    Object,
    baseline_violations,
    container,
    errors,
    helm,
    one,
    pod_of,
    render,
    restricted_violations,
)
from tests.live import LOADER, ROOT

pytestmark = pytest.mark.skipif(not HELM.exists(), reason="no helm: make setup-test (x86-64 only)")

MATRIX = sorted(path.stem for path in VALUES.glob("*.yaml"))
OPERATOR = "monitoring.coreos.com/v1"


@pytest.fixture(scope="module", autouse=True)
def _rendered() -> None:
    """helm takes a third of a second: two at once."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(render, MATRIX))


def test_lint_has_nothing_to_say() -> None:
    said = helm("lint", "--strict", CHART).stdout
    assert "0 chart(s) failed" in said
    assert not re.findall(r"\[(?:WARNING|ERROR)\]", said)
    assert len(MATRIX) >= 30


@pytest.mark.parametrize("values", MATRIX)
def test_every_version_of_kubernetes_takes_it(values: str) -> None:
    objects = render(values)
    ours = [o for o in objects if o["apiVersion"] != OPERATOR]
    assert [e for o in ours for e in errors(o)] == []
    for raw in objects:
        assert raw["metadata"]["labels"]["app.kubernetes.io/instance"] == "kpod-metrics"
        cluster = raw["kind"] in ("ClusterRole", "ClusterRoleBinding", "PriorityClass")
        assert raw["metadata"].get("namespace") == (None if cluster else "kpod-metrics")


def test_the_schemas_refuse_what_is_wrong() -> None:
    """Else the test above could not fail."""
    raw = json.loads(json.dumps(one(render(), "DaemonSet")))
    raw["spec"]["template"]["spec"]["containers"][0]["readOnly"] = True
    assert len(list(errors(raw))) == NEWEST - OLDEST + 1


def test_prometheus_operator_takes_it() -> None:
    from cloudcoil.models.prometheus_operator import v1 as models  # 2 s

    def known(raw: Any, kept: Any) -> None:
        """Nothing was dropped as unknown."""
        if isinstance(raw, dict):
            for key, value in raw.items():
                assert key in kept, f"prometheus-operator knows no {key}"
                known(value, kept[key])
        elif isinstance(raw, list):
            for one, other in zip(raw, kept, strict=True):
                known(one, other)

    kinds = set()
    for values in MATRIX:
        for raw in render(values):
            if raw["apiVersion"] == OPERATOR:
                kinds.add(raw["kind"])
                model = getattr(models, raw["kind"]).model_validate(raw)
                known(raw["spec"], model.model_dump(by_alias=True)["spec"])
    assert kinds == {"PodMonitor", "ServiceMonitor", "PrometheusRule"}


@pytest.mark.parametrize("values", MATRIX)
def test_it_is_as_privileged_as_documented(values: str) -> None:
    objects = render(values)
    pod = pod_of(objects)
    more = {"host-pid": {"hostPID"}, "security-profiles": {"seLinuxOptions"}}.get(values, set())
    assert baseline_violations(pod) == {"hostPath", "capabilities"} | more
    assert restricted_violations(pod, container(objects, "aggregator")) == set()

    loader = container(objects, "loader")
    documented = (ROOT / "docs/privileges.md").read_text().partition("## Aggregator")[0]
    known = set(re.findall(r"(?m)^\| CAP_(\w+) ", documented))
    added = set(loader["securityContext"]["capabilities"]["add"])
    without = {
        "minimal": {"SYS_PTRACE", "DAC_READ_SEARCH", "NET_ADMIN"},
        "collectors": {"NET_ADMIN"},
        "collectors-no-filesystem": {"SYS_PTRACE", "DAC_READ_SEARCH", "NET_ADMIN"},
        "no-governor": {"SYS_ADMIN"},
    }
    assert added == known - without.get(values, set())
    for one_ in (loader, container(objects, "aggregator")):
        context = one_["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"]["drop"] == ["ALL"]
    writable = [m["name"] for m in loader["volumeMounts"] if not m.get("readOnly")]
    assert writable == ["segment"]
    mounts = container(objects, "aggregator")["volumeMounts"]
    assert all(m["readOnly"] for m in mounts)
    assert pod["automountServiceAccountToken"] is False
    assert "token" not in [m["name"] for m in loader["volumeMounts"]], "no token for the loader"


@pytest.mark.parametrize("values", MATRIX)
def test_both_programs_understand_their_arguments(
    values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = render(values)
    command, *loader = container(objects, "loader")["args"]
    assert command == "run"
    done = subprocess.run([LOADER, "schema", *loader], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("NODE_NAME", "node-a")
    options = cli.arguments(container(objects, "aggregator")["args"])
    segment = next(v for v in pod_of(objects)["volumes"] if v["name"] == "segment")["emptyDir"]
    assert segment["medium"] == "Memory"
    rings = [int(a.partition("=")[2]) for a in loader if a.startswith("--ring-max=")]
    assert int(segment["sizeLimit"].removesuffix("Mi")) << 20 > 2 * (rings or [256 << 20])[0]

    # Rights and the token go with where names come from.
    roles = [o for o in objects if o["kind"] == "ClusterRole"]
    token = [v for v in pod_of(objects)["volumes"] if v["name"] == "token"]
    assert bool(token) == bool(roles) == (options.pods != "none")
    if roles:
        (rule,) = roles[0]["rules"]
        assert rule["resources"][0] == {"api": "pods", "kubelet": "nodes/pods"}[options.pods]


def test_the_kubelet_is_asked_with_the_least_right_its_version_has() -> None:
    def resources(values: str, minor: int) -> list[str]:
        found: list[str] = one(render(values, minor=minor), "ClusterRole")["rules"][0]["resources"]
        return found

    assert resources("kubelet", 32) == ["nodes/pods", "nodes/proxy"]
    assert resources("kubelet", 33) == ["nodes/pods"]
    assert resources("kubelet-proxy", 33) == ["nodes/pods", "nodes/proxy"]
    assert resources("kubelet-no-proxy", 32) == ["nodes/pods"]


def test_every_option_is_a_value() -> None:
    """Of both programs; deploy/helm/options.py says which are not, and why."""
    subprocess.run(
        [sys.executable, "-m", "deploy.helm.options", str(LOADER), "--check"], check=True, cwd=ROOT
    )
    set_somewhere = set()
    for values in MATRIX:
        raw = yaml.safe_load((VALUES / f"{values}.yaml").read_text())
        for program in ("loader", "aggregator"):
            set_somewhere |= {
                (program, option) for option in raw.get(program, {}).get("options", {})
            }
    known = yaml.safe_load((CHART / "values.yaml").read_text())
    every = {(p, o) for p in ("loader", "aggregator") for o in known[p]["options"]}
    assert set_somewhere == every, "the matrix has each"


BAD = {
    "loader: {options: {interval: 0}}": "'/loader/options/interval': minimum: got 0, want 0.01",
    "loader: {options: {profile: everything}}": "'/loader/options/profile': value must be one of",
    "loader: {options: {intervall: 5}}": "additional properties 'intervall' not allowed",
    "loader: {options: {collectors: 'cpu,exec'}}": "'/loader/options/collectors'",
    "loader: {options: {collectors: ['cpu,exec']}}": "'/loader/options/collectors/0'",
    "loader: {securityContext: {privileged: true}}": "'/loader/securityContext/privileged'",
    "aggregator: {securityContext: {runAsUser: 0}}": "'/aggregator/securityContext/runAsUser'",
    "aggregator: {options: {otlp-endpoint: 'ftp://a'}}": "'/aggregator/options/otlp-endpoint'",
    "aggregator: {options: {histogram: ['kpod_*=fine']}}": "'/aggregator/options/histogram/0'",
    "aggregator: {options: {max-series: -1}}": "minimum: got -1, want 0",
    "aggregator: {port: 0}": "'/aggregator/port': minimum: got 0, want 1",
    "aggregator: {listenAddress: '::'}": "'/aggregator/listenAddress'",
    "podMonitor: {enabled: sometimes}": "'/podMonitor/enabled': value must be one of",
    "podMonitor: {interval: 15}": "'/podMonitor/interval': got number, want string",
    "podMonitor: {endpoint: {honorLabels: false}}": "'/podMonitor/endpoint/honorLabels'",
    "image: {loader: {digest: latest}}": "'/image/loader/digest'",
    "hostNetwork: true": "additional properties 'hostNetwork' not allowed",
}


@pytest.mark.parametrize("values", BAD)
def test_bad_values_are_refused_by_name(values: str, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(values)
    done = helm("template", "a", CHART, f"--values={tmp_path}/values.yaml", check=False)
    assert done.returncode
    assert BAD[values] in done.stderr


def test_the_api_of_prometheus_operator_is_used_where_it_is() -> None:
    def kinds(**more: bool) -> set[str]:
        return {o["kind"] for o in render("default", **more) if o["apiVersion"] == OPERATOR}

    assert kinds(operator=True) == {"PodMonitor", "PrometheusRule"}
    assert kinds(operator=False) == set()
    monitor = one(render("pod-monitor"), "PodMonitor")["spec"]["podMetricsEndpoints"][0]
    assert monitor["honorLabels"] is True


def test_network_policy_lets_out_what_it_needs() -> None:
    def egress(values: str) -> list[int | str]:
        rules: list[Object] = one(render(values), "NetworkPolicy")["spec"]["egress"]
        return [port["port"] for rule in rules for port in rule["ports"]]

    assert egress("network-closed") == [53, 53, 443, 6443]
    assert egress("network-closed-kubelet-otlp") == [53, 53, 10250, 443]
    assert egress("network-closed-no-names") == []
    assert "egress" not in one(render(), "NetworkPolicy")["spec"]


def test_secrets_stay_secret_and_roll_the_pods() -> None:
    objects = render("otlp")
    headers = one(objects, "Secret")["stringData"]["OTEL_EXPORTER_OTLP_HEADERS"]
    from aggregator.push.otlp import headers as parse

    assert dict(parse(headers))["authorization"] == "Bearer a b,c"
    rest = [o for o in objects if o["kind"] != "Secret"]
    assert "Bearer" not in json.dumps(rest)
    template = one(objects, "DaemonSet")["spec"]["template"]["metadata"]
    assert re.fullmatch("[0-9a-f]{64}", template["annotations"]["checksum/otlp"])


def test_the_test_pod_is_no_pod_of_the_daemonset() -> None:
    objects = render()
    labels = one(objects, "Pod")["metadata"]["labels"].items()
    selector = one(objects, "DaemonSet")["spec"]["selector"]["matchLabels"].items()
    assert not selector <= labels


def test_it_packs(tmp_path: Path) -> None:
    """What a release ships renders the same: files that are links in the tree are in it."""
    helm("package", CHART, "--destination", tmp_path)
    (packed,) = tmp_path.glob("kpod-metrics-*.tgz")
    values = f"--values={VALUES}/default.yaml"
    arguments = (f"--kube-version=1.{NEWEST}.0", f"--api-versions={OPERATOR}", values)
    done = helm("template", "kpod-metrics", packed, "--namespace=kpod-metrics", *arguments)
    assert [o for o in yaml.safe_load_all(done.stdout) if o] == render()

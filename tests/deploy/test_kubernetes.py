"""`kubectl apply -k`: in step with the chart, and what kubectl makes of it is valid."""

import os
import subprocess
import sys

import pytest
import yaml

from tests.deploy.chart import HELM, KUBECTL, Object, errors, one, pod_of, render
from tests.live import ROOT

pytestmark = pytest.mark.skipif(not HELM.exists(), reason="no helm: make setup-test (x86-64 only)")


def kustomize(directory: str) -> list[Object]:
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    command = [str(KUBECTL), "kustomize", str(ROOT / "deploy/kubernetes" / directory)]
    return list(yaml.safe_load_all(subprocess.check_output(command, text=True, env=env)))


def test_in_step_with_the_chart() -> None:
    command = [sys.executable, "-m", "deploy.kubernetes.render", str(HELM), "--check"]
    subprocess.run(command, check=True, cwd=ROOT)


def test_what_is_applied_is_valid_and_the_charts() -> None:
    objects = kustomize(".")
    assert [e for o in objects for e in errors(o)] == []
    assert pod_of(objects) == pod_of(render())
    labels = one(objects, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"
    for raw in objects:
        assert raw["metadata"].get("namespace", "kpod-metrics") == "kpod-metrics"


def test_monitoring_has_what_the_operator_reads() -> None:
    assert {o["kind"] for o in kustomize("monitoring")} == {"PodMonitor", "PrometheusRule"}

"""The chart as helm renders it, and what Kubernetes says of that, without a cluster."""

import json
import os
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from referencing import Registry, Resource

from tests.live import ROOT

HELM = ROOT / ".cache/deploy/helm"
KUBECTL = ROOT / ".cache/deploy/kubectl"
CHART = ROOT / "deploy/helm/kpod-metrics"
VALUES = ROOT / "tests/deploy/values"
OLDEST, NEWEST = 29, 37  # minor versions of Kubernetes, of the chart's and of kubernetes-validate
Object = dict[str, Any]


def helm(*arguments: str | Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
    # Nothing of the user's own settings.
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    done = subprocess.run([HELM, *arguments], capture_output=True, text=True, check=False, env=env)
    assert not check or done.returncode == 0, done.stderr
    return done


@cache
def render(values: str = "default", *, minor: int = NEWEST, operator: bool = True) -> list[Object]:
    """The objects of one of tests/deploy/values."""
    more = ["--api-versions=monitoring.coreos.com/v1"] if operator else []
    done = helm(
        *("template", "kpod-metrics", CHART, "--namespace=kpod-metrics"),
        *(f"--values={VALUES / values}.yaml", f"--kube-version=1.{minor}.0", *more),
    )
    return [o for o in yaml.safe_load_all(done.stdout) if o]


def one(objects: list[Object], kind: str) -> Object:
    (found,) = (o for o in objects if o["kind"] == kind)
    return found


def pod_of(objects: list[Object]) -> Object:
    spec: Object = one(objects, "DaemonSet")["spec"]["template"]["spec"]
    return spec


def container(objects: list[Object], name: str) -> Object:
    found: Object = next(c for c in pod_of(objects)["containers"] if c["name"] == name)
    return found


@cache
def _schemas(minor: int) -> tuple[Path, "Registry[Any]"]:
    packed = files("kubernetes_validate") / f"kubernetes-json-schema/v1.{minor}.0-local-strict"
    directory = Path(str(packed))
    text = (directory / "_definitions.json").read_text()
    registry: Registry[Any] = Resource.from_contents(json.loads(text)) @ Registry()
    return directory, registry


@cache
def _validator(minor: int, api: str, kind: str) -> Any:
    directory, registry = _schemas(minor)
    group, _, version = api.rpartition("/")
    name = "-".join(part for part in (kind.lower(), group.partition(".")[0], version) if part)
    schema = json.loads((directory / f"{name}.json").read_text())
    return jsonschema.Draft202012Validator(
        schema, registry=Resource.from_contents(schema) @ registry
    )


@cache
def _errors(minor: int, text: str) -> tuple[str, ...]:
    raw = json.loads(text)
    found = _validator(minor, raw["apiVersion"], raw["kind"]).iter_errors(raw)
    return tuple(f"1.{minor} {raw['kind']} {e.json_path}: {e.message[:300]}" for e in found)


def errors(raw: Object) -> Iterator[str]:
    """What each version of Kubernetes would refuse in an object of its own API."""
    for minor in range(OLDEST, NEWEST + 1):
        yield from _errors(minor, json.dumps(raw, sort_keys=True))


# ---- Pod Security Standards, as kubernetes.io/docs/concepts/security/pod-security-standards -----

BASELINE_CAPABILITIES = {
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"),
    *("NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
}
SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
RESTRICTED_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"),
    *("projected", "secret"),
}


def baseline_violations(pod: Object) -> set[str]:
    """Controls of the baseline standard that the pod does not meet."""
    found = {n for n in ("hostNetwork", "hostPID", "hostIPC") if pod.get(n)}
    if any("hostPath" in v for v in pod["volumes"]):
        found.add("hostPath")
    everywhere = [*pod["containers"], *pod.get("initContainers", ())]
    for context in (pod.get("securityContext", {}), *(c["securityContext"] for c in everywhere)):
        if context.get("privileged"):
            found.add("privileged")
        if set(context.get("capabilities", {}).get("add", ())) - BASELINE_CAPABILITIES:
            found.add("capabilities")
        if context.get("seLinuxOptions", {}).get("type", "") not in SELINUX:
            found.add("seLinuxOptions")
        if context.get("seccompProfile", {}).get("type") == "Unconfined":
            found.add("seccompProfile")
        if context.get("appArmorProfile", {}).get("type") == "Unconfined":
            found.add("appArmorProfile")
        if context.get("procMount", "Default") != "Default" or context.get("sysctls"):
            found.add("procMount or sysctls")
    if any("hostPort" in port for c in everywhere for port in c.get("ports", ())):
        found.add("hostPort")
    return found


def restricted_violations(pod: Object, one: Object) -> set[str]:
    """The same of the restricted standard, for one container and the volumes it mounts."""
    context = {**pod.get("securityContext", {}), **one["securityContext"]}
    mounted = {m["name"] for m in one.get("volumeMounts", ())}
    found = set()
    for volume in pod["volumes"]:
        if volume["name"] in mounted and not set(volume) - {"name"} <= RESTRICTED_VOLUMES:
            found.add(volume["name"])
    if context.get("allowPrivilegeEscalation") is not False:
        found.add("allowPrivilegeEscalation")
    if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
        found.add("runAsNonRoot")
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        found.add("seccompProfile")
    capabilities = context.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
        found.add("capabilities")
    return found

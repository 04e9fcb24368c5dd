"""The two containers of the rendered DaemonSet, run by runc exactly as the manifest says.

What a kubelet would do is done from the manifest: command lines, environment, users, capabilities,
no_new_privs, the runtime's default seccomp profile (Podman's and Docker's, from containers-common),
read-only roots, volumes. What it cannot be without a kubelet: the pod's network is the machine's
for the aggregator, and none for the loader; memory limits are compared, not set.
"""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.deploy.chart import Object
from tests.e2e.stack import remove_cgroups
from tests.live import ROOT, wait_for

STATIC = ROOT / "build/kpod-loader-static"
SECCOMP = ROOT / ".cache/containers-common/usr/share/containers/seccomp.json"
ARCHITECTURES = {"x86_64": ("amd64", "SCMP_ARCH_X86_64"), "aarch64": ("arm64", "SCMP_ARCH_AARCH64")}
ALL = ("bounding", "effective", "permitted")  # as containerd sets them: nothing to inherit
PATHS = ("/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys")


# Kubelets' roots of this process's own: another run of the tests on this machine has others. A
# container each, as runc_container() removes all that is below it.
NODE_ROOTS = [f"/kpod-test-node-{os.getpid()}-{i}" for i in range(2)]


def kubelets(uid: str, cid: str, root: int = 0) -> str:
    """The cgroup of a container, by the systemd driver."""
    slice_ = f"kubepods-burstable-pod{uid.replace('-', '_')}.slice"
    below = f"kubepods.slice/kubepods-burstable.slice/{slice_}/cri-containerd-{cid}.scope"
    return f"{NODE_ROOTS[root]}/{below}"


def entrypoint(name: str) -> list[str]:
    text = (ROOT / f"deploy/images/{name}.Dockerfile").read_text()
    found: list[str] = json.loads(re.findall(r"(?m)^ENTRYPOINT (.*)$", text)[-1])
    return found


def loader_root(directory: Path) -> Path:
    """The image's files, made of this tree."""
    directory.mkdir()
    shutil.copy(STATIC, directory / "kpod-loader")
    subprocess.run(["strip", directory / "kpod-loader"], check=True)
    return directory


def packages_into(directory: Path) -> None:
    """What the aggregator's image has of packages, as this environment has them."""
    names = (ROOT / "deploy/images/run.txt").read_text()
    for name in re.findall(r"(?m)^([^#\s=]+)==", names):
        distribution = metadata.distribution(name)
        for file in distribution.files or ():
            source = Path(str(distribution.locate_file(file)))
            if ".." in file.parts or "__pycache__" in file.parts or "aio" in file.parts[:2]:
                continue
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, directory / file)


def aggregator_root(directory: Path) -> Path:
    """The same: assembled as in the image, of the packages that this environment has."""
    packages = directory.parent / "venv/lib/python3/site-packages"
    packages_into(packages)
    shutil.copytree(
        ROOT / "aggregator", packages / "aggregator", ignore=shutil.ignore_patterns("__pycache__")
    )
    # Debian's interpreter, as in the image: in a virtual environment it would find that one's.
    python = os.path.realpath(sys.executable)
    assemble: list[str | Path] = [python, "-I", ROOT / "deploy/images/assemble.py"]
    subprocess.run(
        [*assemble, directory.parent / "venv", directory],
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    return directory


def seccomp(capabilities: set[str]) -> dict[str, Any]:
    """The default profile for a container with these, as runc takes it."""
    profile = json.loads(SECCOMP.read_text())
    here, architecture = ARCHITECTURES[platform.machine()]

    def meant(call: dict[str, Any]) -> bool:
        yes, no = call.get("includes") or {}, call.get("excludes") or {}
        return (
            set(yes.get("caps", ())) <= capabilities
            and not set(no.get("caps", ())) & capabilities
            and here in yes.get("arches", [here])
            and here not in no.get("arches", ())
        )

    kept = ("names", "action", "args", "errnoRet")
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile.get("defaultErrnoRet", 1),
        "architectures": [architecture],
        "syscalls": [
            {key: call[key] for key in kept if call.get(key)}
            for call in profile["syscalls"]
            if meant(call)
        ],
    }


@dataclass
class Container:
    """One that runs; `start` again after `kill`, as a kubelet would."""

    name: str
    id: str
    bundle: Path
    log: Path
    command: list[str]
    _runc: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._runc = subprocess.Popen(
                ["runc", "run", "--no-new-keyring", self.id],
                cwd=self.bundle,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        ended = self._runc.poll
        wait_for(f"container {self.name}", lambda: self.pid or ended() is not None)
        assert self.pid, self.text

    @property
    def text(self) -> str:
        return self.log.read_text()

    @property
    def pid(self) -> int:
        done = subprocess.run(
            ["runc", "state", self.id], capture_output=True, text=True, check=False
        )
        state = json.loads(done.stdout) if done.returncode == 0 else {}
        return int(state.get("pid", 0)) if state.get("status") == "running" else 0

    def status(self, key: str) -> str:
        text = Path(f"/proc/{self.pid}/status").read_text()
        found: list[str] = re.findall(rf"(?m)^{key}:\s+(.*)$", text)
        return found[0]

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """As a probe, or `kubectl exec`, does."""
        return subprocess.run(
            ["runc", "exec", self.id, *command], capture_output=True, text=True, check=False
        )

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)
        assert self._runc
        self._runc.wait(30)
        subprocess.run(["runc", "delete", "--force", self.id], check=False, capture_output=True)

    def end(self) -> None:
        subprocess.run(["runc", "delete", "--force", self.id], check=False, capture_output=True)
        if self._runc:
            self._runc.wait(30)


def spec(
    pod: Object,
    name: str,
    rootfs: Path,
    volumes: dict[str, Path],
    environment: dict[str, str],
    fields: dict[str, str],
    cgroup: str,
) -> dict[str, Any]:
    """What containerd would make of one container of the manifest."""
    (one,) = (c for c in pod["containers"] if c["name"] == name)
    context = {**pod.get("securityContext", {}), **one["securityContext"]}
    capabilities = {f"CAP_{c}" for c in context["capabilities"].get("add", ())}
    assert context["capabilities"]["drop"] == ["ALL"]
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    variables = dict(environment)
    for variable in one.get("env", ()):
        path = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        variables[variable["name"]] = fields[path] if path else variable["value"]
    namespaces = ["mount", "ipc", "uts"]
    if not pod.get("hostPID"):
        namespaces.append("pid")
    if name == "loader":
        namespaces.append("network")
    mounts = [m for m in json.loads(_default_spec())["mounts"] if m["destination"] in PATHS]
    for mount in one["volumeMounts"]:
        mode = ["ro"] if mount.get("readOnly") else ["rw"]
        options = ["rbind", "rprivate", *mode]
        source = str(volumes[mount["name"]])
        mounts.append(
            {"destination": mount["mountPath"], "type": "bind", "source": source}
            | {"options": options}
        )
    return {
        "ociVersion": "1.0.2",
        "hostname": "kpod",
        "root": {"path": str(rootfs), "readonly": context["readOnlyRootFilesystem"]},
        "mounts": mounts,
        "process": {
            "terminal": False,
            "cwd": "/",
            "user": {"uid": context["runAsUser"], "gid": context["runAsGroup"]},
            "args": [*one.get("command", entrypoint(name)), *one.get("args", ())],
            "env": [f"{key}={value}" for key, value in variables.items()],
            "capabilities": {kind: sorted(capabilities) for kind in ALL},
            "noNewPrivileges": not context["allowPrivilegeEscalation"],
        },
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in namespaces],
            "seccomp": seccomp(capabilities),
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
        },
    }


def _default_spec() -> str:
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["runc", "spec"], cwd=directory, check=True)
        return (Path(directory) / "config.json").read_text()


@contextmanager
def running(
    pod: Object,
    directory: Path,
    roots: dict[str, Path],
    volumes: dict[str, Path],
    *,
    environment: dict[str, str],
    fields: dict[str, str],
) -> Iterator[dict[str, Container]]:
    """Both containers, started in the manifest's order."""
    top = f"kpod-test-{os.getpid()}-{time.monotonic_ns()}"
    made: dict[str, Container] = {}
    try:
        for one in pod["containers"]:
            name = one["name"]
            bundle = directory / f"bundle-{name}"
            bundle.mkdir()
            cgroup = f"/{top}/kubepods/burstable/pod{'a' * 8}-1111-2222-3333-{'b' * 12}/"
            cgroup += f"{'c' * 63}{len(made)}"
            made_spec = spec(pod, name, roots[name], volumes, environment, fields, cgroup)
            (bundle / "config.json").write_text(json.dumps(made_spec))
            container = Container(
                name,
                f"{top}-{name}",
                bundle,
                directory / f"{name}.log",
                made_spec["process"]["args"],
            )
            made[name] = container
            container.start()
        yield made
    finally:
        for container in reversed(made.values()):
            with suppress(Exception):
                container.end()
        remove_cgroups(top)

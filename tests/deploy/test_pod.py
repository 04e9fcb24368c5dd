"""The rendered manifest, run: images' files, users, capabilities, seccomp, mounts, both containers.

Truths: the collectors that this kernel has are up, a pod beside is named by the API server, what
the aggregator may not do fails, and killing either container is survived.
"""

import errno
import json
import os
import signal
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy import test_images
from tests.deploy.chart import HELM, container, pod_of, render
from tests.deploy.pod import (
    NODE_ROOTS,
    SECCOMP,
    STATIC,
    Container,
    aggregator_root,
    kubelets,
    loader_root,
    running,
)
from tests.e2e.stack import Aggregator, runc_container
from tests.e2e.test_pods import BURN, Cluster
from tests.kernel.test_privileges import NUMBERS
from tests.kubernetes.server import NODE, certificate
from tests.live import missing, wait_for

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing() or "no kernel"),
    pytest.mark.skipif(not HELM.exists(), reason="no helm: make setup-test (x86-64 only)"),
]
ONCPU = "kpod_cpu_oncpu_seconds_total"
# Of this process: another run of the tests on this machine has others.
UID = f"{os.getpid():08x}-1111-2222-3333-444444444444"
ID = f"{os.getpid():064x}"
CONTAINERS = ("loader", "aggregator")
TOKEN = "the-pods-token"


@dataclass
class Agent:
    """The pod."""

    loader: Container
    aggregator: Container
    url: str
    cluster: Cluster

    def get(self, where: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + where, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def series(self, name: str, **labels: str) -> dict[frozenset[tuple[str, str]], float]:
        return Aggregator(self.url, None).series(name, **labels)  # type: ignore[arg-type]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    assert STATIC.exists(), "make build/kpod-loader-static"
    assert SECCOMP.exists(), "make setup-test"
    directory = tmp_path_factory.mktemp("pod")
    objects = json.loads(json.dumps(render()))
    pod = pod_of(objects)
    port = free_port()  # the network is the machine's: 9090 may be taken
    for one in pod["containers"]:
        one["args"] = [a.replace(":9090", f":{port}") for a in one["args"]]
    # Not to wait so long; and pods are below a directory of the test's own.
    container(objects, "loader")["args"] += ["--interval=1", f"--cgroup-root={NODE_ROOTS[0]}"]
    with ExitStack() as stack:
        if test_images.IMAGES:
            roots = {name: stack.enter_context(test_images.root(name)) for name in CONTAINERS}
        else:
            roots = {
                "loader": loader_root(directory / "loader"),
                "aggregator": aggregator_root(directory / "aggregator"),
            }
        segment = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        segment.chmod(0o777)  # as a kubelet makes an emptyDir
        ca, tls = certificate(directory)
        cluster = Cluster(tls)
        stack.callback(cluster.close)
        cluster.server.tokens = {TOKEN}
        token = directory / "token"
        token.mkdir()
        (token / "token").write_text(TOKEN)
        (token / "ca.crt").write_text(ca.read_text())
        (token / "namespace").write_text("kpod-metrics")
        host, _, api = cluster.server.url.partition("//")[2].partition(":")
        volumes = {
            "segment": segment,
            "token": token,
            **{v["name"]: Path(v["hostPath"]["path"]) for v in pod["volumes"] if "hostPath" in v},
        }
        made = stack.enter_context(
            running(
                pod,
                directory,
                roots,
                volumes,
                environment={
                    "PATH": "/usr/bin",
                    "KUBERNETES_SERVICE_HOST": host,
                    "KUBERNETES_SERVICE_PORT": api,
                },
                fields={"spec.nodeName": NODE},
            )
        )
        found = Agent(made["loader"], made["aggregator"], f"http://127.0.0.1:{port}", cluster)
        wait_for(f"a ready pod: {made['aggregator'].text}", found.ready, 60)
        yield found


def test_every_collector_is_up_and_a_pod_has_its_names(agent: Agent, tmp_path: Path) -> None:
    from tests.conftest import of_this_kernel

    up = {dict(k)["collector"]: v for k, v in agent.series("kpod_collector_up").items()}
    without = {name for name, value in up.items() if not value}
    assert without == {n for n in up if n in of_this_kernel() and not of_this_kernel()[n][0]}
    assert len(up) > 10

    agent.cluster.event("ADDED", UID, "web-0", {"web": ID})
    with runc_container(
        tmp_path,
        kubelets(UID, ID),
        *("/usr/bin/python3", "-S", "-c", BURN.format(0.5) + "time.sleep(600)\n"),
    ) as out:
        spent = float(wait_for("the container's work", out.read_text, 60))

        def named() -> dict[frozenset[tuple[str, str]], float]:
            found = agent.series(ONCPU, namespace="shop", pod="web-0", container="web", node=NODE)
            return found if found and next(iter(found.values())) >= spent - 0.01 else {}

        series = wait_for("its series", named, 30)
        assert len(series) == 1, [(sorted(s), v) for s, v in series.items()]
        (value,) = series.values()
        assert value <= spent + 1
    assert all(
        r.headers["authorization"].lower() == f"bearer {TOKEN}"
        for r in agent.cluster.server.requests
    )


def test_both_are_confined_as_the_manifest_says(agent: Agent) -> None:
    for one, uid in ((agent.loader, "0"), (agent.aggregator, "65534")):
        assert one.status("Uid").split() == [uid] * 4
        assert one.status("NoNewPrivs") == "1"
        assert one.status("Seccomp") == "2"
        assert int(one.status("CapInh"), 16) == int(one.status("CapAmb"), 16) == 0
    wanted = container(render(), "loader")["securityContext"]["capabilities"]["add"]
    bits = sum(1 << NUMBERS[f"CAP_{name}"] for name in wanted)
    assert int(agent.loader.status("CapBnd"), 16) == bits
    assert int(agent.aggregator.status("CapBnd"), 16) == 0


def test_the_aggregator_cannot_write_the_segment_or_its_root(agent: Agent) -> None:
    code = """import os
for path, flags in (("/run/kpod/segment", os.O_RDWR), ("/run/kpod/new", os.O_CREAT | os.O_WRONLY),
                    ("/new", os.O_CREAT | os.O_WRONLY)):
    try:
        os.open(path, flags)
        print("opened", path)
    except OSError as error:
        print(error.errno)
"""
    done = agent.aggregator.run("/usr/bin/python3", "-I", "-c", code)
    # The segment's mode refuses it before the mount does.
    refused = [errno.EACCES, errno.EROFS, errno.EROFS]
    assert done.stdout.split() == list(map(str, refused)), done.stdout + done.stderr


def test_neither_image_has_a_shell_a_compiler_or_pip(agent: Agent) -> None:
    for one in (agent.loader, agent.aggregator):
        for program in ("/bin/sh", "/usr/bin/gcc", "/usr/bin/pip"):
            assert one.run(program).returncode != 0
    done = agent.aggregator.run("/usr/bin/python3", "-I", "-c", "import pip")
    assert "No module named 'pip'" in done.stderr
    assert (
        agent.loader.run(
            *container(render(), "loader")["livenessProbe"]["exec"]["command"]
        ).returncode
        == 0
    )


def test_a_killed_loader_is_noticed_and_replaced(agent: Agent) -> None:
    before = sum(agent.series("kpod_loader_start_time_seconds").values())
    agent.loader.kill()
    wait_for("not ready", lambda: not agent.ready(), 30)
    assert agent.get("/healthz")[0] == 200, "the aggregator itself is well"
    assert agent.series("kpod_loader_up") == {frozenset(): 0.0}
    agent.loader.start()
    wait_for("ready again", agent.ready, 30)
    assert sum(agent.series("kpod_loader_start_time_seconds").values()) > before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_aggregator_comes_back_with_everything(
    agent: Agent, number: signal.Signals
) -> None:
    def host() -> float:
        return sum(agent.series(ONCPU, scope="host").values())

    before = host()
    assert before > 0
    agent.aggregator.kill(number)
    assert agent.get("/readyz")[0] == 0
    agent.aggregator.start()
    began = time.monotonic()
    wait_for("ready again", agent.ready, 30)
    assert time.monotonic() - began < 15, "within one scrape"
    assert host() >= before


def test_memory_fits_the_manifests_requests(agent: Agent) -> None:
    """Peaks of an idle node; docs/scale.md has those of a full one."""
    for one in (agent.loader, agent.aggregator):
        resources = container(render(), one.name)["resources"]
        request = int(resources["requests"]["memory"].removesuffix("Mi")) * 1024
        assert int(one.status("VmHWM").split()[0]) < request

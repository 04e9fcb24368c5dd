"""Real containers below a kubelet's paths, and an API server: every row gets its pod."""

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Aggregator, aggregator, runc_container
from tests.kernel.test_interface import ISOLATED, JOINED, connect
from tests.kubernetes.server import NODE, ApiServer, kubeconfig
from tests.live import Cgroup, Loader, Worker, loader, node_root, wait_for

ONCPU = "kpod_cpu_oncpu_seconds_total"
EXECS = "kpod_process_execs_total"
SNAPSHOT = "kpod_snapshot_timestamp_seconds"
ID = [f"{i:064x}" for i in range(0xABC0, 0xABCA)]
UID = [f"{i:08x}-1111-2222-3333-444444444444" for i in range(0xDEF0, 0xDEFA)]
BURN = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\n"
BURN += "print(time.process_time(), flush=True)\n"


class Cluster:
    """An API server in a thread of its own."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.server = ApiServer()
        self._attempts: dict[tuple[str, str], list[str]] = {}  # ids, by pod and container
        self._tls = tls
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._ready.wait(10)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self.server.running(self._tls):
            self._ready.set()
            await self._stop.wait()

    def call(self, work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def event(self, kind: str, uid: str, name: str, ids: dict[str, str]) -> None:
        """ADDED, MODIFIED or DELETED: a pod of namespace shop with containers name -> id. Another
        id is a restart.
        """

        def status(name: str, cid: str) -> dict[str, Any]:
            attempts = self._attempts.setdefault((uid, name), [])
            if cid and cid not in attempts:
                attempts.append(cid)
            restarts = attempts.index(cid) if cid else 0
            found = {"name": name, "image": "busybox:1", "restartCount": restarts}
            return found | ({"containerID": f"containerd://{cid}"} if cid else {})

        statuses = [status(*item) for item in ids.items()]
        raw = {
            "metadata": {"uid": uid, "name": name, "namespace": "shop"},
            "spec": {"nodeName": NODE},
            "status": {"containerStatuses": statuses, "podIP": "10.0.0.9"},
        }
        self.call(self.server.happen({"type": kind, "object": raw}))

    def fail(self, status: str) -> None:
        """Every request from now on, and the open watch."""
        self.server.always = status
        # Not from here: the server's loop would not wake up for it.
        self._loop.call_soon_threadsafe(self.server.cut)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.close()


def inner(top: str) -> str:
    return f"{top}/docker-{'f' * 64}.scope"


@pytest.fixture(autouse=True)
def tops() -> Iterator[None]:
    """The kubelet's cgroups are below the roots of nodes; each container removes its own."""
    TOPS[:] = [f"/kpod-test-{time.monotonic_ns()}-{i}" for i in range(8)]
    with ExitStack() as stack:
        for top in TOPS:
            stack.enter_context(node_root(top))
            stack.enter_context(node_root(inner(top)))
        yield


TOPS: list[str] = []


def path(driver: str, uid: str, cid: str) -> str:
    top = TOPS.pop()
    if driver == "systemd":
        slice_ = f"kubepods-burstable-pod{uid.replace('-', '_')}.slice"
        return f"{top}/kubepods.slice/kubepods-burstable.slice/{slice_}/cri-containerd-{cid}.scope"
    if driver == "kind":
        slice_ = f"kubelet-kubepods-pod{uid.replace('-', '_')}.slice"
        return (
            f"{inner(top)}/kubelet.slice/kubelet-kubepods.slice/{slice_}/cri-containerd-{cid}.scope"
        )
    return f"{top}/kubepods/burstable/pod{uid}/{cid}"


def serve(stack: ExitStack, tmpfs: Path, cluster: Cluster, *options: str) -> Aggregator:
    config = kubeconfig(tmpfs, cluster.server.url)
    config.chmod(0o644)  # the aggregator is nobody
    arguments = ["--pods", "api", "--node", NODE, "--kubeconfig", str(config), *options]
    served = stack.enter_context(aggregator(tmpfs, *arguments))
    wait_for("the first list", lambda: served.get("/readyz")[0] == 200)
    return served


def run(stack: ExitStack, directory: Path, where: str, code: str) -> Callable[[], float]:
    """A container at work; gives what waits for it to have worked, and says its CPU time."""
    command = ["/usr/bin/python3", "-S", "-c", code]
    out = stack.enter_context(runc_container(directory, where, *command))
    return lambda: float(wait_for("the container's work", out.read_text, 60))


def one(served: Aggregator, name: str = ONCPU, **labels: str) -> tuple[dict[str, str], float]:
    found = served.series(name, **labels)
    assert len(found) == 1, found
    ((series, value),) = found.items()
    return dict(series), value


@pytest.mark.parametrize("driver", ["systemd", "cgroupfs", "kind"])
def test_a_container_has_its_names(
    tmpfs: Path, tmp_path: Path, cluster: Cluster, driver: str
) -> None:
    with ExitStack() as stack:
        running = stack.enter_context(loader(tmpfs))
        served = serve(stack, tmpfs, cluster)
        # Each is on a node of its own, so it is a pod of its own.
        cluster.event("ADDED", UID[0], "web-0", {"web": ID[0]})
        cluster.event("ADDED", UID[1], "side-0", {"side": ID[1]})
        code = BURN.format(0.5) + "time.sleep(600)\n"
        work = run(stack, tmp_path, path(driver, UID[0], ID[0]), code)
        idle = run(
            stack,
            tmp_path,
            path(driver, UID[1], ID[1]),
            "import time\nprint(time.process_time(), flush=True)\ntime.sleep(600)\n",
        )
        spent, little = work(), idle()
        running.fresh()
        labels, value = one(served, container="web")
        assert labels == {
            "scope": "container",
            "namespace": "shop",
            "pod": "web-0",
            "container": "web",
            "pod_uid": UID[0],
            "node": NODE,
        }
        # runc's own start-up happens in the container's cgroup too.
        assert spent - 0.01 <= value <= spent + 1
        assert one(served, container="side")[1] <= little + 1
        info, _ = one(served, "kpod_pod_info", pod="web-0")
        assert (info["pod_uid"], info["ip"]) == (UID[0], "10.0.0.9")
        assert served.series("kpod_pods_cgroups", state="named")


@pytest.mark.parametrize("late", [False, True], ids=["events before", "events after its death"])
def test_a_short_life_within_one_interval(
    tmpfs: Path, tmp_path: Path, cluster: Cluster, late: bool
) -> None:
    """It starts, works and dies between two snapshots, and has its name and totals."""
    with ExitStack() as stack:
        running = stack.enter_context(loader(tmpfs, interval=8))
        # Who has no name yet waits for longer than there is between two snapshots.
        served = serve(stack, tmpfs, cluster, "--name-grace", "60")
        before = running.fresh().sequence
        if not late:
            cluster.event("ADDED", UID[0], "job-0", {"job": ID[0]})
        with ExitStack() as life:
            where = path("systemd", UID[0], ID[0])
            spent = run(life, tmp_path, where, BURN.format(0.2))()
        if running.dump().sequence != before:
            pytest.skip("this machine is too slow for a life within 8 s")
        if late:
            running.fresh()
            assert not served.series(ONCPU, pod_uid=UID[0]), "nobody knows it yet"
            cluster.event("ADDED", UID[0], "job-0", {"job": ID[0]})
            cluster.event("DELETED", UID[0], "job-0", {"job": ID[0]})
        running.fresh()
        labels, value = one(served, pod_uid=UID[0])
        assert (labels["namespace"], labels["pod"], labels["container"]) == ("shop", "job-0", "job")
        assert spent - 0.01 <= value <= spent + 1
        assert one(served, EXECS, pod_uid=UID[0])[1] >= 1


def test_a_replaced_stateful_pod_is_two_sets_of_series(
    tmpfs: Path, tmp_path: Path, cluster: Cluster
) -> None:
    """The same name and IP, one after the other: each has its own work and no more."""
    with ExitStack() as stack:
        running = stack.enter_context(loader(tmpfs))
        served = serve(stack, tmpfs, cluster)
        spent = []
        for i, seconds in enumerate((0.6, 0.2)):
            cluster.event("ADDED", UID[i], "db-0", {"db": ID[i]})
            with ExitStack() as life:
                where = path("cgroupfs", UID[i], ID[i])
                spent.append(run(life, tmp_path, where, BURN.format(seconds))())
            cluster.event("DELETED", UID[i], "db-0", {"db": ID[i]})
        running.fresh()
        found = {dict(k)["pod_uid"]: v for k, v in served.series(ONCPU, pod="db-0").items()}
        assert found.keys() == {UID[0], UID[1]}
        for i in range(2):
            assert spent[i] - 0.01 <= found[UID[i]] <= spent[i] + 1
        assert len(served.series(ONCPU, namespace="shop", container="db")) == 2
        infos = served.series("kpod_pod_info", pod="db-0")
        assert {dict(labels)["pod_uid"] for labels in infos} == {UID[0], UID[1]}


def test_a_restarted_container_and_its_sandbox(
    tmpfs: Path, tmp_path: Path, cluster: Cluster
) -> None:
    """A new id under the same name; what is in no status belongs to the pod without a container."""
    with ExitStack() as stack:
        running: Loader = stack.enter_context(loader(tmpfs))
        served = serve(stack, tmpfs, cluster, "--name-grace", "1")
        run(
            stack,
            tmp_path,
            path("systemd", UID[0], ID[9]),
            "import time\nprint(1, flush=True)\ntime.sleep(600)\n",
        )()
        for cid in ID[:2]:
            cluster.event("MODIFIED", UID[0], "web-0", {"web": cid})
            with ExitStack() as life:
                where = path("systemd", UID[0], cid)
                run(life, tmp_path, where, BURN.format(0.1))()
        running.fresh()
        wait_for(
            "the sandbox",
            lambda: running.fresh() and served.series(ONCPU, container_id=ID[9]),
            20,
        )
        sandbox, _ = one(served, container_id=ID[9])
        assert sandbox["pod"] == "web-0"
        assert sandbox["container"] == ""
        found = [dict(k).get("container_id") for k in served.series(ONCPU, container="web")]
        assert sorted(found, key=str) == [ID[1], None], "the first one has no need of it"


def test_without_an_api_no_row_is_lost(tmpfs: Path, tmp_path: Path, cluster: Cluster) -> None:
    """It is shown without its name after the grace, and with it when the API is back."""
    with ExitStack() as stack:
        running = stack.enter_context(loader(tmpfs))
        served = serve(stack, tmpfs, cluster, "--name-grace", "2")
        cluster.fail("503")
        code = BURN.format(0.2) + "time.sleep(600)\n"
        spent = run(stack, tmp_path, path("systemd", UID[0], ID[0]), code)()
        wait_for("the row", lambda: served.series(ONCPU, container_id=ID[0]))
        labels, value = one(served, container_id=ID[0])
        nobody = dict.fromkeys(("namespace", "pod", "container"), "")
        ids = {"pod_uid": UID[0], "container_id": ID[0]}
        assert labels == {"scope": "container", "node": NODE} | nobody | ids
        assert spent - 0.01 <= value <= spent + 1
        wait_for("a 503", lambda: served.series("kpod_pods_errors_total", reason="503"), 60)
        cluster.event("ADDED", UID[0], "web-0", {"web": ID[0]})
        cluster.server.always = ""
        wait_for("its name", lambda: served.series(ONCPU, pod="web-0", container="web"), 60)
        running.fresh()
        assert len(served.series(ONCPU, pod_uid=UID[0])) == 1


def test_names_from_the_kubelet(tmpfs: Path, tmp_path: Path, cluster: Cluster) -> None:
    """Of its own, and nothing is asked of the API."""
    with ExitStack() as stack:
        running = stack.enter_context(loader(tmpfs))
        cluster.event("ADDED", UID[0], "web-0", {"web": ID[0]})
        cluster.server.kubelet_pods = list(cluster.server.pods.values())
        served = serve(stack, tmpfs, cluster, "--pods", "kubelet", "--kubelet", cluster.server.url)
        code = BURN.format(0.1) + "time.sleep(600)\n"
        spent = run(stack, tmp_path, path("systemd", UID[0], ID[0]), code)()
        running.fresh()
        labels, value = one(served, pod_uid=UID[0])
        assert (labels["namespace"], labels["pod"], labels["container"]) == ("shop", "web-0", "web")
        assert spent - 0.01 <= value <= spent + 1
        assert "pods from the kubelet: 1 pods known" in served.get("/")[1]
    assert {r.path for r in cluster.server.requests} == {"/pods"}


def test_the_mode_is_said(tmpfs: Path, cluster: Cluster) -> None:
    with ExitStack() as stack:
        stack.enter_context(loader(tmpfs))
        alone = stack.enter_context(aggregator(tmpfs))
        assert "standalone: names come from cgroup paths" in alone.get("/")[1]
        served = serve(stack, tmpfs, cluster)
        assert "pods from the api: 0 pods known" in served.get("/")[1]
    documents = [json.dumps(r.params) for r in cluster.server.requests]
    assert all(f"spec.nodeName={NODE}" in d for d in documents), "no list of the whole cluster"


@dataclass
class Node:
    """Pods of two containers and a sandbox that come, go and restart, and what each row is called.

    `truth` has (pod, container) by container id; a sandbox has no container.
    """

    cluster: Cluster
    cgroups: Cgroup
    truth: dict[str, tuple[str, str]] = field(default_factory=dict)
    live: dict[int, dict[str, str]] = field(default_factory=dict)  # pod -> name -> id

    def _uid(self, pod: int) -> str:
        return f"{0xFACE0000 + pod:08x}-1111-2222-3333-444444444444"

    def _cgroup(self, pod: int) -> Cgroup:
        return self.cgroups.below(f"kubepods/burstable/pod{self._uid(pod)}")

    def _start(self, pod: int, container: str) -> str:
        cid = f"{0xE0000 + len(self.truth):064x}"
        self.truth[cid] = f"web-{pod}", container
        subprocess.run(["/bin/true"], preexec_fn=self._cgroup(pod).child(cid).enter, check=True)
        return cid

    def add(self, pod: int) -> None:
        """As a kubelet does: the sandbox first, and what has no id is in the status without."""
        self.cluster.event("ADDED", self._uid(pod), f"web-{pod}", {"a": "", "b": ""})
        self._start(pod, "")
        self.live[pod] = {name: self._start(pod, name) for name in "ab"}
        self.cluster.event("MODIFIED", self._uid(pod), f"web-{pod}", self.live[pod])

    def restart(self, pod: int) -> None:
        """A container; of the one before the status says nothing (RestartAllContainers)."""
        before = self.live[pod]["a"]
        self.live[pod]["a"] = self._start(pod, "a")
        self._cgroup(pod).below(before).remove()
        self.cluster.event("MODIFIED", self._uid(pod), f"web-{pod}", self.live[pod])

    def remove(self, pod: int) -> None:
        self._cgroup(pod).remove()
        self.cluster.event("DELETED", self._uid(pod), f"web-{pod}", self.live.pop(pod))

    def shown(self, served: Aggregator) -> set[str]:
        """Ids of the rows that there are. Each has its own name, or there is no such row."""
        found = set()
        for labels in map(dict, served.series(EXECS, scope="container")):
            cid = labels["container_id"]
            if cid in self.truth:
                assert (labels["pod"], labels["container"]) == self.truth[cid], labels
                assert labels["namespace"] == "shop"
                found.add(cid)
        return found


RESTARTS = 20


def test_names_outlive_restarts(tmpfs: Path, cgroups: Cgroup, cluster: Cluster) -> None:
    """Killed and started again while pods come, restart and go and the API is there, away, silent
    or slow: no row loses the name that it had, and none has a wrong one or none.
    """
    config = kubeconfig(tmpfs, cluster.server.url)
    config.chmod(0o644)
    state = Path(tempfile.mkdtemp(prefix="kpod-test-", dir="/dev/shm"))
    os.chown(state, 65534, 65534)
    options = ["--pods", "api", "--node", NODE, "--kubeconfig", str(config), "--ended", "always"]
    options += ["--state", str(state / "names"), "--identity-labels", "always"]
    node = Node(cluster, cgroups)
    had: set[str] = set()
    try:
        with loader(tmpfs, "--collectors", "exec", interval=0.1) as running:
            node.add(0)
            for turn in range(RESTARTS):
                cluster.server.always = how = ("", "503", "slow", "silence")[turn % 4]
                with aggregator(tmpfs, *options) as served:

                    def all_named(served: Aggregator = served) -> bool:
                        return node.shown(served) == set(node.truth)

                    if how in ("", "slow"):
                        node.add(1 + turn)
                        if len(node.live) > 3:
                            node.remove(min(node.live))
                        # Also of what was made while the API was away.
                        wait_for("all names", all_named, 30)
                        node.restart(max(node.live))
                        wait_for("the new container's name", all_named, 30)
                    else:
                        node.restart(max(node.live))
                        # At once: the first answer has all containers, and the next snapshot
                        # shows who the sandboxes are.
                        first = node.shown(served)
                        assert {cid for cid in had if node.truth[cid][1]} <= first
                        running.fresh()
                        running.fresh()
                        assert node.shown(served) >= had
                    had = node.shown(served)
                    served.process.kill()
        assert len(node.truth) > 3 * RESTARTS // 2
    finally:
        shutil.rmtree(state)


def test_interfaces_of_a_new_pod_are_there_within_two_snapshots(
    tmpfs: Path, cgroups: Cgroup, cluster: Cluster
) -> None:
    """Its sandbox speaks for them, which is in no status. Snapshots are made by scrapes alone."""
    with ExitStack() as stack:
        options = ("--collectors", "cgroup,interface")
        stack.enter_context(loader(tmpfs, *options, interval=600))
        served = serve(stack, tmpfs, cluster)
        served.samples()
        cluster.event("ADDED", UID[0], "web-0", {"web": ""})
        pod = cgroups.below(f"kubepods/burstable/pod{UID[0]}")
        sandbox = Worker(pod.child(ID[9]), ISOLATED)
        stack.callback(sandbox.end)
        peer = Worker(cgroups.child("peer.service"), ISOLATED)
        stack.callback(peer.end)
        connect(sandbox.pid, peer.pid)
        web = Worker(pod.child(ID[0]), JOINED.format(sandbox.pid))
        stack.callback(web.end)
        cluster.event("MODIFIED", UID[0], "web-0", {"web": ID[0]})
        cluster.event("ADDED", UID[1], "later-0", {})
        # Events come in order; what this page makes in snapshots is older than `now`.
        wait_for("both events", lambda: "2 pods known" in served.get("/")[1], 30)
        now, snapshots = time.time(), set[float]()

        def shown() -> list[dict[str, str]]:
            samples = served.samples()
            snapshots.update(v for (n, _), v in samples.items() if n == SNAPSHOT and v > now)
            name = "kpod_interface_receive_bytes_total"
            return [dict(k) for n, k in samples if n == name and ("pod", "web-0") in k]

        (labels,) = wait_for("the pod's interface", shown, 30)
        assert len(snapshots) <= 2
        assert (labels["container"], labels["interface"]) == ("", "eth0")

"""The pod table against the truth, whatever the server does."""

import asyncio
import json
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kubernetes.config import incluster_config

from aggregator.pods.cluster import connector
from aggregator.pods.kubelet import Kubelet
from aggregator.pods.source import Source, SourceError
from aggregator.pods.table import PodTable, decode_pod
from aggregator.pods.watch import RESYNC, Watcher
from tests.kubernetes.server import (
    EVERYTHING,
    FIXTURES,
    NODE,
    SPOILED,
    ApiServer,
    certificate,
    interleaved,
    kubeconfig,
    recorded,
)

ROOT = Path(__file__).parent.parent.parent
SILENCE = 0.3


class Time:
    """Seconds that pass by sleeping; nobody waits for them."""

    def __init__(self) -> None:
        self.slept = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.slept

    async def sleep(self, seconds: float) -> None:
        self.slept += seconds
        await asyncio.sleep(0.001)


@asynccontextmanager
async def running(source: Source) -> AsyncIterator[Source]:
    task = asyncio.create_task(source.run())
    try:
        yield source
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(what: str, look: Callable[[], Any], timeout: float = 20) -> None:
    try:
        async with asyncio.timeout(timeout):
            while not look():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(what) from None


def watcher(
    directory: Path,
    server: ApiServer,
    clock: Time | None = None,
    silence: float = SILENCE,
    **options: Any,
) -> Watcher:
    clock = clock or Time()
    connect = connector(str(kubeconfig(directory, server.url)), silence=silence)
    table = PodTable(time.monotonic_ns)
    return Watcher(NODE, connect, table, clock=clock, sleep=clock.sleep, **options)


def equal(source: Source, server: ApiServer) -> bool:
    return {pod.uid: pod for pod in source.table.present()} == server.truth()


def window(requests: list[float], seconds: float = 60) -> int:
    """Most requests in any so many seconds."""
    return max(sum(start <= at < start + seconds for at in requests) for start in requests)


def test_start_and_every_event_after_it(tmp_path: Path) -> None:
    """One list, one watch, and the table is right after each of the recorded events."""

    async def run() -> None:
        server = ApiServer()
        for raw in json.loads((FIXTURES / "podlist.json").read_text())["items"]:
            server.pods[raw["metadata"]["uid"]] = raw
        server.version = 445
        async with server.running(), running(watcher(tmp_path, server)) as source:
            await until("the list", lambda: source.synced)
            assert len(server.truth()) == 6, "one has finished"
            assert equal(source, server)
            later = [e for e in EVERYTHING if int(e["object"]["metadata"]["resourceVersion"]) > 445]
            assert len(later) > 50
            for event in later:
                wanted = source.events.total() + 1
                await server.replay([event])
                while source.events.total() < wanted:
                    await asyncio.sleep(0.001)
                assert equal(source, server)
            # What the fixture leaves: the static pod; a job's from before it began has finished.
            assert {pod.name for pod in source.table.present()} == {"static-web-node-a"}
            assert source.requests == {"list": 1, "watch": 1}
            first, second = server.requests
            assert first.params == {
                "fieldSelector": "spec.nodeName=node-a"
                ",status.phase!=Succeeded,status.phase!=Failed",
                "resourceVersion": "0",
                "limit": "100",
            }
            assert second.params["resourceVersion"] == "445"
            assert second.params["allowWatchBookmarks"] == "true"
            assert 300 <= int(second.params["timeoutSeconds"]) <= 600
            assert first.headers["authorization"] == "Bearer t"

    asyncio.run(run())


def test_pages(tmp_path: Path) -> None:
    async def run() -> None:
        server = ApiServer(page=2)
        await server.replay(EVERYTHING[:20])
        async with server.running(), running(watcher(tmp_path, server)) as source:
            await until("the list", lambda: source.synced)
            assert equal(source, server)
            assert sum(not r.watch for r in server.requests) == 3

    asyncio.run(run())


FAULTS = ["drop", "close", "silence", "429", "500", "503", "403", "410", *SPOILED]


@pytest.mark.parametrize("fault", [*FAULTS, *(f"watch:{f}" for f in FAULTS)])
def test_storms(tmp_path: Path, fault: str) -> None:
    """Three of a kind between any two pieces of the recording; a bookmark says that all came."""

    async def run() -> None:
        server = ApiServer()
        async with server.running(), running(watcher(tmp_path, server)) as source:
            await until("the list", lambda: source.synced)
            for events in interleaved(EVERYTHING, 4):
                await until("a watch", lambda: server.watching)
                server.faults.extend([fault] * 3)
                await server.replay(events[::2])
                server.cut()
                await server.replay(events[1::2])
                await until(f"truth after {fault}", lambda: equal(source, server))
                if not fault.startswith("watch:"):
                    await until("the faults", lambda: not server.faults)
                server.faults.clear()
                await until(f"truth after {fault}", lambda: equal(source, server))
            assert source.events["DELETED"] or source.requests["list"] > 1

    asyncio.run(run())


@pytest.mark.parametrize("fault", [*FAULTS, *(f"watch:{f}" for f in FAULTS), "dead"])
def test_no_busy_loop(tmp_path: Path, fault: str) -> None:
    """When nothing works for ten minutes: few requests, no more than a pod's status needs."""

    async def run() -> None:
        clock = Time()
        server = ApiServer(clock=clock, always=fault)
        async with server.running():
            source = watcher(tmp_path, server, clock, silence=0.05)
            if fault == "dead":
                server.cut()
                source = Watcher(
                    NODE,
                    connector(str(kubeconfig(tmp_path, "http://127.0.0.1:1"))),
                    PodTable(time.monotonic_ns),
                    clock=clock,
                    sleep=clock.sleep,
                )
            start = clock()
            async with running(source):
                await until("ten minutes", lambda: clock() - start > 600, 60)
                assert source.failures > 5
                assert source.synced == fault.startswith("watch:")
                assert sum(source.requests.values()) >= 10, "nor does it give up"
                if fault == "dead":
                    assert source.requests["list"] < 60
                    assert source.errors == {"connect": source.errors.total()}
                else:
                    assert window([r.at for r in server.requests]) <= 20
                    # Once the first minute is over, at most one try each quarter of a minute.
                    late = [r.at for r in server.requests if r.at > start + 60]
                    assert window(late) <= 10

    asyncio.run(run())


@pytest.mark.parametrize("fault", ["close", "error", "403", "500"])
def test_a_watch_that_never_works(tmp_path: Path, fault: str) -> None:
    """Lists do, as behind a proxy that does not stream: the table goes by them."""

    async def run() -> None:
        clock = Time()
        server = ApiServer(always=f"watch:{fault}")
        async with server.running(), running(watcher(tmp_path, server, clock)) as source:
            for events in interleaved(EVERYTHING, 4):
                await server.replay(events)
                start = clock.slept
                await until(f"truth after {fault}", lambda: equal(source, server))
                assert clock.slept - start <= 90
            assert not source.events

    asyncio.run(run())


def test_a_list_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends after a while, and is asked for again."""
    monkeypatch.setattr("aggregator.pods.source.LIST_TIMEOUT", 0.5)

    async def run() -> None:
        server = ApiServer(page=0)
        await server.replay(EVERYTHING[:20])
        async with server.running(), running(watcher(tmp_path, server)) as source:
            await until("an error", lambda: source.error)
            assert source.errors["silence"]
            server.page = 500
            await until("the truth", lambda: equal(source, server))

    asyncio.run(run())


def test_a_list_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a cache that knows no pages: it is said and counted, and then it comes in pages."""
    monkeypatch.setattr("aggregator.pods.source.LIST_MAX", 1 << 20)

    async def run() -> None:
        server = ApiServer(page=100, all_at_once=True)
        server.pods = many(500, "Running")
        server.version = 10
        async with server.running(), running(watcher(tmp_path, server)) as source:
            await until("an error", lambda: source.error)
            assert source.error == (
                "too_large: /api/v1/pods answers more than 1 MiB: the server gives more than "
                "100 pods at once, and is asked for the newest list"
            )
            await until("the truth", lambda: equal(source, server))
            assert source.errors == {"too_large": 1}
            assert sum(not r.watch for r in server.requests) == 1 + 5

    asyncio.run(run())


PODS = [
    event["object"]
    for event in EVERYTHING
    if "containerID" in event["object"].get("status", {}).get("containerStatuses", [{}])[0]
]


def many(count: int, phase: str) -> dict[str, dict[str, Any]]:
    """Pods of the node, as large as real ones."""
    found = {}
    for i in range(count):
        raw = PODS[i % len(PODS)]
        uid = f"{i:08x}-{len(phase):04x}-3333-4444-555555555555"
        meta = raw["metadata"] | {"uid": uid, "name": f"{phase.lower()}-{i}"}
        found[uid] = {
            **raw,
            "metadata": meta,
            "spec": raw["spec"] | {"nodeName": NODE},
            "status": raw["status"] | {"phase": phase},
        }
    return found


SYNC = """
import asyncio, resource, sys, time
from aggregator.pods.cluster import connector
from aggregator.pods.table import PodTable
from aggregator.pods.watch import Watcher

def rss():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

async def run():
    table = PodTable(time.monotonic_ns)
    source = Watcher(sys.argv[1], connector(sys.argv[2]), table)
    await asyncio.to_thread(source._connect)  # what a request needs in any case
    before, start = rss(), time.monotonic()
    task = asyncio.create_task(source.run())
    while not source.synced and time.monotonic() < start + 30:
        await asyncio.sleep(0.01)
    print(time.monotonic() - start, len(table), rss() - before, flush=True)
    await asyncio.sleep(2)
    task.cancel()

asyncio.run(run())
"""


def test_finished_pods_keep_nobody_away(tmp_path: Path) -> None:
    """A node with all that a cluster keeps of them (--terminated-pod-gc-threshold, 12,500)."""

    async def run() -> None:
        server = ApiServer(page=500)
        server.pods = many(12_000, "Succeeded") | many(500, "Failed") | many(110, "Running")
        server.version = 10
        async with server.running():
            config = str(kubeconfig(tmp_path, server.url))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", SYNC, NODE, config),
                stdout=asyncio.subprocess.PIPE,
                cwd=ROOT,
            )
            out, _ = await process.communicate()
            seconds, known, grown = out.split()
            assert int(known) == 110
            assert float(seconds) < 5
            assert int(grown) < 5 << 20
            lists = [r for r in server.requests if not r.watch]
            assert len(lists) == 2, "pages of live pods"
            assert len(server.sizes) == 2
            assert 100_000 < max(server.sizes) <= 2 << 20, "bytes of a page"
            assert len(server.requests) == 3

    asyncio.run(run())


def test_a_pod_that_finishes_is_one_that_was(tmp_path: Path) -> None:
    """Its rows keep their names; a server that does not know the selector changes nothing."""

    async def run() -> None:
        server = ApiServer()
        server.pods = many(3, "Running")
        async with server.running(), running(watcher(tmp_path, server)) as source:
            await until("a watch", lambda: server.watching and source.synced)
            uid, raw = next(iter(server.pods.items()))
            ended = json.loads(json.dumps(raw))
            ended["status"]["phase"] = "Succeeded"
            ended["metadata"].pop("resourceVersion")
            await server.happen({"type": "MODIFIED", "object": ended})
            await until("its end", lambda: len(source.table) == 2)
            cid = decode_pod(json.dumps(raw).encode()).containers[0].id
            known = source.table.find(uid, cid)
            assert known
            assert known[1]
            assert isinstance(source, Watcher)
            source._apply(json.dumps({"type": "MODIFIED", "object": ended}).encode())
            assert len(source.table) == 2

    asyncio.run(run())


def test_churn_that_nobody_looks_at_is_forgotten() -> None:
    """Without a scrape or a loader for hours: no more is kept than of the last minutes."""

    now = 0
    table = PodTable(lambda: now)
    source = Watcher(NODE, lambda: pytest.fail("asked"), table)
    for hours in range(100):
        now = hours * 3600 * 10**9
        for event in EVERYTHING:
            source._apply(json.dumps(event).replace("-", f"-{hours:04}-").encode())
        table.replace([])
    assert len(table._known) <= 11
    assert len(table._leaving) <= 50
    assert len(table.take_changed()) <= 11


def test_410_relists_without_a_gap(tmp_path: Path) -> None:
    """While it lists the old table stays; then what was missed is there, what went is gone."""

    async def run() -> None:
        server = ApiServer()
        await server.replay(EVERYTHING[:30])
        async with server.running(), running(watcher(tmp_path, server)) as source:
            await until("a watch", lambda: server.watching and source.synced)
            before = {pod.uid for pod in source.table.present()}
            server.faults.extend(["watch:drop", "drop"])
            server.cut()
            await server.replay(EVERYTHING[30:])
            server.forget()
            sizes: list[int] = []

            def done() -> bool:
                sizes.append(len(source.table))
                return equal(source, server)

            await until("the truth", done)
            assert min(sizes) >= min(len(before), len(server.truth()))
            assert source.errors["410"] == 1
            assert source.requests["list"] >= 2
            # As new as can be, and not from a cache that may be older than what was seen.
            relist = [r for r in server.requests if not r.watch][-1]
            assert relist.params["resourceVersion"] == ""
            # The names of what went are kept for a while.
            gone = next(u for u in before if u not in server.pods)
            assert source.table.find(gone, "")

    asyncio.run(run())


def test_silence_is_noticed(tmp_path: Path) -> None:
    """A connection that is open and dead: what was lost on it comes by the next."""

    async def run() -> None:
        server = ApiServer()
        async with server.running(), running(watcher(tmp_path, server)) as source:
            await until("a watch", lambda: server.watching)
            server.mute = True
            await server.replay(EVERYTHING[:30])
            await until("the time-out", lambda: source.errors["silence"])
            server.mute = False
            await until("the truth", lambda: equal(source, server))

    asyncio.run(run())


def test_a_watch_that_said_nothing_is_not_believed(tmp_path: Path) -> None:
    """At a version that the server has not reached yet, of before it was restored from a backup, it
    answers 200 and then nothing, for as long as it takes. A list says what is.
    """

    async def run() -> None:
        server = ApiServer()
        server.version = 10**9
        await server.replay(EVERYTHING[:5])
        async with server.running(), running(watcher(tmp_path, server, quiet=SILENCE)) as source:
            await until("a watch", lambda: server.watching and source.synced)
            server.version, server._log = 1, []  # the backup
            for uid in server.pods:
                server.pods[uid]["metadata"]["resourceVersion"] = "1"
            await server.replay(EVERYTHING[5:30])
            await until("the truth", lambda: equal(source, server))
            relist = [r for r in server.requests if not r.watch][-1]
            assert relist.params["resourceVersion"] == "", "not one that is not there yet"

    asyncio.run(run())


def test_resync(tmp_path: Path) -> None:
    """An event that the server lost is noticed within the hour."""

    async def run() -> None:
        clock = Time()
        server = ApiServer()
        await server.replay(EVERYTHING[:30])
        async with server.running(), running(watcher(tmp_path, server, clock)) as source:
            await until("a watch", lambda: server.watching)
            server.pods.popitem()
            server.cut()
            await until("another watch", lambda: source.requests["watch"] > 1 and server.watching)
            assert not equal(source, server)
            clock.slept += RESYNC
            server.cut()
            await until("the truth", lambda: equal(source, server))

    asyncio.run(run())


@pytest.fixture
def service_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[ApiServer, Path], Path]:
    """As in a pod; gives the token's file."""

    def mount(server: ApiServer, ca: Path) -> Path:
        token = tmp_path / "token"
        host, _, port = server.url.removeprefix("https://").rpartition(":")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(ca))
        return token

    return mount


def test_token_rotation(tmp_path: Path, service_account: Callable[[ApiServer, Path], Path]) -> None:
    """In a cluster: TLS, the service account's token, and a new one as soon as it is there."""

    async def run() -> None:
        ca, context = certificate(tmp_path)
        server = ApiServer(tokens={"first"})
        async with server.running(context):
            token = service_account(server, ca)
            token.write_text("first")
            clock = Time()
            table = PodTable(time.monotonic_ns)
            source = Watcher(NODE, connector(), table, clock=clock, sleep=clock.sleep)
            async with running(source):
                await until("a watch", lambda: server.watching)
                token.write_text("second")
                server.tokens = {"second"}
                await server.replay(EVERYTHING[:20])
                server.cut()
                await server.replay(EVERYTHING[20:40])
                await until("the truth", lambda: equal(source, server))
                assert not source.errors["401"]
                # A token that is not let in, for a while; and a file that is being written.
                server.tokens = {"third"}
                server.cut()
                await until("a refusal", lambda: source.errors["401"])
                token.write_text("")
                await until("a bad configuration", lambda: source.errors["config"])
                assert "Token file exists but empty" in source.error
                token.write_text("third")
                await server.replay(EVERYTHING[40:])
                await until("the truth", lambda: equal(source, server))

    asyncio.run(run())


def test_a_token_is_not_told(tmp_path: Path) -> None:
    """A newline at the end of its file is none of its; one inside is an error without the token."""

    async def run() -> None:
        server = ApiServer(tokens={"hush"})
        async with server.running():
            for token in ("hush\n", "hu\nsh"):
                config = str(kubeconfig(tmp_path, server.url, token))
                table = PodTable(time.monotonic_ns)
                async with running(Watcher(NODE, connector(config), table)) as source:
                    await until("an answer", lambda: source.synced or source.error)
                    assert source.synced == (token == "hush\n")
            assert source.error == "config: the token is not fit for an HTTP header"

    asyncio.run(run())


def test_users_of_a_kubeconfig(tmp_path: Path) -> None:
    """A client certificate, and a program that gives a token, as clouds have it."""

    async def run() -> None:
        ca, context = certificate(tmp_path)
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
        document = {"kind": "ExecCredential", "status": {"token": "made"}}
        document["apiVersion"] = api = "client.authentication.k8s.io/v1"
        run = {"apiVersion": api, "command": "echo", "args": [json.dumps(document)]}
        cert = {"client-certificate": str(ca), "client-key": str(tmp_path / "key.pem")}
        for tls, tokens, user in (
            (context, None, cert),
            (None, {"made"}, {"exec": {**run, "interactiveMode": "Never"}}),
        ):
            server = ApiServer(tokens=tokens)
            async with server.running(tls):
                path = kubeconfig(tmp_path, server.url, ca=ca)
                config = json.loads(path.read_text())
                config["users"][0]["user"] = user
                path.write_text(json.dumps(config))
                table = PodTable(time.monotonic_ns)
                async with running(Watcher(NODE, connector(str(path)), table)) as source:
                    await until("an answer", lambda: source.synced or source.error)
                    assert not source.error

    asyncio.run(run())


def test_proxies_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As kubectl: $HTTP_PROXY, but not for what $NO_PROXY has."""

    async def run() -> None:
        server, proxy = ApiServer(), ApiServer(always="403")
        async with server.running(), proxy.running():
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            config = str(kubeconfig(tmp_path, server.url))
            for no_proxy, through in (("10.0.0.0/8", True), ("10.0.0.0/8,127.0.0.0/8", False)):
                monkeypatch.setenv("NO_PROXY", no_proxy)
                table = PodTable(time.monotonic_ns)
                async with running(Watcher(NODE, connector(config), table)) as source:
                    await until("an answer", lambda: source.synced or source.error)
                    assert bool(source.errors["403"]) == through
            assert len(proxy.requests) == 1

    asyncio.run(run())


def test_an_authority_as_clusters_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without all that RFC 5280 wants, and Python since 3.13; older ones are told to want it."""
    create = ssl.create_default_context

    def strict(*args: Any, **options: Any) -> ssl.SSLContext:
        context = create(*args, **options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    async def run() -> None:
        ca, _ = certificate(tmp_path)
        signed = ("-CA", str(ca), "-CAkey", str(tmp_path / "key.pem"), "-subj", "/CN=server")
        (tmp_path / "server").mkdir()
        _, context = certificate(tmp_path / "server", *signed)
        monkeypatch.setattr(ssl, "create_default_context", strict)
        server = ApiServer()
        async with server.running(context):
            config = str(kubeconfig(tmp_path, server.url, ca=ca))
            table = PodTable(time.monotonic_ns)
            async with running(Watcher(NODE, connector(config), table)) as source:
                await until("an answer", lambda: source.synced or source.error)
                assert not source.error

    asyncio.run(run())


def test_an_unknown_certificate_is_refused(tmp_path: Path) -> None:
    async def run() -> None:
        _, context = certificate(tmp_path)
        (tmp_path / "other").mkdir()
        other, _ = certificate(tmp_path / "other")
        server = ApiServer()
        async with server.running(context):
            config = kubeconfig(tmp_path, server.url, ca=other)
            clock = Time()
            table = PodTable(time.monotonic_ns)
            source = Watcher(NODE, connector(str(config)), table, clock=clock, sleep=clock.sleep)
            async with running(source):
                await until("a refusal", lambda: source.errors["connect"])
                assert "CERTIFICATE_VERIFY_FAILED" in source.error
                assert source.error.startswith(f"connect: {server.url}: ")
                assert not server.requests

    asyncio.run(run())


def test_kubelet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the fixture has it; a certificate of its own is taken only if that is wished."""

    async def run() -> None:
        _, context = certificate(tmp_path)
        server = ApiServer(tokens={"t"})
        server.kubelet_pods = json.loads((FIXTURES / "kubelet-pods.json").read_text())["items"]
        async with server.running(context):
            config = str(kubeconfig(tmp_path, "https://127.0.0.1:1"))
            clock = Time()

            def make(**options: Any) -> Kubelet:
                return Kubelet(
                    connector(config, url=server.url, silence=SILENCE, **options),
                    PodTable(time.monotonic_ns),
                    clock=clock,
                    sleep=clock.sleep,
                )

            async with running(make()) as strict:
                await until("a refusal", lambda: strict.errors["connect"])
            source = make(insecure=True)

            def same() -> bool:
                pods = [decode_pod(json.dumps(raw).encode()) for raw in server.kubelet_pods]
                truth = {pod.uid: pod for pod in pods if not pod.finished}
                return {pod.uid: pod for pod in source.table.present()} == truth

            async with running(source):
                await until("the pods", lambda: source.synced)
                assert same()
                # The kubelet's uid of a static pod is the hash that the cgroup has.
                web = source.table.find(
                    "4d66c26f839ed16d7f2bc67063389b92",
                    "5a7edd41f5b8f3190cfb01931dd2d197b2faea7057066e1eff125f08efa4d858",
                )
                assert web
                assert (web[0].name, web[1]) == ("static-web-node-a", "web")
                server.faults.extend(["500", "garbage", "drop", "silence"])
                server.kubelet_pods.pop()
                await until("the truth", same)
                await until("the faults", lambda: not server.faults)
                assert set(source.errors) >= {"500", "garbage", "disconnect"}
                with monkeypatch.context() as patch:
                    patch.setattr("aggregator.pods.source.LIST_MAX", 10_000)
                    await until("an error", lambda: source.errors["too_large"])
                    assert source.error == (
                        "too_large: /pods answers more than 0 MiB: --pods=api lists pods in "
                        "pages, and leaves out finished ones"
                    )
                    assert same(), "what was known stays"
                server.requests.clear()
                start = clock.slept
                await until("a minute", lambda: clock.slept - start > 60)
                assert 4 <= len(server.requests) <= 8

    asyncio.run(run())


def test_a_pod_that_is_none_keeps_nobody_away(tmp_path: Path) -> None:
    async def run() -> None:
        server = ApiServer()
        async with server.running(), running(watcher(tmp_path, server)) as source:
            await until("a watch", lambda: server.watching)
            bad = {"type": "ADDED", "object": {"metadata": {"uid": "x", "name": 3}}}
            server._log.append((2, {**bad, "object": {"metadata": {"resourceVersion": "2"}}}))
            server.version = 2
            await server.replay(EVERYTHING[:3])
            await until("the truth", lambda: equal(source, server))
            assert source.errors == {"object": 1}
            assert source.requests["list"] == 1

    asyncio.run(run())


def test_a_pod_that_is_no_utf8_keeps_nobody_away() -> None:
    """Skipped by the list's decoder, which does not look inside strings."""
    source = Watcher(NODE, lambda: pytest.fail("asked"), PodTable(time.monotonic_ns))
    raw = b'{"metadata":{"uid":"u","name":"n","namespace":"s","labels":{"l":"\xff"}}}'
    (one,) = msgspec.json.decode(b"[%s]" % raw, type=list[msgspec.Raw])
    assert source.decode(one) is None
    assert source.errors == {"object": 1}


def test_an_error_is_one_line(tmp_path: Path) -> None:
    async def run() -> None:
        config = tmp_path / "config"
        config.write_text("a: [b\nc: d")
        table = PodTable(time.monotonic_ns)
        async with running(Watcher(NODE, connector(str(config)), table)) as source:
            await until("an error", lambda: source.error)
            assert source.error.startswith("config: ParserError: while parsing")
            assert "\n" not in source.error

    asyncio.run(run())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "metadata",
                    "spec",
                    "status",
                    "uid",
                    "name",
                    "namespace",
                    "labels",
                    "containerStatuses",
                ]
            )
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON | st.just(EVERYTHING[30]["object"]), st.binary(max_size=20), st.integers(0, 2000))
@settings(max_examples=300)
def test_any_bytes_are_a_pod_or_a_value_error(document: Any, noise: bytes, at: int) -> None:
    raw = json.dumps(document).encode()
    for spoiled in (raw, raw[:at], raw[:at] + noise + raw[at:], noise):
        with suppress(ValueError):
            decode_pod(spoiled)
        source = Watcher(NODE, lambda: pytest.fail("asked"), PodTable(time.monotonic_ns))
        with suppress(ValueError, SourceError):
            source._apply(spoiled)
        with suppress(ValueError, SourceError):
            source._apply(b'{"type":"ADDED","object":' + spoiled + b"}")


def test_recording_is_whole() -> None:
    assert len(EVERYTHING) == 99
    assert len(recorded("watch-410.ndjson")) == 1

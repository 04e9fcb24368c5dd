"""An API server with one resource, pods, that can be told to misbehave. Real HTTP, real chunks."""

import asyncio
import json
import random
import ssl
import subprocess
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from aggregator.pods.table import Pod, decode_pod

SLOW = 0.5  # s before an answer
FIXTURES = Path(__file__).parent.parent / "fixtures"
NODE = "node-a"


def recorded(*names: str) -> list[dict[str, Any]]:
    """Events that a real 1.36 API server sent."""
    return [
        json.loads(line) for name in names for line in (FIXTURES / name).read_text().splitlines()
    ]


EVERYTHING = recorded("watch-start.ndjson", "watch-delete.ndjson")


@dataclass
class Request:
    at: float
    path: str
    params: dict[str, str]
    headers: dict[str, str]

    @property
    def watch(self) -> bool:
        return "watch" in self.params

    def selects(self, pod: dict[str, Any]) -> bool:
        """Whether the pod's phase is none that the field selector excludes."""
        phase = pod.get("status", {}).get("phase", "")
        return f"status.phase!={phase}" not in self.params["fieldSelector"].split(",")


@dataclass
class ApiServer:
    """faults: what the next requests get instead of an answer, see _misbehave(). always: all do.

    clock: what `at` of the requests is measured by.
    """

    page: int = 500  # items of a list's page at most
    tokens: set[str] | None = None  # those that are let in
    seed: int = 1
    clock: Any = time.monotonic
    url: str = ""
    always: str = ""
    all_at_once: bool = False  # the cache knows no pages
    mute: bool = False  # open watches stay open, but nothing comes
    faults: deque[str] = field(default_factory=deque)
    requests: list[Request] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)  # bytes of each list, or page of one
    version: int = 1
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    kubelet_pods: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._log: list[tuple[int, dict[str, Any]]] = []
        self._oldest = 0
        self._decoded: dict[str, tuple[dict[str, Any], Pod]] = {}
        self._news = asyncio.Condition()
        self._watchers: set[asyncio.StreamWriter] = set()

    # ---- what happens in the cluster ----------------------------------------------------------

    def truth(self) -> dict[str, Pod]:
        for uid, raw in self.pods.items():
            if self._decoded.get(uid, (None,))[0] is not raw:
                self._decoded[uid] = raw, decode_pod(json.dumps(raw).encode())
        found = {uid: self._decoded[uid][1] for uid in self.pods}
        return {uid: pod for uid, pod in found.items() if not pod.finished}

    async def happen(self, event: dict[str, Any]) -> None:
        """As recorded, or of our own: then it gets the next version."""
        raw = event["object"]
        given = raw["metadata"].get("resourceVersion")
        self.version = max(self.version + 1, int(given)) if given else self.version + 1
        raw["metadata"]["resourceVersion"] = str(self.version)
        if event["type"] == "DELETED":
            self.pods.pop(raw["metadata"]["uid"], None)
        elif event["type"] != "BOOKMARK":
            self.pods[raw["metadata"]["uid"]] = raw
        self._log.append((self.version, event))
        async with self._news:
            self._news.notify_all()

    async def replay(self, events: Iterable[dict[str, Any]]) -> None:
        for event in events:
            await self.happen(json.loads(json.dumps(event)))

    def forget(self) -> None:
        """Compacts: watches from before now get 410."""
        self._log.clear()
        self._oldest = self.version

    def cut(self) -> None:
        """Drops every open watch in the middle."""
        for writer in self._watchers:
            writer.transport.abort()

    @property
    def watching(self) -> int:
        return len(self._watchers)

    # ---- HTTP ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["ApiServer"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{port}"
        try:
            yield self
        finally:
            server.close()
            self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            target = urlsplit(head[0].split()[1])
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:])}
            request = Request(
                self.clock(),
                target.path,
                dict(parse_qsl(target.query, keep_blank_values=True)),
                headers,
            )
            self.requests.append(request)
            fault = self.faults.popleft() if self.faults else self.always
            if not (fault and await self._misbehave(fault, writer, request)):
                await self._answer(writer, request)
        with suppress(OSError):
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, request: Request) -> None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.tokens is not None and token.removeprefix("bearer ") not in self.tokens:
            await self._status(writer, 401)
        elif request.path == "/pods":
            await self._body(
                writer, {"kind": "PodList", "metadata": {}, "items": self.kubelet_pods}
            )
        elif request.path != "/api/v1/pods":
            await self._status(writer, 404)
        elif request.params["fieldSelector"].split(",")[0] != f"spec.nodeName={NODE}":
            await self._status(writer, 403)
        elif request.watch:
            await self._watch(writer, request)
        else:
            await self._list(writer, request)

    async def _status(self, writer: asyncio.StreamWriter, status: int, *headers: str) -> None:
        body = json.dumps({"kind": "Status", "code": status, "message": "no"})
        lines = [f"HTTP/1.1 {status} No", f"Content-Length: {len(body)}", *headers, "", body]
        writer.write("\r\n".join(lines).encode())
        await writer.drain()

    async def _start(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
        await writer.drain()

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """In chunks that know nothing of lines."""
        while data:
            size = self._rng.choice([1, 7, 900, 5000, 70000])
            writer.write(b"%x\r\n%s\r\n" % (len(data[:size]), data[:size]))
            await writer.drain()
            data = data[size:]

    async def _body(self, writer: asyncio.StreamWriter, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.sizes.append(len(body))
        await self._start(writer)
        await self._send(writer, body)
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _list(self, writer: asyncio.StreamWriter, request: Request) -> None:
        wanted = request.params.get("resourceVersion", "")
        if wanted not in ("", "0") and int(wanted) < self._oldest:
            await self._status(writer, 410)
            return
        items = [
            p
            for p in self.pods.values()
            if p["spec"].get("nodeName") == NODE and request.selects(p)
        ]
        first = int(request.params.get("continue", 0))
        if first and "resourceVersion" in request.params:
            await self._status(writer, 400)  # as the real one
            return
        last = first + min(self.page, int(request.params["limit"]))
        if self.all_at_once and wanted == "0":
            last = len(items)
        meta = {"resourceVersion": str(self.version)}
        if last < len(items):
            meta["continue"] = str(last)
        document = {"kind": "PodList", "metadata": meta, "items": items[first:last]}
        await self._body(writer, document)

    async def _watch(self, writer: asyncio.StreamWriter, request: Request) -> None:
        at = int(request.params["resourceVersion"])
        # At a version that it has not reached, a real one waits for it and says nothing.
        await self._start(writer)
        self._watchers.add(writer)
        try:
            while at >= self._oldest:
                for version, event in [e for e in self._log if e[0] > at]:
                    at = version
                    if event["type"] != "BOOKMARK" and not request.selects(event["object"]):
                        if event["type"] == "ADDED":
                            continue
                        # It was selected, as far as the server remembers.
                        event = event | {"type": "DELETED"}
                    if not self.mute:
                        await self._send(writer, json.dumps(event).encode() + b"\n")
                async with self._news:
                    while self.version <= at:
                        await self._news.wait()
            await self._send(writer, (FIXTURES / "watch-410.ndjson").read_bytes())
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        finally:
            self._watchers.discard(writer)

    async def _misbehave(self, fault: str, writer: asyncio.StreamWriter, request: Request) -> bool:
        """True if that was all; what is slow is answered after it. `watch:FAULT` is for watches
        only, lists are answered."""
        kind, _, fault = fault.rpartition(":")
        if kind == "watch" and not request.watch:
            return False
        if fault == "slow":
            await asyncio.sleep(SLOW)
            return False
        if fault.isdigit():
            await self._status(writer, int(fault), "Retry-After: 2")
        elif fault == "drop":
            writer.transport.abort()
        elif fault == "close":
            await self._start(writer)
            writer.write(b"0\r\n\r\n")
        elif fault == "silence":
            await self._start(writer)
            await asyncio.sleep(3600)
        else:
            await self._start(writer)
            await self._send(writer, SPOILED[fault])
            writer.write(b"0\r\n\r\n" if fault != "truncated" else b"ffff\r\n{")
        await writer.drain()
        return True


SPOILED = {
    "garbage": b"\x00\xff<html>not JSON</html>\n",
    "truncated": json.dumps(EVERYTHING[0]).encode()[:700],
    "half": json.dumps(EVERYTHING[0]).encode()[:700] + b"\n",
    "types": b'{"type":7,"object":[]}\n',
    "unknown": b'{"type":"SURPRISE","object":{"metadata":{"resourceVersion":"9"}}}\n',
    "deep": b'{"type":"ADDED","object":' + b"[" * 100_000 + b"\n",
    "error": b'{"type":"ERROR","object":{"kind":"Status","code":500,"message":"etcd"}}\n',
}


def certificate(directory: Path, *options: str) -> tuple[Path, ssl.SSLContext]:
    """A CA file and a server's context, for 127.0.0.1. options: of `openssl req`."""
    key, cert = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=kpod-test", "-keyout", key, "-out", cert),
            *("-addext", "subjectAltName=IP:127.0.0.1", *options),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    return cert, context


def kubeconfig(directory: Path, url: str, token: str = "t", ca: Path | None = None) -> Path:
    cluster: dict[str, Any] = {"server": url}
    if ca:
        cluster["certificate-authority"] = str(ca)
    path = directory / "kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": token}}],
    }
    path.write_text(json.dumps(document))  # JSON is YAML
    return path


def interleaved(events: list[dict[str, Any]], count: int) -> Iterator[list[dict[str, Any]]]:
    """The events in so many parts."""
    for i in range(count):
        yield events[i * len(events) // count : (i + 1) * len(events) // count]

"""HTTP: an ASGI application of five paths."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from html import escape
from typing import Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from aggregator import __version__
from aggregator.podinfo import Pods, SourceCollector
from aggregator.selfmetrics import SelfMetrics
from aggregator.store import Store

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

PLAIN = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    content_type: str
    body: AsyncIterator[bytes] | bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Application:
    """The endpoints over one store. Without pods: standalone."""

    def __init__(self, store: Store, pods: Pods | None = None) -> None:
        self._store = store
        self._pods = pods
        self._self = SelfMetrics(store)
        if pods:
            self._self.registry.register(SourceCollector(pods.source, pods.names))
        self._paths: dict[str, Callable[[], Response]] = {
            "/": self._index,
            "/actuator/prometheus": self._metrics,  # where the JVM system had it
            "/healthz": lambda: Response(200, PLAIN, b"ok\n"),
            "/metrics": self._metrics,
            "/readyz": self._readyz,
        }

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _send(scope["method"], self._answer(scope["method"], scope["path"]), send)

    def _answer(self, method: str, path: str) -> Response:
        handler = self._paths.get(path)
        if not handler:
            return Response(404, PLAIN, f"not found; try {', '.join(self._paths)}\n".encode())
        if method not in ("GET", "HEAD"):
            return Response(405, PLAIN, b"method not allowed\n", ((b"allow", b"GET, HEAD"),))
        return handler()

    def _metrics(self) -> Response:
        self._self.scrapes.inc()
        self._store.refresh()
        return Response(200, CONTENT_TYPE_PLAIN_0_0_4, self._samples())

    async def _samples(self) -> AsyncIterator[bytes]:
        # Bound now: what is sent is one snapshot, whatever happens while the client reads.
        snapshot = self._store.snapshot
        await asyncio.sleep(0)  # naming all containers anew has taken a while
        own = generate_latest(self._self.registry)
        if snapshot:
            for chunk in snapshot.text():
                yield chunk
        if self._pods:
            for chunk in self._pods.info.text():
                yield chunk
                await asyncio.sleep(0)  # it may have been a while
        yield own

    def _readyz(self) -> Response:
        reasons = []
        if self._store.refresh() != "live":
            reasons.append(self._segment())
        if self._pods and not self._pods.source.synced:
            reasons.append(self._names())
        if not reasons:
            return Response(200, PLAIN, b"ready\n")
        return Response(503, PLAIN, "".join(f"not ready: {r}\n" for r in reasons).encode())

    def _names(self) -> str:
        if not self._pods:
            return "standalone: names come from cgroup paths"
        source = self._pods.source
        state = f"{len(source.table)} pods known" if source.synced else "no pods known yet"
        return f"pods from the {source.mode}: {state}{source.error and f' ({source.error})'}"

    def _segment(self) -> str:
        store = self._store
        cause = f" ({store.cause})" if store.cause else ""
        return f"segment {store.path} is {store.state}{cause}"

    def _index(self) -> Response:
        self._store.refresh()
        schema = self._store.schema
        rows = [
            (c.name, "runs" if c.up else "does not run", c.attach if c.up else c.reason, c.help)
            for c in (schema.collectors if schema else ())
        ]
        table = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows
        )
        loader = f"loader {schema.loader_version} on {schema.kernel}" if schema else "no loader"
        page = f"""<!DOCTYPE html>
<title>kpod-metrics</title>
<h1>kpod-metrics</h1>
<p>eBPF metrics of every container of this node, for Prometheus: <a href="metrics">/metrics</a>.
Also <a href="healthz">/healthz</a> and <a href="readyz">/readyz</a>.</p>
<p>Aggregator {__version__}, {escape(loader)}; {escape(self._segment())};
{escape(self._names())}.</p>
<table>
{table}</table>
"""
        return Response(200, "text/html; charset=utf-8", page.encode())


async def _send(method: str, response: Response, send: Send) -> None:
    headers = [(b"content-type", response.content_type.encode()), *response.headers]
    if isinstance(response.body, bytes):
        headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if method != "HEAD":
        if isinstance(response.body, bytes):
            await send({"type": "http.response.body", "body": response.body})
            return
        async for chunk in response.body:
            # Returns when the client has room for more: a slow one holds one chunk, no more.
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})

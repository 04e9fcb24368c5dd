"""HTTP: an ASGI application of five paths."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from html import escape
from typing import Any

from aggregator import __version__
from aggregator.formats import FORMATS, Format, negotiate
from aggregator.selfmetrics import SelfMetrics
from aggregator.store import Store

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = dict[str, str]

PLAIN = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    content_type: str
    body: AsyncIterator[bytes] | bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Application:
    """The endpoints over one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._self = SelfMetrics(store)
        self._paths: dict[str, Callable[[Headers], Response]] = {
            "/": self._index,
            "/actuator/prometheus": self._metrics,  # where the JVM system had it
            "/healthz": self._healthz,
            "/metrics": self._metrics,
            "/readyz": self._readyz,
        }

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers: dict[str, str] = {}
            for name, value in scope["headers"]:
                # Several of one name are the same as one list (RFC 9110, 5.3).
                key, text = name.decode("latin-1").lower(), value.decode("latin-1")
                headers[key] = f"{headers[key]},{text}" if key in headers else text
            await _send(
                scope["method"], self._answer(scope["method"], scope["path"], headers), send
            )

    def _answer(self, method: str, path: str, headers: Headers) -> Response:
        handler = self._paths.get(path)
        if not handler:
            return Response(404, PLAIN, f"not found; try {', '.join(self._paths)}\n".encode())
        if method not in ("GET", "HEAD"):
            return Response(405, PLAIN, b"method not allowed\n", ((b"allow", b"GET, HEAD"),))
        return handler(headers)

    def _metrics(self, headers: Headers) -> Response:
        wanted = negotiate(headers.get("accept", ""))
        if not wanted:
            there = "".join(f"{f.content_type}\n" for f in FORMATS)
            return Response(406, PLAIN, f"not acceptable; there is\n{there}".encode())
        self._self.scrapes.inc()
        self._store.refresh()
        return Response(200, wanted.content_type, self._samples(wanted))

    async def _samples(self, wanted: Format) -> AsyncIterator[bytes]:
        # Bound now: what is sent is one snapshot, whatever happens while the client reads.
        snapshot = self._store.snapshot
        own = wanted.encode(self._self)
        if snapshot:
            for chunk in snapshot.render(wanted.native):
                yield chunk
        yield own  # last, as OpenMetrics' end mark is in it

    def _healthz(self, _headers: Headers) -> Response:
        return Response(200, PLAIN, b"ok\n")

    def _readyz(self, _headers: Headers) -> Response:
        state = self._store.refresh()
        if state == "live":
            return Response(200, PLAIN, b"ready\n")
        return Response(503, PLAIN, f"not ready: {self._segment()}\n".encode())

    def _segment(self) -> str:
        store = self._store
        cause = f" ({store.cause})" if store.cause else ""
        return f"segment {store.path} is {store.state}{cause}"

    def _index(self, _headers: Headers) -> Response:
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
<p>Aggregator {__version__}, {escape(loader)}; {escape(self._segment())}.</p>
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

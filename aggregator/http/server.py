"""HTTP: an ASGI application of a dozen paths."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from isal import isal_zlib

from aggregator._native import lib
from aggregator.http import api, page
from aggregator.http.edges import Edges
from aggregator.http.pairs import Pairs
from aggregator.http.rows import Row, Rows
from aggregator.http.scrapers import PROXY_HEADERS, Scrapers
from aggregator.http.state import Observer, names
from aggregator.pods.podinfo import Pods, SourceCollector
from aggregator.segment.formats import Format, accepts_gzip, negotiate
from aggregator.segment.history import History
from aggregator.segment.labels import Labels
from aggregator.segment.store import Snapshot, Store
from aggregator.selfmetrics import SelfMetrics

if TYPE_CHECKING:
    from aggregator.http.webconfig import BasicAuth

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = dict[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    headers: Headers
    query: dict[str, str]


PLAIN = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"

QUERY_MAX = 4096  # bytes that are looked at of a query

# The history has a point at least so often. Scrapes that come more often give it theirs, and then
# this costs nothing; else it is a look at the snapshot that the loader has taken anyway.
HISTORY_EVERY = 30.0

# As node_exporter has it; Prometheus scrapes once at a time, two of them scrape twice.
MAX_SCRAPES = 40
# Pages for people, and answers of the API, that are made or read at once. Each takes some
# milliseconds of the event loop, and its bytes until the client has them.
VIEWS_MAX = 8

# The fastest with ISA-L, and better than zlib's.
GZIP_LEVEL = 1
GZIP_WINDOW = 31  # 15 bits, with gzip's header

# For the kubelet, which has no password.
WITHOUT_PASSWORD = ("/healthz", "/readyz")


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    content_type: str
    body: Iterator[bytes] | bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    snapshot: Snapshot | None = None  # that the body shows


Handler = Callable[[Request], Awaitable[Response]]


class Application:
    """The endpoints over one store. Beyond `max_scrapes` at once, the answer is 503.

    Without pods: standalone.
    """

    def __init__(
        self,
        store: Store,
        pods: Pods | None = None,
        *,
        auth: "Callable[[], BasicAuth | None]" = lambda: None,
        max_scrapes: int = MAX_SCRAPES,
        scrapers: Scrapers | None = None,
    ) -> None:
        self._store = store
        self._pods = pods
        self._auth = auth
        self._max_scrapes = max_scrapes
        self._scrapers = scrapers
        self._scrapes = 0  # under way
        self._views = 0  # likewise, of pages for people and of the API
        self.own = SelfMetrics(store)
        if pods:
            self.own.register(SourceCollector(pods.source, pods.names))
        cadvisor = {"/metrics/cadvisor": self._cadvisor} if store.compat else {}
        self._history = History(store.clock)
        self._rows = Rows(self._history)
        self._pairs = Pairs(self._rows)
        self._edges = Edges(self._rows, pods.talkers if pods else list)
        store.taken = self._taken
        if store.snapshot:
            self._taken(store.snapshot)
        self.own.watch_history(self._history)
        self._observer = Observer(store, pods)
        # For people and their programs; so many are answered at once.
        self._view_paths: dict[str, Handler] = {
            "/": self._index,
            "/api/v1/edges": self._api_edges,
            "/api/v1/edges/graph": self._api_graph,
            "/api/v1/pairs": self._api_pairs,
            "/api/v1/pod": self._api_pod,
            "/api/v1/pods": self._api_pods,
            "/api/v1/status": self._api_status,
            "/pod": self._pod,
        }
        self._paths: dict[str, Handler] = {
            **self._view_paths,
            **{path: partial(self._file, path) for path in page.FILES},
            "/actuator/prometheus": self._metrics,  # where the JVM system had it
            "/healthz": self._healthz,
            "/metrics": self._metrics,
            **cadvisor,
            "/readyz": self._readyz,
        }

    def _taken(self, snapshot: Snapshot) -> None:
        self._history.offer(snapshot)
        self._pairs.offer(snapshot)
        self._edges.offer(snapshot)

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers: dict[str, str] = {}
            for name, value in scope["headers"]:
                # Several of one name are the same as one list (RFC 9110, 5.3).
                key, text = name.decode("latin-1").lower(), value.decode("latin-1")
                headers[key] = f"{headers[key]},{text}" if key in headers else text
            method = scope["method"]
            client = scope["client"][0] if scope.get("client") else ""
            query = scope.get("query_string", b"")[:QUERY_MAX].decode("latin-1")
            request = Request(headers, dict(parse_qsl(query)))
            path = path_of(scope["path"])
            view = path in self._view_paths
            if view and self._views >= VIEWS_MAX:
                self.own.views_refused.inc()
                await _send(method, _busy(f"{self._views} pages are being read"), send)
                return
            self._views += view
            scrape = False
            try:
                response = await self._answer(method, path, request, client)
                scrape = not isinstance(response.body, bytes)
                self._scrapes += scrape
                await _send(method, response, send)
            finally:
                self._scrapes -= scrape
                self._views -= view
            if scrape and method == "GET":
                self._served(scope, headers, response.snapshot)

    def _served(self, scope: Scope, headers: Headers, snapshot: Snapshot | None) -> None:
        if not self._scrapers:
            return
        client = scope.get("client")
        if not client or "://" in scope["path"] or any(name in headers for name in PROXY_HEADERS):
            self._scrapers.unsure()
        elif snapshot:
            page = f"{scope['path']} {headers.get('user-agent', '')}"
            sequence = snapshot.native.sequence
            self._scrapers.served(tuple(client), page, snapshot.generation, sequence)

    async def _answer(self, method: str, path: str, request: Request, client: str) -> Response:
        if path not in WITHOUT_PASSWORD and (
            refusal := await self._refusal(request.headers, client)
        ):
            return refusal
        handler = self._paths.get(path)
        if not handler:
            return Response(404, PLAIN, f"not found; try {', '.join(self._paths)}\n".encode())
        if method not in ("GET", "HEAD"):
            return Response(405, PLAIN, b"method not allowed\n", ((b"allow", b"GET, HEAD"),))
        return await handler(request)

    async def _refusal(self, headers: Headers, client: str) -> Response | None:
        """None if this client may ask; else what it gets instead of an answer."""
        auth = self._auth()
        if not auth:
            return None
        try:
            if await auth.allows(headers.get("authorization", ""), client):
                return None
        except auth.TooManyAttempts:
            self.own.logins_refused.inc()
            wait = (b"retry-after", b"1")
            return Response(429, PLAIN, b"too many passwords are being compared\n", (wait,))
        challenge = (b"www-authenticate", b'Basic realm="kpod-metrics"')
        return Response(401, PLAIN, b"unauthorized\n", (challenge,))

    async def _metrics(self, request: Request) -> Response:
        return await self._scrape(request.headers, self._samples)

    async def _cadvisor(self, request: Request) -> Response:
        return await self._scrape(request.headers, _cadvisor_samples)

    async def _scrape(
        self, headers: Headers, samples: Callable[[Format, Snapshot | None], Iterator[bytes]]
    ) -> Response:
        wanted = negotiate(headers.get("accept", ""))
        if self._scrapes >= self._max_scrapes:
            self.own.refused.inc()
            return _busy(f"{self._scrapes} scrapes are under way")
        self.own.scrapes.inc()
        self._scrapes += 1  # by itself until it is answered, then __call__() counts it
        try:
            await self._store.fresh()
        finally:
            self._scrapes -= 1
        # What is sent is one snapshot, whatever happens while the client reads.
        snapshot = self._store.snapshot
        pieces = samples(wanted, snapshot)
        vary = (b"vary", b"accept, accept-encoding")
        if not accepts_gzip(headers.get("accept-encoding", "")):
            return Response(200, wanted.content_type, pieces, (vary,), snapshot)
        encoding = (b"content-encoding", b"gzip")
        return Response(200, wanted.content_type, gzipped(pieces), (vary, encoding), snapshot)

    def _samples(self, wanted: Format, snapshot: Snapshot | None) -> Iterator[bytes]:
        own = wanted.encode(self.own)
        if snapshot:
            yield from snapshot.render(wanted.native)
        if self._pods:
            yield from self._pods.info.render(wanted.native)
        yield own  # last, as OpenMetrics' end mark is in it

    async def _healthz(self, _request: Request) -> Response:
        return Response(200, PLAIN, b"ok\n")

    async def _readyz(self, _request: Request) -> Response:
        reasons = []
        if await self._store.update() != "live":
            reasons.append(self._segment())
        if self._pods and not self._pods.source.synced:
            reasons.append(names(self._pods))
        if not reasons:
            return Response(200, PLAIN, b"ready\n")
        return Response(503, PLAIN, "".join(f"not ready: {r}\n" for r in reasons).encode())

    def _segment(self) -> str:
        store = self._store
        cause = f" ({store.cause})" if store.cause else ""
        return f"segment {store.path} is {store.state}{cause}"

    async def feed_history(self) -> None:
        """For as long as the program runs: the history also goes on when nobody scrapes."""
        while True:
            await asyncio.sleep(HISTORY_EVERY)
            if self._history.is_older_than(HISTORY_EVERY):
                await self._store.update()

    async def _file(self, path: str, request: Request) -> Response:
        kind, content = page.FILES[path]
        # Of the aggregator's own version: a newer one is asked for again after an hour.
        headers = ((b"cache-control", b"max-age=3600"), (b"x-content-type-options", b"nosniff"))
        return _packed(request, Response(200, kind, content, headers))

    async def _index(self, request: Request) -> Response:
        await self._store.fresh()
        rows = self._rows.of(self._store.snapshot)
        body = page.node_page(
            self._observer.look(),
            rows,
            self._history,
            self._pairs.of(self._store.snapshot),
            self._edges.of(self._store.snapshot),
            self._edges.seconds,
            self._store.node,
            request.query,
        )
        return _packed(request, Response(200, HTML, body, page.HEADERS))

    async def _pod(self, request: Request) -> Response:
        await self._store.fresh()
        state = self._observer.look()
        row = self._row(request)
        if not row:
            return _packed(request, Response(404, HTML, page.missing_page(state), page.HEADERS))
        body = page.row_page(state, row, self._history, self._store.node, self._facts(row))
        return _packed(request, Response(200, HTML, body, page.HEADERS))

    async def _api_status(self, request: Request) -> Response:
        await self._store.fresh()
        rows = self._rows.of(self._store.snapshot)
        return _json(request, 200, api.status(self._observer.look(), rows, self._store.node))

    async def _api_pods(self, request: Request) -> Response:
        await self._store.fresh()
        rows = self._rows.of(self._store.snapshot)
        body = api.pods(self._observer.look(), rows, self._history, self._store.node)
        return _json(request, 200, body)

    async def _api_pairs(self, request: Request) -> Response:
        await self._store.fresh()
        found = self._pairs.of(self._store.snapshot) or []
        body = api.pairs(self._observer.look(), found, self._pairs.seconds, self._store.node)
        return _json(request, 200, body)

    async def _api_edges(self, request: Request) -> Response:
        await self._store.fresh()
        found = self._edges.of(self._store.snapshot) or []
        body = api.edges(self._observer.look(), found, self._edges.seconds, self._store.node)
        return _json(request, 200, body)

    async def _api_graph(self, request: Request) -> Response:
        await self._store.fresh()
        found = self._edges.of(self._store.snapshot) or []
        return _json(request, 200, api.graph(found, self._edges.seconds))

    async def _api_pod(self, request: Request) -> Response:
        await self._store.fresh()
        row = self._row(request)
        if not row:
            return _json(request, 404, api.error("no such pod, unit or container lives here now"))
        state = self._observer.look()
        return _json(
            request, 200, api.pod(state, row, self._history, self._store.node, self._facts(row))
        )

    def _row(self, request: Request) -> Row | None:
        wanted = request.query.get("id", "")
        rows = self._rows.of(self._store.snapshot)
        return next((row for row in rows if row.who.id == wanted), None)

    def _facts(self, row: Row) -> Labels:
        """What Kubernetes says of a pod, beside its name."""
        uid = row.who.pod_uid
        if not self._pods or row.who.scope != "pod":
            return ()
        known = self._pods.info.facts(uid)
        images = sorted(set(self._pods.info.images(uid).values()) - {""})
        told = tuple(pair for pair in known if pair[0] not in ("namespace", "pod", "node"))
        return (*told, *((("images", ", ".join(images)),) if images else ()))


def _packed(request: Request, response: Response) -> Response:
    """Compressed, for who can read that."""
    vary = (b"vary", b"accept-encoding")
    headers = (*response.headers, vary)
    body = response.body
    if isinstance(body, bytes) and accepts_gzip(request.headers.get("accept-encoding", "")):
        body, headers = b"".join(gzipped([body])), (*headers, (b"content-encoding", b"gzip"))
    return Response(response.status, response.content_type, body, headers)


def _json(request: Request, code: int, body: bytes) -> Response:
    headers = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
    return _packed(request, Response(code, api.CONTENT_TYPE, body, headers))


def _cadvisor_samples(wanted: Format, snapshot: Snapshot | None) -> Iterator[bytes]:
    if snapshot:
        yield from snapshot.render(wanted.native, lib.KPOD_CADVISOR)
    if wanted.native == lib.KPOD_OPENMETRICS:
        yield b"# EOF\n"


def path_of(target: str) -> str:
    """Of a request; a forward proxy sends the whole URL (absolute-form, RFC 9112, 3.2.2)."""
    if "://" not in target or target.startswith("/"):
        return target
    return "/" + target.split("://", 1)[1].partition("/")[2]


def gzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packer = isal_zlib.compressobj(GZIP_LEVEL, isal_zlib.DEFLATED, GZIP_WINDOW)
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


def _busy(why: str) -> Response:
    return Response(503, PLAIN, f"{why}\n".encode(), ((b"retry-after", b"1"),))


async def _send(method: str, response: Response, send: Send) -> None:
    headers = [(b"content-type", response.content_type.encode()), *response.headers]
    if isinstance(response.body, bytes):
        headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if method != "HEAD":
        # Each chunk takes a fraction of a millisecond, and then others have their turn. send()
        # returns when the client has room for more: a slow one holds one chunk, no more. The last
        # send() is an empty one, so that the deadline holds until the client has nearly all.
        whole = isinstance(response.body, bytes)
        for chunk in [response.body] if whole else response.body:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})

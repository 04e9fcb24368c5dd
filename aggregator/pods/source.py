"""Where pods come from: what the API's watch and the kubelet's list have in common."""

import asyncio
import logging
import random
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import httpx
import msgspec

from aggregator.pods.table import Pod, PodTable, decode_pod

log = logging.getLogger("kpod")

LIST_MAX = 64 << 20  # bytes of an answer; 500 pods take 6 MB
LIST_TIMEOUT = 60.0  # s
# A watch has a bookmark about once a minute; a connection that is silent for longer is dead.
SILENCE = 90.0  # s
RETRY_AFTER_MAX = 120.0  # s
BACKOFF_FIRST, BACKOFF_MAX = 0.5, 30.0  # s

Connect = Callable[[], httpx.AsyncClient]


class SourceError(Exception):
    """What went wrong with one request; reason is a word for the metric."""

    def __init__(self, reason: str, text: str, retry_after: float = 0) -> None:
        super().__init__(text)
        self.reason = reason
        self.retry_after = retry_after


class ListMeta(msgspec.Struct, frozen=True):
    version: str = msgspec.field(name="resourceVersion", default="")
    more: str = msgspec.field(name="continue", default="")


class PodList(msgspec.Struct, frozen=True):
    metadata: ListMeta
    items: list[msgspec.Raw] | None  # decoded one by one: the event loop goes on between them


class Source(ABC):
    """Keeps a pod table equal to what a server says, for as long as run() runs.

    connect() gives a client with the credentials of this moment; it may block, and is called in a
    thread for each request. clock: seconds that never go back.
    """

    mode: str
    smaller: str  # what makes a list smaller that is too large

    def __init__(
        self,
        connect: Connect,
        table: PodTable,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.table = table
        self.synced = False  # once at least
        self.last_sync = 0.0  # Unix time when the table was last known to be right
        self.error = ""  # of the last request; empty if it went well
        self.errors: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.failures = 0  # in a row
        self._connect = connect
        self._clock = clock
        self._sleep = sleep
        self._rng = rng or random.Random()

    @abstractmethod
    async def step(self) -> float:
        """One request and what follows from it. Returns the pause before the next, in s."""

    async def run(self) -> None:
        while True:
            pause = 0.0
            try:
                pause = await self.step()
                self._report("")
            except SourceError as error:
                self.fail(error)
                pause = max(self.backoff(), min(error.retry_after, RETRY_AFTER_MAX))
            except Exception as error:  # a bug must not end it, and be seen
                log.exception("pods: %s", self.mode)
                self.fail(SourceError("internal", repr(error)))
                pause = self.backoff()
            await self._sleep(pause)

    def fail(self, error: SourceError) -> None:
        self.failures += 1
        self.errors[error.reason] += 1
        self._report(f"{error.reason}: {' '.join(str(error).split())}")

    def backoff(self) -> float:
        """Between half and all of a time that doubles with each failure."""
        limit = min(BACKOFF_MAX, BACKOFF_FIRST * 2.0 ** min(self.failures, 16))
        return limit * self._rng.uniform(0.5, 1)

    def in_sync(self) -> None:
        self.table.expire()  # also when nobody scrapes, or there is no loader
        self.synced = True
        self.last_sync = time.time()

    def _report(self, error: str) -> None:
        if error != self.error:
            log.log(
                logging.WARNING if error else logging.INFO,
                "pods: %s: %s",
                self.mode,
                error or "works again",
            )
        self.error = error

    @asynccontextmanager
    async def get(
        self, verb: str, path: str, params: Mapping[str, str]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The body of an answer 200, in pieces. What goes wrong, in here too, is a SourceError."""
        self.requests[verb] += 1
        try:
            client = await asyncio.to_thread(self._connect)
        except Exception as error:  # the kubernetes package raises what it likes
            raise SourceError("config", f"{type(error).__name__}: {error}") from error
        try:
            async with client, client.stream("GET", path, params=dict(params)) as response:
                if response.status_code != 200:
                    raise SourceError(
                        str(response.status_code),
                        f"{response.url.path} answers {response.reason_phrase}",
                        retry_after(response),
                    )
                yield response.aiter_bytes()
        except httpx.ReadTimeout:
            raise SourceError("silence", "the server says nothing") from None
        except httpx.ConnectTimeout:
            raise SourceError("connect", f"{client.base_url}: no answer") from None
        except httpx.ConnectError as error:
            raise SourceError("connect", f"{client.base_url}: {error}") from None
        except httpx.LocalProtocolError:  # its text has the header's value, which is secret
            raise SourceError("config", "the token is not fit for an HTTP header") from None
        except httpx.HTTPError as error:
            raise SourceError("disconnect", str(error) or type(error).__name__) from None
        except (ValueError, RecursionError) as error:  # decoding
            raise SourceError("garbage", str(error)) from None

    async def list(self, path: str, params: Mapping[str, str]) -> str:
        """Makes the table equal to a list of pods, page by page. Returns its resourceVersion."""
        pods: dict[str, Pod] = {}
        try:
            async with asyncio.timeout(LIST_TIMEOUT):
                while True:
                    page = await self._page(path, params)
                    for raw in page.items or ():
                        # There may be very many of these, and nothing of them has a cgroup.
                        if (pod := self.decode(raw)) and not pod.finished:
                            pods[pod.uid] = pod
                        await asyncio.sleep(0)
                    if not page.metadata.more:
                        break
                    # The version is in this token; both together are refused.
                    params = {**params, "continue": page.metadata.more}
                    params.pop("resourceVersion", None)
        except TimeoutError:
            raise SourceError("silence", f"no list within {LIST_TIMEOUT:.0f} s") from None
        self.table.replace(pods.values())
        self.in_sync()
        return page.metadata.version

    async def _page(self, path: str, params: Mapping[str, str]) -> PodList:
        async with self.get("list", path, params) as body:
            raw = bytearray()
            async for chunk in body:
                raw += chunk
                if len(raw) > LIST_MAX:
                    raise SourceError(
                        "too_large",
                        f"{path} answers more than {LIST_MAX >> 20} MiB: {self.smaller}",
                    )
            return msgspec.json.decode(raw, type=PodList)

    def decode(self, raw: msgspec.Raw) -> Pod | None:
        """None, counted, if it is JSON but no pod: one of them must not keep the others away."""
        try:
            return decode_pod(raw)
        except ValueError as error:
            self.errors["object"] += 1
            log.warning("pods: %s: not a pod: %s", self.mode, error)
            return None


def retry_after(response: httpx.Response) -> float:
    """Seconds; 0 if it says none, or a date."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0

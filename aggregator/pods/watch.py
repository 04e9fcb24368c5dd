"""The pods of one node from the Kubernetes API: list, then watch."""

import asyncio
from typing import Any

import msgspec

from aggregator.pods.source import SILENCE, Source, SourceError
from aggregator.pods.table import FINISHED

PATH = "/api/v1/pods"
LINE_MAX = 8 << 20  # bytes of an event; etcd holds no object over 1.5 MB

PAGE = "100"  # pods; a MB
WATCH = 300.0  # s that a watch is asked for, up to twice as long
RESYNC = 3600.0  # s; then a list again, in case that something was missed
HEALTHY = 10.0  # s; a watch that lasted so long was none of a row of failures
TRIES = 3  # watches that fail in a row; then each is followed by a list

ANY, NEWEST = "0", ""  # resourceVersion of a list: from the server's cache; as new as can be


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct, frozen=True):
    code: int = 0
    message: str = ""


class _Meta(msgspec.Struct, frozen=True):
    version: str = msgspec.field(name="resourceVersion", default="")


class _Object(msgspec.Struct, frozen=True):
    metadata: _Meta


_event = msgspec.json.Decoder(_Event)
_status = msgspec.json.Decoder(_Status)
_object = msgspec.json.Decoder(_Object)


class Watcher(Source):
    """As client-go's reflector: a watch that ends goes on where it was; 410 means list anew.

    While it lists, the table stays as it was.
    """

    mode = "api"
    smaller = f"the server gives more than {PAGE} pods at once, and is asked for the newest list"

    def __init__(self, node: str, *args: Any, quiet: float = SILENCE, **kwargs: Any) -> None:
        """quiet: s; a watch is not believed that said nothing for so long."""
        super().__init__(*args, **kwargs)
        self._quiet = quiet
        # Pods that have finished stay until the cluster collects them, 12,500 by default.
        phases = "".join(f",status.phase!={phase}" for phase in FINISHED)
        self.selector = {"fieldSelector": f"spec.nodeName={node}{phases}"}
        self._version = ANY  # where the watch goes on; a list must not be older
        self._trusted = False  # the table: no need to list
        self._listed = 0.0
        self._heard = 0.0  # when the server said something of pods last

    async def step(self) -> float:
        if not self._trusted or self._clock() - self._listed > RESYNC:
            await self._list()
            return 0
        start = self._clock()
        try:
            await self._watch()
        except SourceError:
            self._settle(start)
            raise
        if not self._settle(start):
            self.failures += 1
            return self.backoff()
        return self._rng.uniform(0, 1)

    def _settle(self, start: float) -> bool:
        healthy = self._clock() - start >= HEALTHY
        if healthy:
            self.failures = 0
        elif self.failures + 1 >= TRIES:
            self._trusted = False
        return healthy

    async def _list(self) -> None:
        self._trusted = False
        params = {**self.selector, "resourceVersion": self._version, "limit": PAGE}
        try:
            version = await self.list(PATH, params)
        except SourceError as error:
            # The version is too old, or not there yet; or the list came from the server's cache,
            # which had no limit for pages.
            if error.reason in ("410", "504", "too_large"):
                self._version = NEWEST
            raise
        if not version:
            raise SourceError("garbage", "a list without resourceVersion")
        self._version = version
        self._trusted = True
        self._listed = self._heard = self._clock()

    async def _watch(self) -> None:
        seconds = int(WATCH * self._rng.uniform(1, 2))
        params = {
            **self.selector,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(seconds),
        }
        try:
            async with (
                asyncio.timeout(seconds + SILENCE),
                self.get("watch", PATH, params) as body,
            ):
                line = bytearray()
                async for chunk in body:
                    first, *rest = chunk.split(b"\n")
                    line += first
                    for after in rest:
                        self._apply(bytes(line))
                        line = bytearray(after)
                        await asyncio.sleep(0)
                    if len(line) > LINE_MAX:
                        raise ValueError(f"an event of more than {LINE_MAX} bytes")
        except TimeoutError:
            raise SourceError("silence", "the watch does not end") from None
        except SourceError as error:
            if error.reason == "410":
                self._version = NEWEST
            self._trusted = error.reason not in ("410", "garbage")
            raise
        finally:
            # A server says nothing for as long as the version is one that it has not reached: of
            # another cluster, or of before it was restored from a backup.
            if self._clock() - self._heard >= self._quiet:
                self._version = NEWEST
                self._trusted = False

    def _apply(self, line: bytes) -> None:
        """One event. Raises ValueError."""
        if not line.strip():
            return
        event = _event.decode(line)
        if event.type == "ERROR":
            status = _status.decode(event.object)
            raise SourceError(str(status.code), status.message)
        version = _object.decode(event.object).metadata.version
        if event.type not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK") or not version:
            raise ValueError(f"an event of type {event.type!r} and version {version!r}")
        if event.type != "BOOKMARK" and (pod := self.decode(event.object)):
            self.table.put(pod)
            if event.type == "DELETED" or pod.finished:
                self.table.remove(pod.uid)
        self.events[event.type] += 1
        self._version = version
        self._heard = self._clock()
        self.in_sync()

"""uvicorn's HTTP protocol with a deadline."""

import asyncio
import resource
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# For a request to arrive whole and its answer to be taken. Prometheus gives up after 10 s. While
# it lasts, a client that does not read keeps the snapshot it asked for in memory.
DEADLINE = 20.0


# How long a connection may be idle between requests. The default scrape interval is a minute; a
# scraper that keeps its connection needs no handshake, and one that does not try again would lose
# the scrape that it sends just when we close.
KEEP_ALIVE = 120

# Descriptors that connections leave to everything else: the segment, files, the API server, pushes.
RESERVED = 64
MAX_CONNECTIONS = 4096


def max_connections() -> int:
    """How many connections fit, once the process may have all the descriptors that it can get."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, hard - RESERVED))


class Connections:
    """All that are open. A new one beyond `most` closes one that waits for a request or sends one.

    The oldest goes first, so that whoever only holds connections cannot keep out the kubelet's
    probe. Those whose request is being answered stay.
    """

    def __init__(self, most: int, on_close: Callable[[], None]) -> None:
        self._most, self._on_close = most, on_close
        self._idle: dict[Protocol, None] = {}  # in the order in which they became so
        self._count = 0

    def opened(self, connection: "Protocol") -> None:
        self._count += 1
        if self._count > self._most and self._idle:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            self._on_close()
            oldest.transport.abort()
        self._idle[connection] = None

    def asked(self, connection: "Protocol") -> None:
        """Its request is whole."""
        self._idle.pop(connection, None)

    def answered(self, connection: "Protocol") -> None:
        self._idle[connection] = None

    def closed(self, connection: "Protocol") -> None:
        self._count -= 1
        self._idle.pop(connection, None)


class Protocol(H11Protocol):
    """Aborts a connection whose client sends its request, or reads the answer, too slowly.

    uvicorn itself limits the time between requests only.
    """

    def __init__(
        self,
        on_timeout: Callable[[], None],
        connections: Connections,
        *args: Any,
        deadline: float = DEADLINE,
        on_close: Callable[[object], None] = lambda _: None,
        **more: Any,
    ) -> None:
        """on_close: with the client's address and port."""
        super().__init__(*args, **more)
        self._on_close = on_close
        self._on_timeout = on_timeout
        self._connections = connections
        self._deadline = deadline
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._connections.opened(self)
        self._start()

    def data_received(self, data: bytes) -> None:
        if not self._timer:
            self._start()
        super().data_received(data)
        if self.cycle and not self.cycle.response_complete:
            self._connections.asked(self)

    def on_response_complete(self) -> None:
        self._stop()
        answered = self.cycle
        super().on_response_complete()
        if self.cycle is not answered:  # the next request has been here already
            self._start()
        elif not self.transport.is_closing():
            self._connections.answered(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._connections.closed(self)
        self._on_close(self.client)
        super().connection_lost(exc)

    def _start(self) -> None:
        self._stop()
        self._timer = self.loop.call_later(self._deadline, self._expire)

    def _stop(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None

    def _expire(self) -> None:
        self._timer = None
        self._on_timeout()
        # close() would wait for what is left to be sent.
        self.transport.abort()

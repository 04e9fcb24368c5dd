"""uvicorn's HTTP protocol with a deadline."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# For a request to arrive whole and its answer to be taken. Prometheus gives up after 10 s. While
# it lasts, a client that does not read keeps the snapshot it asked for in memory.
DEADLINE = 20.0


class Protocol(H11Protocol):
    """Aborts a connection whose client sends its request, or reads the answer, too slowly.

    uvicorn itself limits the time between requests only.
    """

    def __init__(
        self, on_timeout: Callable[[], None], *args: Any, deadline: float = DEADLINE, **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self._on_timeout = on_timeout
        self._deadline = deadline
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        if not self._timer:
            self._start()
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._stop()
        answered = self.cycle
        super().on_response_complete()
        if self.cycle is not answered:  # the next request has been here already
            self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
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

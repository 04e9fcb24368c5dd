"""Who scrapes, and which snapshots all of them have: what ended before need not be shown again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# As long as the loader keeps ended containers (--tombstone). Whoever has not come for so long has
# lost them in any case.
WINDOW_NS = 300 * 10**9

# With these a connection is a proxy's, and may carry several scrapers in any order.
PROXY_HEADERS = ("forwarded", "via", "x-forwarded-for")


@dataclass(slots=True)
class _Scraper:
    """The snapshots of its last two whole scrapes, 0 for none yet."""

    generation: int = 0
    last: int = 0
    before: int = 0


class Scrapers:
    """A scraper is a connection that is kept open between scrapes.

    Nothing else tells two of them apart for certain: replicas share address, name and rhythm. So
    while anybody scrapes who closes the connection, and for WINDOW_NS after that, nothing new is
    known to be with all of them; the same after the start, as the scrapers of the process before
    are not known.

    clock: CLOCK_MONOTONIC in ns.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._known: dict[tuple[Any, str], _Scraper] = {}
        self._unsure_until = clock() + WINDOW_NS
        self._generation = self._seen = 0

    def expect(self, client: Any, page: str) -> None:
        """A reader from now on, though it has nothing yet."""
        self._known.setdefault((client, page), _Scraper())

    def served(self, client: Any, page: str, generation: int, sequence: int) -> None:
        """The page of this snapshot has gone to the client whole."""
        scraper = self._known.setdefault((client, page), _Scraper())
        if scraper.generation != generation:  # another loader, which counts from one
            scraper.generation, scraper.last = generation, 0
        scraper.before, scraper.last = scraper.last, sequence

    def unsure(self) -> None:
        """Somebody scraped who cannot be recognized."""
        self._unsure_until = self._clock() + WINDOW_NS

    def closed(self, client: Any) -> None:
        """The connection is gone; its scraper may come again on another one."""
        gone = [key for key in self._known if key[0] == client]
        for key in gone:
            del self._known[key]
        if gone:
            self.unsure()

    def seen(self, generation: int) -> int:
        """The newest snapshot of which, or of later ones, every scraper has had two; 0 for none.

        It never goes back: who comes later cannot miss what it never saw.
        """
        if self._generation != generation:
            self._generation, self._seen = generation, 0
        if self._known and self._clock() >= self._unsure_until:
            had = (s.before if s.generation == generation else 0 for s in self._known.values())
            self._seen = max(self._seen, min(had))
        return self._seen

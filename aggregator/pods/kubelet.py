"""The pods of one node from its kubelet, for clusters that forbid the API."""

from typing import Any

from aggregator.pods.source import Source

PATH = "/pods"
INTERVAL = 10.0  # s


class Kubelet(Source):
    """Polls. What comes and goes between two polls has no name, and is shown without."""

    mode = "kubelet"
    smaller = "--pods=api lists pods in pages, and leaves out finished ones"

    def __init__(self, *args: Any, interval: float = INTERVAL, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._interval = interval

    async def step(self) -> float:
        await self.list(PATH, {})
        self.failures = 0
        return self._interval * self._rng.uniform(0.9, 1.1)

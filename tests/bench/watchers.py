"""What the API server sees of 1,000 nodes: requests and bytes a minute, and all at once.

1,000 watchers in one process against the test's API server in another. Each node has 30 pods, of
which one changes every 10 s. Then the server goes away for 5 s and comes back, as one that is
restarted does; what is counted is when the watchers come back.
"""

import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from aggregator.pods.cluster import connector
from aggregator.pods.table import PodTable
from aggregator.pods.watch import Watcher
from tests.bench.pods import make_pod, uid
from tests.kubernetes.server import NODE, ApiServer, kubeconfig

WATCHERS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
PODS, PERIOD = 30, 10.0
SECONDS, AWAY = 60, 5.0


class Counting(ApiServer):
    """Knows how many bytes of bodies it has sent."""

    sent = 0

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        type(self).sent += len(data)
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))  # the test's chunks are of a byte
        await writer.drain()


def verbs(server: ApiServer) -> Counter[str]:
    return Counter("watch" if r.watch else "list" for r in server.requests)


async def serve(pipe: Any) -> None:
    server = Counting()
    for pod in range(PODS):
        server.pods[uid(pod)] = make_pod(pod)
    async with server.running():
        pipe.send(server.url)
        while server.watching < WATCHERS:
            await asyncio.sleep(0.1)
        started = verbs(server), server.sent, server.requests[-1].at - server.requests[0].at
        pipe.send(("start", dict(started[0]), started[1], started[2]))
        server.requests.clear()
        Counting.sent = 0
        began = time.monotonic()
        while time.monotonic() < began + SECONDS:
            await asyncio.sleep(PERIOD)
            raw = json.loads(json.dumps(make_pod(0)))
            raw["metadata"].pop("resourceVersion", None)
            await server.happen({"type": "MODIFIED", "object": raw})
        pipe.send(("minute", dict(verbs(server)), server.sent, 0.0))
        server.always = "drop"
        server.cut()
        server.requests.clear()
        await asyncio.sleep(AWAY)
        refused = len(server.requests)
        server.requests.clear()
        Counting.sent = 0
        server.always = ""
        back = time.monotonic()
        while server.watching < WATCHERS and time.monotonic() < back + 90:
            await asyncio.sleep(0.1)
        seconds = Counter(int(r.at - back) for r in server.requests)
        pipe.send(("away", {"refused": refused}, 0, AWAY))
        pipe.send(("back", dict(verbs(server)), server.sent, time.monotonic() - back))
        pipe.send(("seconds", dict(sorted(seconds.items())), 0, 0.0))


def server_process(pipe: Any) -> None:
    asyncio.run(serve(pipe))


async def watch(config: Path) -> None:
    connect = connector(str(config))
    tasks = [
        asyncio.create_task(Watcher(NODE, connect, PodTable(time.monotonic_ns)).run())
        for _ in range(WATCHERS)
    ]
    await asyncio.gather(*tasks)


def watchers(config: Path) -> None:
    import logging

    logging.disable()
    asyncio.run(watch(config))


def main() -> None:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=server_process, args=(theirs,))
    server.start()
    url = ours.recv()
    with tempfile.TemporaryDirectory() as directory:
        clients = multiprocessing.Process(target=watchers, args=(kubeconfig(Path(directory), url),))
        clients.start()
        try:
            for _ in range(5):
                phase, requests, sent, seconds = ours.recv()
                print(f"{phase}: {requests}, {sent / 1e6:.1f} MB, {seconds:.1f} s", flush=True)
        finally:
            clients.kill()
            server.kill()
    sys.exit(0)


if __name__ == "__main__":
    main()

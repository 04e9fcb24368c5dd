"""Network namespaces of our own, joined by a link that loses and delays what we say."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# For workers: into a namespace of our own.
ENTER = """
import ctypes
def enter(path):
    fd = os.open(path, os.O_RDONLY)
    assert ctypes.CDLL(None).setns(fd, 0x40000000) == 0
    os.close(fd)
"""

# Stands in where the kernel has no netem: what is sent into one TUN device comes out of the other.
RELAY = (
    "import fcntl, heapq, os, select, struct, sys, time\n"
    + ENTER
    + """
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)) # no later than it says
delay, every = float(sys.argv[3]), int(sys.argv[4])
ends = []
for path in sys.argv[1:3]:
    enter(path)
    ends.append(os.open("/dev/net/tun", os.O_RDWR))
    fcntl.ioctl(ends[-1], 0x400454CA, struct.pack("16sH22x", b"wire", 0x1001))
os.write(1, b"x")
waiting, number, large = [], 0, 0
while True:
    pause = max(0, waiting[0][0] - time.monotonic()) if waiting else None
    for fd in select.select([0, *ends], [], [], pause)[0]:
        if fd == 0: sys.exit()
        packet = os.read(fd, 65536)
        number += 1
        first = fd == ends[0]
        large += first and len(packet) > 500
        if every and first and len(packet) > 500 and large % every == 0: continue
        heapq.heappush(waiting, (time.monotonic() + delay * first, number, ends[first], packet))
    while waiting and waiting[0][0] <= time.monotonic():
        _, _, to, packet = heapq.heappop(waiting)
        try: os.write(to, packet)
        except OSError: pass # that end is not up
"""
)


def _run(*command: str) -> bool:
    return not subprocess.run(command, capture_output=True).returncode


def _must(*command: str) -> str:
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


@dataclass(frozen=True)
class Namespace:
    name: str
    address: str

    @property
    def path(self) -> str:
        return f"/run/netns/{self.name}"

    def run(self, *command: str) -> str:
        """With a /sys of the namespace's devices."""
        return _must("ip", "netns", "exec", self.name, *command)

    def ip(self, *arguments: str) -> None:
        _must("ip", "-n", self.name, *arguments)

    def tc(self, *arguments: str) -> str:
        return _must("tc", "-n", self.name, *arguments)

    def snmp(self, protocol: str, counter: str) -> int:
        """One of the namespace's own totals: /proc/net/snmp, or snmp6 for Udp6."""
        file = "snmp6" if protocol.endswith("6") else "snmp"
        text = self.run("cat", f"/proc/net/{file}")
        lines = [line.split() for line in text.splitlines()]
        if file == "snmp6":
            return next(int(line[1]) for line in lines if line[0] == protocol + counter)
        names, values = (line for line in lines if line[0] == f"{protocol}:")
        return int(values[names.index(counter)])


@contextmanager
def namespaces(*names: str) -> Iterator[list[Namespace]]:
    """With loopback up; the addresses are those of link()."""
    made: list[Namespace] = []
    try:
        for number, name in enumerate(names, 1):
            one = Namespace(f"kpod-{os.getpid()}-{name}", f"10.99.0.{number}")
            _must("ip", "netns", "add", one.name)
            made.append(one)
            one.ip("link", "set", "lo", "up")
        yield made
    finally:
        for one in made:
            _must("ip", "netns", "del", one.name)


def _up(*ends: Namespace) -> None:
    for end in ends:
        end.ip("address", "add", f"{end.address}/24", "dev", "wire")
        end.ip("link", "set", "wire", "up")


@contextmanager
def link(a: Namespace, b: Namespace, *, delay_ms: int = 0, lose_one_in: int = 0) -> Iterator[None]:
    """Device `wire` in both. Delay and loss are of what a sends: with netem, if there is one."""
    netem = ["netem", "delay", f"{delay_ms}ms"]
    if lose_one_in:
        netem += ["loss", f"{100 / lose_one_in}%"]
    peer = ("type", "veth", "peer", "wire", "netns", b.name)
    if not (delay_ms or lose_one_in) or _run(
        *("tc", "-n", a.name, "qdisc", "add", "dev", "lo", "root", "netem")
    ):
        a.ip("link", "add", "wire", *peer)
        _up(a, b)
        if delay_ms or lose_one_in:
            # Or netem would lose, and count, up to 64 KiB as one.
            a.ip("link", "set", "wire", "gso_max_segs", "1")
            a.tc("qdisc", "add", "dev", "wire", "root", *netem)
            a.tc("qdisc", "del", "dev", "lo", "root")
        yield
        return
    relay = subprocess.Popen(
        [
            *(sys.executable, "-S", "-c", RELAY, a.path, b.path),
            *(str(delay_ms / 1000), str(lose_one_in)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert relay.stdout
        assert relay.stdout.read(1) == b"x", "the relay died"
        _up(a, b)
        yield
    finally:
        relay.communicate(timeout=60)

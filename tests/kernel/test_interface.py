"""Packets of a known number and size between two network namespaces of our own."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.live import HOST, IDLER, PRELUDE, Cgroup, Dump, Worker, loader

PACKETS, PAYLOAD = 1000, 700
FRAME = PAYLOAD + 8 + 20 + 14  # UDP, IPv4, Ethernet

UNSHARE = """
import ctypes
assert ctypes.CDLL(None).unshare(0x40000000) == 0 # CLONE_NEWNET
"""
ISOLATED = UNSHARE + IDLER
JOINED = (
    """
import ctypes, os
net = os.open("/proc/{}/ns/net", os.O_RDONLY)
assert ctypes.CDLL(None).setns(net, 0) == 0
os.close(net)
"""
    + IDLER
)
SENDER = f"""{UNSHARE + PRELUDE}
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for i in range({PACKETS}):
    s.sendto(b"x" * {PAYLOAD}, ("10.9.9.2", 9))
    if not i % 100: time.sleep(0.01)
gate()
"""
# Bound, so that no ICMP answers.
RECEIVER = f"""{UNSHARE}
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 9))
{IDLER}"""
RX = tuple(f"kpod_interface_receive_{what}_total" for what in ("packets", "bytes"))
TX = tuple(f"kpod_interface_transmit_{what}_total" for what in ("packets", "bytes"))


def in_net(pid: int, *command: str) -> None:
    subprocess.run(["nsenter", "--net", f"--target={pid}", *command], check=True)


def connect(one: int, other: int) -> None:
    """veth eth0 of two namespaces: no IPv6 and no ARP, so that nothing but our packets pass."""
    ends = {one: ("10.9.9.1/24", "02:00:00:00:00:01"), other: ("10.9.9.2/24", "02:00:00:00:00:02")}
    for pid in ends:
        path = "/proc/sys/net/ipv6/conf/default/disable_ipv6"
        in_net(pid, "sh", "-c", f"test ! -e {path} || echo 1 > {path}")
    peer = ["peer", "name", "eth0", "netns", str(other)]
    in_net(one, "ip", "link", "add", "eth0", "type", "veth", *peer)
    for pid, (address, mac) in ends.items():
        in_net(pid, "ip", "link", "set", "eth0", "address", mac)
        in_net(pid, "ip", "address", "add", address, "dev", "eth0")
        in_net(pid, "ip", "link", "set", "eth0", "up")
    for pid, (far, mac) in zip(ends, reversed(ends.values()), strict=True):
        neighbour = ["add", far.partition("/")[0], "lladdr", mac, "dev", "eth0"]
        in_net(pid, "ip", "neighbour", *neighbour)


def moved(before: Dump, after: Dump, cgroup: Cgroup, columns: tuple[str, ...]) -> list[int]:
    first, last = (d.by_key(cgroup.id, "interface")["eth0",] for d in (before, after))
    return [last[c] - first[c] for c in columns]


def named(dump: Dump, cgroup: Cgroup) -> set[str]:
    return {name for (name,) in dump.by_key(cgroup.id, "interface")}


def namespace(worker: Worker) -> int:
    return os.stat(f"/proc/{worker.pid}/ns/net").st_ino


def container(above: Cgroup, number: int) -> Cgroup:
    return above.child(f"cri-containerd-{number:064x}.scope")


@pytest.mark.guest("interface")
def test_packets_are_counted_once_a_pod(tmpfs: Path, cgroups: Cgroup) -> None:
    pod = cgroups.below("kubepods.slice/kubepods-pod12345678_1234_1234_1234_1234567890ab.slice")
    a, sidecar, host = (container(pod, i) for i in range(3))
    b = cgroups.child("b.service")
    sender, receiver = Worker(a, SENDER), Worker(b, RECEIVER)
    beside = Worker(sidecar, JOINED.format(sender.pid))
    _node = Worker(host, IDLER)
    connect(sender.pid, receiver.pid)
    with loader(tmpfs) as running:
        before = running.fresh()
        sender.go()
        sender.stopped()
        after = running.shows(
            "what was sent",
            lambda dump: (
                moved(before, dump, a, TX)[0] >= PACKETS
                and moved(before, dump, b, RX)[0] >= PACKETS
            ),
        )
        again = running.fresh()
        assert moved(before, after, a, TX) == [PACKETS, PACKETS * FRAME]
        assert moved(before, after, b, RX) == [PACKETS, PACKETS * FRAME]
        assert moved(before, after, a, RX) == moved(before, after, b, TX) == [0, 0]
        assert moved(after, again, a, RX + TX) == [0, 0, 0, 0]
        # Not lo, not a second time for the pod, and not the node's for who has the node's.
        assert named(after, a) == named(after, b) == {"eth0"}
        assert named(after, sidecar) == named(after, host) == set()
        assert after.by_key(HOST, "interface") == {}

        # The pod lives on without the container that spoke for it.
        sender.end()
        a.remove()
        handed = running.shows("another container", lambda dump: named(dump, sidecar))
        assert named(handed, a) == set()
        last = handed.by_key(sidecar.id, "interface")["eth0",]
        assert last[TX[0]] == again.by_key(a.id, "interface")["eth0",][TX[0]]
        # What is no more keeps its last totals, whoever gets the number of its namespace.
        number = namespace(beside)
        beside.end()
        sidecar.remove()
        for i in range(3, 13):  # soon one of these, unless it is somebody else's
            if namespace(Worker(container(cgroups, i), ISOLATED)) == number:
                break
        for _ in range(2):
            gone = running.fresh()
            assert gone.by_key(sidecar.id, "interface")["eth0",] == last
        assert gone.node("interface_reads") == {
            "kpod_interface_read_errors_total": 0,
            "kpod_interface_left_out_total": 0,
            "kpod_interface_stale_total": 0,
        }


def test_names_that_look_alike_and_many(tmpfs: Path, cgroups: Cgroup) -> None:
    """Prometheus refuses a scrape for one series that is there twice."""
    a = cgroups.child("a.service")
    worker = Worker(a, ISOLATED)
    for name in ('a"', "a\\", "a_", *(f"x{i}" for i in range(40))):
        in_net(worker.pid, "ip", "link", "add", name, "type", "bridge")
    with loader(tmpfs) as running:
        dump = running.shows("the interfaces", lambda dump: named(dump, a))
        names = named(dump, a)
        assert len(names) == 32
        assert "a_" in names
        assert dump.node("interface_reads")["kpod_interface_left_out_total"] >= 2 + 41 - 32

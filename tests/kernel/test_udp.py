"""UDP: datagrams and bytes, by who sent and who received them, and what did not fit."""

from pathlib import Path

import pytest

from tests.live import HOST, PRELUDE, Cgroup, Dump, Worker, loader
from tests.net import ENTER, namespaces

SENT, RECEIVED = (f"kpod_udp_datagrams_total{{{d}}}" for d in ("sent", "received"))
BYTES_SENT, BYTES_RECEIVED = (f"kpod_udp_bytes_total{{{d}}}" for d in ("sent", "received"))
DROPPED = "kpod_udp_receive_drops_total"
COLUMNS = (SENT, BYTES_SENT, RECEIVED, BYTES_RECEIVED, DROPPED)

COMMON = (
    PRELUDE.replace("gate()\n", "")
    + ENTER
    + """
import socket, struct
enter({path!r})
libc = ctypes.CDLL(None, use_errno=True)
def several(call, s, count, size): # sendmmsg, recvmmsg
    buffer = ctypes.create_string_buffer(size)
    part = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(buffer), size))
    one = struct.pack("QQQQQQQQ", 0, 0, ctypes.addressof(part), 1, 0, 0, 0, 0)
    assert call(s.fileno(), one * count, count, 0, None) == count
"""
)
RECEIVER = (
    COMMON
    + """
r4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); r4.bind(("127.0.0.1", 5000))
r6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); r6.bind(("::1", 5000))
for r in (r4, r6):
    r.setsockopt(socket.SOL_SOCKET, 33, {buffer}) # SO_RCVBUFFORCE
    r.setblocking(False)
gate()
for r in (r4, r6):
    several(libc.recvmmsg, r, 64, 9000)
    assert r.recv(9000, socket.MSG_PEEK)
    try:
        while True: # an empty datagram that is looked at is none that was received
            r.recv(9000, socket.MSG_PEEK)
            r.recv(9000)
    except BlockingIOError: pass
    r.connect(r.getsockname())
    r.shutdown(socket.SHUT_RD)
    r.setblocking(True)
    assert r.recv(1) == b"" # no datagram
gate()
"""
)
# 2569 datagrams with 914,830 bytes, as sockets count them, on each of three.
SENDER = (
    COMMON
    + """
def send(family, address):
    s = socket.socket(family, socket.SOCK_DGRAM)
    for _ in range(2000): s.sendto(bytes(100), address)
    s.connect(address)
    for _ in range(500): s.send(bytes(1400))
    for _ in range(3): s.send(b"")
    several(libc.sendmmsg, s, 64, 200)
    for flags in (socket.MSG_MORE, socket.MSG_MORE, 0): s.send(bytes(10), flags)
    s.setsockopt(17, 103, 500) # UDP_SEGMENT: 4 that are one until they are received
    s.send(bytes(2000))
    try: s.send(bytes(70000)); assert False
    except OSError: pass
gate()
send(socket.AF_INET, ("127.0.0.1", 5000))
send(socket.AF_INET6, ("::1", 5000))
send(socket.AF_INET6, ("::ffff:127.0.0.1", 5000))
gate()
"""
)


def moved(before: Dump, after: Dump, cgroup: int) -> tuple[int, ...]:
    first, last = before.row(cgroup, "udp"), after.row(cgroup, "udp")
    return tuple(last.get(c, 0) - first.get(c, 0) for c in COLUMNS)


@pytest.mark.guest("udp")
def test_datagrams_and_bytes_are_exact(tmpfs: Path, cgroups: Cgroup) -> None:
    a, b, n = (cgroups.child(f"{name}.service") for name in ("sender", "receiver", "other"))
    with namespaces("a") as (own,), loader(tmpfs) as running:
        receiver = Worker(b, RECEIVER.format(path=own.path, buffer=64 << 20))
        sender = Worker(a, SENDER.format(path=own.path))
        before = running.fresh()
        sender.go()
        sender.stopped()
        receiver.go()
        receiver.stopped()
        after = running.fresh()
        kernels = {
            (protocol, name): own.snmp(protocol, name)
            for protocol in ("Udp", "Udp6")
            for name in ("OutDatagrams", "InDatagrams", "RcvbufErrors")
        }
    assert moved(before, after, a.id) == (3 * 2569, 3 * 914_830, 0, 0, 0)
    assert moved(before, after, b.id) == (0, 0, 3 * 2572, 3 * 914_830, 0)
    assert moved(before, after, n.id) == (0, 0, 0, 0, 0)
    assert kernels["Udp", "OutDatagrams"] + kernels["Udp6", "OutDatagrams"] == 3 * 2569
    assert kernels["Udp", "InDatagrams"] + kernels["Udp6", "InDatagrams"] == 3 * 2572
    assert moved(before, after, HOST)[0] < 2569


# Takes the first byte of each of ten datagrams, and ten times one and the size of all of it.
CUTTER = (
    COMMON
    + """
r = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); r.bind(("127.0.0.1", 5000))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
gate()
for flags, size in ((0, 1), (socket.MSG_TRUNC, 1000)):
    for _ in range(10):
        s.sendto(bytes(1000), r.getsockname())
        assert r.recv_into(bytearray(1), 0, flags) == size
    gate()
"""
)


@pytest.mark.guest("udp")
def test_what_is_cut_off_counts_if_its_size_was_asked_for(tmpfs: Path, cgroups: Cgroup) -> None:
    a = cgroups.child("receiver.service")
    with namespaces("a") as (own,), loader(tmpfs) as running:
        cutter = Worker(a, CUTTER.format(path=own.path))
        dumps = [running.fresh()]
        for _ in range(2):
            cutter.go()
            cutter.stopped()
            dumps.append(running.fresh())
    assert moved(dumps[0], dumps[1], a.id) == (10, 10_000, 10, 10, 0)
    assert moved(dumps[1], dumps[2], a.id) == (10, 10_000, 10, 10_000, 0)


def test_what_does_not_fit_is_the_receivers(tmpfs: Path, cgroups: Cgroup) -> None:
    a, b = cgroups.child("sender.service"), cgroups.child("receiver.service")
    with namespaces("a") as (own,), loader(tmpfs) as running:
        receiver = Worker(b, RECEIVER.format(path=own.path, buffer=200_000))
        sender = Worker(a, SENDER.format(path=own.path))
        before = running.fresh()
        sender.go()
        sender.stopped()
        receiver.go()
        receiver.stopped()
        after = running.fresh()
        kernels = sum(own.snmp(protocol, "RcvbufErrors") for protocol in ("Udp", "Udp6"))
    assert kernels > 1000
    _, _, received, _, dropped = moved(before, after, b.id)
    assert dropped == kernels
    assert dropped + received == 3 * 2572
    assert moved(before, after, a.id) == (3 * 2569, 3 * 914_830, 0, 0, 0)

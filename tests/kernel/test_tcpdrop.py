"""TCP packets dropped: each for its reason, and charged to the socket's owner."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live import (
    HOST,
    LOADER,
    PRELUDE,
    Cgroup,
    Dump,
    Worker,
    hides_process_1,
    kernel_has,
    loader,
)
from tests.net import ENTER, Namespace, link, namespaces

PACKETS = "kpod_tcp_dropped_packets_total"
COMMON = PRELUDE.replace("gate()\n", "") + ENTER + "import ctypes, socket, struct\n"

# Keeps a CPU busy with packets: what it sends is received in its own time, and so is what others
# sent meanwhile.
STORM = (
    COMMON
    + """
import threading
enter({path!r})
r = socket.socket(type=socket.SOCK_DGRAM); r.bind(("127.0.0.1", 0))
s = socket.socket(type=socket.SOCK_DGRAM); s.connect(r.getsockname())
def storm():
    while True: s.send(b"x")
threading.Thread(target=storm, daemon=True).start()
gate()
gate()
"""
)
NOBODY = (
    COMMON
    + """
enter({path!r})
nobody = socket.socket(); nobody.bind(("127.0.0.1", 0))
gate()
for _ in range(9):
    try: socket.create_connection(nobody.getsockname()); assert False
    except ConnectionRefusedError: pass
gate()
"""
)
# Drops all that comes to its socket, with a classic BPF filter, and says what the socket counted.
FILTER = (
    COMMON
    + """
enter({path!r})
l = socket.create_server(("127.0.0.1", 5000))
c = socket.create_connection(l.getsockname())
s = l.accept()[0]
gate()
drop = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
s.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HxxxxxxQ", 1, ctypes.addressof(drop)))
c.sendall(b"x" * 1000)
time.sleep(1.5)
s.setsockopt(socket.SOL_SOCKET, 27, 0)
assert s.recv(1000) == b"x" * 1000
print(struct.unpack("9I", s.getsockopt(socket.SOL_SOCKET, 55, 36))[8], file=open({counted!r}, "w"))
gate()
"""
)


SENDER = (
    COMMON
    + """
enter({path!r})
gate()
c = socket.create_connection(({host!r}, 5000))
c.sendall(bytes(1_000_000))
c.close()
gate()
"""
)
RECEIVER = (
    COMMON
    + """
enter({path!r})
l = socket.create_server(("", 5000))
gate()
s = l.accept()[0]
size = 0
while got := len(s.recv(1 << 20)): size += got
assert size == 1_000_000
gate()
"""
)


def drops(before: Dump, after: Dump, cgroup: int) -> dict[str, int]:
    """By reason, what was dropped between two dumps."""
    first, last = before.by_key(cgroup, "tcpdrop"), after.by_key(cgroup, "tcpdrop")
    moved = {
        reason: row[PACKETS] - (first[reason,][PACKETS] if (reason,) in first else 0)
        for (reason,), row in last.items()
    }
    return {reason: n for reason, n in moved.items() if n}


def tells_receiver() -> bool:
    """Whether the kernel's hook says whose queue a packet did not get into: since 6.11."""
    return kernel_has("rx_sk")


@pytest.mark.guest("tcpdrop")
def test_received_packets(
    tmpfs: Path, cgroups: Cgroup, record_property: Callable[[str, object], None]
) -> None:
    """Without a socket they are the host's; else the socket's, which counts its drops too."""
    a, b = cgroups.child("a.service"), cgroups.child("storm.service")
    with namespaces("a") as (own,), loader(tmpfs) as running:
        nobody = Worker(a, NOBODY.format(path=own.path), cpu=0)
        filtering = Worker(a, FILTER.format(path=own.path, counted=str(tmpfs / "drops")), cpu=0)
        Worker(b, STORM.format(path=own.path), cpu=0).go()
        before = running.fresh()
        nobody.go()
        nobody.stopped()
        half = running.fresh()
        filtering.go()
        filtering.stopped()
        after = running.fresh()
    assert drops(before, half, a.id) == {}
    assert drops(before, half, HOST)["no_socket"] >= 9
    by_socket = int((tmpfs / "drops").read_text())
    assert by_socket >= 2  # the packet, and at least once more
    ours, other = (drops(half, after, i).get("socket_filter", 0) for i in (a.id, HOST))
    if tells_receiver():
        assert set(drops(half, after, a.id)) == {"socket_filter"}
        assert (ours, other) == (by_socket, 0)
    else:
        record_property("lacks", "tcpdrop: received packets are the host's (6.11)")
        assert (ours, other) == (0, by_socket)
    assert drops(before, after, b.id) == {}


def counted(sender: Namespace) -> int:
    """What the queueing discipline says it has dropped."""
    return int(json.loads(sender.tc("-s", "-j", "qdisc", "show", "dev", "wire"))[0]["drops"])


@pytest.mark.guest("tcpdrop", "tcp")
def test_sent_packets(
    tmpfs: Path, cgroups: Cgroup, record_property: Callable[[str, object], None]
) -> None:
    """What the sender's queue drops is the sender's, to the packet that the queue counted."""
    a, b = cgroups.child("a.service"), cgroups.child("b.service")
    with namespaces("a", "b") as (left, right), link(left, right), loader(tmpfs) as running:
        queue = ("tbf", "rate", "20mbit", "burst", "10k", "limit", "20k")
        left.tc("qdisc", "add", "dev", "wire", "root", *queue)
        receiver = Worker(b, RECEIVER.format(path=right.path))
        sender = Worker(a, SENDER.format(path=left.path, host=right.address))
        before = running.fresh()
        receiver.go()
        sender.go()
        receiver.stopped()
        sender.stopped()
        first = counted(left)
        after = running.fresh()
        last = counted(left)
    assert first > 0
    ours, other = drops(before, after, a.id), drops(before, after, b.id)
    # Of some this kernel does not say why, and a chance reason may have any name.
    if careless := kernel_has("btf_trace_qdisc_drop"):
        record_property("lacks", "tcpdrop: of some packets that queues drop the reason is unknown")
    # A softirq that no program is run for may send many packets into the full queue: 17 of 355
    # were missing once. In guests nothing may be.
    least = 0.9 * first if hides_process_1() else first
    assert least <= (sum(ours.values()) if careless else ours["qdisc_drop"]) <= last
    assert not {"qdisc_drop", "unknown"} & other.keys()
    assert not any(reason.isdigit() for reason in ours)
    # What was not sent is not counted as sent.
    assert after.row(a.id, "tcp")["kpod_tcp_bytes_total{sent}"] == 1_000_000
    assert after.row(b.id, "tcp")["kpod_tcp_bytes_total{received}"] == 1_000_000


def test_reasons_have_the_kernels_names() -> None:
    """In the schema, at the places that the running kernel's BTF says."""
    dump = ("bpftool", "btf", "dump", "file", "/sys/kernel/btf/vmlinux", "format", "c")
    text = subprocess.check_output(dump, text=True)
    found = re.search(r"(?s)enum skb_drop_reason \{(.*?)\}", text)
    assert found
    kernels = {
        int(number): name.lower()
        for name, number in re.findall(r"SKB_DROP_REASON_(\w+) = (\d+)", found[1])
    }
    last = next(number for number, name in kernels.items() if name == "max")
    schema = json.loads(subprocess.check_output([LOADER, "schema"]))
    table = next(t for t in schema["tables"] if t["name"] == "tcpdrop")
    names = table["keys"][0]["values"]
    assert last > 50
    for number, name in kernels.items():
        if number < last:
            assert names[number] == name

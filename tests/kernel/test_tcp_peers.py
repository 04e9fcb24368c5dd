"""With whom containers' TCP connections are, against what both ends say that they have moved."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.kernel.test_tcp import (
    ACTIVE,
    CLIENT,
    COMMON,
    LIVE,
    PASSIVE,
    RECEIVED,
    SENT,
    SERVER,
    Plan,
    free_port,
    with_namespace,
)
from tests.live import (
    GUEST,
    SLOWNESS,
    TEST_LOADER,
    Cgroup,
    Dump,
    Loader,
    Worker,
    hides_process_1,
    loader,
)
from tests.net import Namespace, link, namespaces

TABLE = "tcp_peers"
PEERS = ("--tcp-peers", "8")
BYTES_SENT, BYTES_RECEIVED = (f"kpod_tcp_peer_bytes_total{{{d}}}" for d in ("sent", "received"))
OPENED = "kpod_tcp_peer_connections_opened_total"
OPEN = "kpod_tcp_peer_connections"
COLUMNS = (BYTES_SENT, BYTES_RECEIVED, OPENED, OPEN)
OTHER, EARLIER = "other", "earlier"

Peer = tuple[str, str, str]  # side, address, port


def shown(running: Loader) -> Dump:
    """A snapshot that has all that was done: peers that are new are shown from the next one on."""
    running.fresh()
    return running.fresh()


def peers(dump: Dump, cgroup: Cgroup) -> dict[Peer, tuple[int, ...]]:
    """Bytes sent and received, connections opened and open."""
    return {
        (side, address, port): tuple(row[column] for column in COLUMNS)
        for (side, address, port), row in dump.by_key(cgroup.id, TABLE).items()
    }


def assert_whole(dump: Dump, *owners: Cgroup) -> None:
    """Nothing is missing, and nothing is there twice."""
    for owner in owners:
        found = peers(dump, owner)
        total = dump.row(owner.id, "tcp")
        sent, received, _, live = (sum(row[i] for row in found.values()) for i in range(4))
        assert (sent, received, live) == tuple(total.get(c, 0) for c in (SENT, RECEIVED, LIVE)), (
            found
        )
        for side, column in (("client", ACTIVE), ("server", PASSIVE)):
            opened = sum(row[2] for (own, *_), row in found.items() if own == side)
            assert opened == total.get(column, 0), (side, found, total)


def talk(a: Cgroup, b: Cgroup, plan: Plan, port: int, left: Namespace, right: Namespace) -> None:
    values = {**asdict(plan), "port": port}
    server = Worker(b, with_namespace(SERVER.format(**values), right.path))
    client = Worker(a, with_namespace(CLIENT.format(**values), left.path))
    server.go()
    client.go()
    client.stopped()
    server.stopped()
    client.end()
    server.end()


SIX = "fd00:99::%d"


@contextmanager
def two_ends() -> Iterator[tuple[Namespace, Namespace]]:
    """Namespaces with a veth between them, 10.99.0.1 and .2, fd00:99::1 and ::2."""
    with namespaces("a", "b") as (left, right), link(left, right):
        for number, end in enumerate((left, right), 1):
            end.ip("-6", "address", "add", f"{SIX % number}/64", "dev", "wire", "nodad")
        yield left, right


@pytest.mark.guest("tcp")
def test_both_ends_have_the_exact_bytes(tmpfs: Path, cgroups: Cgroup) -> None:
    """Over IPv4, over IPv6, and over IPv4 with a server's socket of both; and over loopback."""
    count = 20 if GUEST else 50
    a, b, n = (cgroups.child(f"{name}.service") for name in ("client", "server", "neighbour"))
    with two_ends() as (left, right), loader(tmpfs, *PEERS) as running:
        four = Plan(count, 3, 3000, 70, host=right.address, bind=right.address)
        six = Plan(count, 2, 500, 40_000, host=SIX % 2, bind=SIX % 2, family="AF_INET6")
        both = Plan(count, 1, 100, 7, host=right.address, bind="::", family="AF_INET6")
        alone = Plan(3, 1, 10, 20)
        for port, plan in ((5000, four), (5001, six), (5002, both)):
            talk(a, b, plan, port, left, right)
        talk(n, n, alone, 5003, left, left)
        after = shown(running)
    clients, servers = peers(after, a), peers(after, b)
    for plan, served, near, far in (
        (four, "5000", left.address, right.address),
        (six, "5001", SIX % 1, SIX % 2),
        (both, "5002", left.address, right.address),
    ):
        requests, answers = (count * plan.rounds * size for size in (plan.request, plan.answer))
        assert clients.pop(("client", far, served)) == (requests, answers, count, 0)
        assert servers.pop(("server", near, served)) == (answers, requests, count, 0)
    assert (clients, servers) == ({}, {})
    assert peers(after, n) == {
        ("client", "127.0.0.1", "5003"): (30, 60, 3, 0),
        ("server", "127.0.0.1", "5003"): (60, 30, 3, 0),
    }
    assert_whole(after, a, b, n)


# Sends so many bytes to each of the addresses of loopback, from the first to the last, and again
# whenever it is told to. Each connection stays open.
TALKER = (
    COMMON
    + """
listener = socket.create_server(("", {port}), backlog=4096)
held = {{}}
def talk(number, size):
    if number not in held:
        c = socket.create_connection((f"127.0.1.{{number}}", {port}))
        held[number] = c, listener.accept()[0]
    c, s = held[number]
    c.sendall(bytes(size)); exactly(s, size)
gate()
{work}
"""
)


def talker(cgroup: Cgroup, port: int, work: str) -> Worker:
    return Worker(cgroup, TALKER.format(port=port, work=work))


def test_peers_that_are_too_many_are_others(tmpfs: Path, cgroups: Cgroup) -> None:
    """The sum holds, and what is open is known of these, too."""
    a, b, port = cgroups.child("many.service"), cgroups.child("few.service"), free_port()
    with loader(tmpfs, "--tcp-peers", "4") as running:
        many = talker(a, port, "for i in range(1, 51): talk(i, 100)\ngate()")
        many.go()
        many.stopped()
        few = talker(b, free_port(), "for i in range(1, 3): talk(i, 9)\ngate()")
        few.go()
        few.stopped()
        after = shown(running)
        many.end()
        few.end()
        end = shown(running)
    found = peers(after, a)
    # Of all connections the server's end has the same peer.
    assert found.pop(("server", "127.0.0.1", str(port))) == (0, 5000, 50, 50)
    assert found.pop(("client", OTHER, "")) == (4700, 0, 47, 47)
    assert found == {("client", f"127.0.1.{i}", str(port)): (100, 0, 1, 1) for i in (1, 2, 3)}
    assert {row[:2] for row in peers(after, b).values()} == {(9, 0), (0, 18)}
    assert_whole(after, a, b)
    assert_whole(end, a, b)
    assert sum(row[3] for row in peers(end, a).values()) == 0
    assert end.loader["kpod_walk_failures_total"] == 0


def test_the_coldest_makes_room(tmpfs: Path, cgroups: Cgroup) -> None:
    """Whoever moves most now has a row in the end, whoever came first; the sum holds meanwhile.
    And what a connection moves whose peer has made room is not its own in the row of another."""
    a, port = cgroups.child("a.service"), free_port()
    rounds = 40
    work = "talk(1, 500); talk(2, 500); gate()\n" + "talk(3, 10_000); gate()\n" * rounds
    work += "talk(1, 5); talk(2, 7); gate()"
    options = ("--tcp-peers", "2", "--culprits-renew", "0.3")
    with loader(tmpfs, *options, program=TEST_LOADER) as running:
        worker = talker(a, port, work)
        worker.go()
        worker.stopped()
        first = shown(running)
        assert OTHER in {address for _, address, _ in peers(first, a)}
        assert_whole(first, a)
        done = 0
        for _ in range(rounds):
            worker.go()
            worker.stopped()
            done += 10_000
            between = shown(running)
            assert_whole(between, a)
            if len({key for key in peers(between, a) if key[1] == "127.0.1.3"}) == 1:
                break
        else:
            pytest.fail(f"never told apart: {peers(between, a)}")
        assert any(address == EARLIER for _, address, _ in peers(between, a))
        after = shown(running)
    found = peers(after, a)
    hot = next(row for key, row in found.items() if key[1] == "127.0.1.3")
    assert sum(hot[:2]) <= done
    assert hot[2:] == (0, 1)  # it was opened as one of the others
    assert_whole(after, a)


@pytest.mark.guest("tcp")
def test_sockets_older_than_the_loader(tmpfs: Path, cgroups: Cgroup) -> None:
    """They count from its start, with the side that they have."""
    a, port = cgroups.child("old.service"), free_port()
    code = (
        COMMON
        + """
l = socket.create_server(("127.0.0.1", {port}))
c = socket.create_connection(l.getsockname())
s = l.accept()[0]
c.sendall(bytes(1000)); exactly(s, 1000)
gate()
c.sendall(bytes(777)); exactly(s, 777)
s.sendall(bytes(55)); exactly(c, 55)
gate()
"""
    )
    worker = Worker(a, code.format(port=port))
    with loader(tmpfs, *PEERS) as running:
        before = shown(running)
        assert {row[:2] for row in peers(before, a).values()} <= {(0, 0)}
        worker.go()
        worker.stopped()
        after = shown(running)
        assert_whole(after, a)
    assert peers(after, a) == {
        ("client", "127.0.0.1", str(port)): (777, 55, 0, 1),
        ("server", "127.0.0.1", str(port)): (55, 777, 0, 1),
    }


def test_service_address_is_that_of_the_clients_socket(tmpfs: Path, cgroups: Cgroup) -> None:
    """Behind a NAT the client knows the Service alone; the server's end names both."""
    if not shutil.which("nft"):
        pytest.skip("nft (Debian's nftables) is not here, so no Service address is translated")
    a, b = cgroups.child("client.service"), cgroups.child("server.service")
    with two_ends() as (left, right), loader(tmpfs, *PEERS) as running:
        left.ip("route", "add", "default", "via", right.address)
        rules = (
            "table ip kpod {\n chain output {\n type nat hook output priority -100;\n"
            f" ip daddr 10.96.0.10 tcp dport 80 dnat to {right.address}:5000\n }}\n}}\n"
        )
        path = tmpfs / "rules"
        path.write_text(rules)
        try:
            left.run("nft", "-f", str(path))
        except subprocess.CalledProcessError:
            pytest.skip("the kernel translates no addresses by nftables (nft_nat)")
        server = Plan(10, 2, 300, 4000, host=right.address, bind=right.address)
        served = Worker(b, with_namespace(SERVER.format(**asdict(server), port=5000), right.path))
        client = Plan(10, 2, 300, 4000, host="10.96.0.10")
        asked = Worker(a, with_namespace(CLIENT.format(**asdict(client), port=80), left.path))
        for worker in (served, asked):
            worker.go()
        for worker in (asked, served):
            worker.stopped()
        after = shown(running)
    assert peers(after, a) == {("client", "10.96.0.10", "80"): (6000, 80_000, 10, 0)}
    assert peers(after, b) == {("server", left.address, "5000"): (80_000, 6000, 10, 0)}
    assert_whole(after, a, b)


def test_short_connections_from_many_addresses(tmpfs: Path, cgroups: Cgroup) -> None:
    """While snapshots are taken and peers make room all the time, nothing is lost."""
    a, port, count = cgroups.child("a.service"), free_port(), 3000 // SLOWNESS
    code = (
        COMMON
        + f"""
listener = socket.create_server(("", {port}), backlog=4096)
gate()
for i in range({count}):
    c = socket.create_connection((f"127.0.{{i // 200 % 4}}.{{i % 200 + 1}}", {port}))
    s = listener.accept()[0]
    c.sendall(bytes(10 + i % 7)); c.close()
    exactly(s, 10 + i % 7); assert not s.recv(1); s.close()
gate()
"""
    )
    options = ("--tcp-peers", "3", "--culprits-renew", "0.02")
    with loader(tmpfs, *options, interval=0.02, program=TEST_LOADER) as running:
        worker = Worker(a, code)
        worker.go()
        worker.stopped()
        after = shown(running)
    assert_whole(after, a)
    total = sum(10 + i % 7 for i in range(count))
    found = peers(after, a)
    moved = [sum(row[i] for row in found.values()) for i in range(3)]
    if not hides_process_1():
        assert moved == [total, total, 2 * count]
    assert len([key for key in found if key[1] not in (OTHER, EARLIER)]) <= 3


@pytest.mark.guest("tcp")
def test_nobody_is_told_apart_unless_it_is_asked_for(tmpfs: Path, cgroups: Cgroup) -> None:
    a = cgroups.child("a.service")
    for options in (("--collectors", "tcp"), ("--profile", "comprehensive", "--tcp-peers", "0")):
        with loader(tmpfs, *options) as running:
            worker = talker(a, free_port(), "talk(1, 100)\ngate()")
            worker.go()
            worker.stopped()
            worker.end()
            after = shown(running)
        assert after.row(a.id, "tcp")[SENT] == 100
        assert not [row for row in after.keyed if row["table"] == TABLE]

"""Layer 7 against real servers and clients: exact at both ends, and a neighbour that has none."""

import ctypes
import json
import os
import platform
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.l7.servers import (
    Inside,
    grpcio,
    kafka,
    mariadb,
    mongodb,
    nghttpd,
    nginx,
    packages,
    postgresql,
    program,
    redis,
)
from tests.live import PRELUDE, Cgroup, Dump, Loader, Worker, loader
from tests.net import ENTER, link, namespaces

REQUESTS = "kpod_l7_requests_total"
DURATION = "kpod_l7_request_duration_seconds"
LOST = tuple(f"kpod_l7_requests_lost_total{{{r}}}" for r in ("gap", "overflow", "unmatched"))


@dataclass
class Site:
    """A server's container, a client's, and a neighbour's, in a network of their own."""

    running: Loader
    server: Inside
    client: Inside
    neighbour: Cgroup
    before: Dump

    def look(self) -> None:
        self.before = self.running.fresh()

    def moved(self, cgroup: Cgroup) -> Counter[tuple[str, ...]]:
        """Requests by (side, protocol, operation, status), since look()."""
        found: Counter[tuple[str, ...]] = Counter()
        for dump, sign in ((self.after, 1), (self.before, -1)):
            for keys, row in dump.by_key(cgroup.id, "l7").items():
                found[keys] += sign * row.get(REQUESTS, 0)
        return +found

    def ends(self) -> tuple[dict[tuple[str, ...], int], dict[tuple[str, ...], int]]:
        """What each end has, by (operation, status): of the client's, and of the server's."""
        self.after = self.running.fresh()
        client, server = (self.moved(inside.cgroup) for inside in (self.client, self.server))
        assert {keys[0] for keys in client} <= {"client"}
        assert {keys[0] for keys in server} <= {"server"}
        assert not self.moved(self.neighbour)
        return {k[2:]: n for k, n in client.items()}, {k[2:]: n for k, n in server.items()}

    def lost(self) -> list[int]:
        """By the client's end and the server's."""
        return [sum(self.row(inside)[name] for name in LOST) for inside in self.both]

    def connections(self) -> list[dict[str, int]]:
        """By protocol, at the client's end and the server's."""
        prefix = "kpod_l7_connections_total{"
        return [
            {name[len(prefix) : -1]: n for name, n in row.items() if name.startswith(prefix) and n}
            for row in map(self.row, self.both)
        ]

    @property
    def both(self) -> tuple[Inside, Inside]:
        return self.client, self.server

    def row(self, inside: Inside) -> dict[str, int]:
        return self.after.row(inside.cgroup.id, "l7_connections")


@contextmanager
def site(tmpfs: Path, cgroups: Cgroup) -> Iterator[Site]:
    server, client, neighbour = (
        cgroups.child(f"{name}.service") for name in ("server", "client", "neighbour")
    )
    with (
        namespaces("a") as (own,),
        loader(tmpfs, "--collectors", "l7") as running,
    ):
        yield Site(running, Inside(own, server), Inside(own, client), neighbour, running.fresh())


@contextmanager
def pinned(tmpfs: Path, cgroups: Cgroup) -> Iterator[Site]:
    """Both ends on one CPU. On loopback, segments that two CPUs send may overtake each other.

    That is a loss for who observes, and after it operations and statuses of HTTP/2 are unknown.
    A sender has two when its process moves, and when it is acknowledged on another CPU.
    """
    with site(tmpfs, cgroups) as s:
        s.server.cpus = s.client.cpus = {min(s.server.cpus)}
        yield s


def script(client: Inside, code: str) -> str:
    return client.run(sys.executable, "-S", "-c", code)


def python(server: Inside, code: str) -> AbstractContextManager[None]:
    """A server on port 8000."""
    return server.serving(sys.executable, "-S", "-c", code, port=8000)


HTTP_SERVER = """
import socket, sys, threading, time
def serve(s):
    data = b""
    def more():
        nonlocal data
        new = s.recv(65536)
        if not new: sys.exit()
        data += new
    def send(answer):
        for i in range(len(answer)): s.send(answer[i:i+1])
    while True:
        while b"\\r\\n\\r\\n" not in data: more()
        head, data = data.split(b"\\r\\n\\r\\n", 1)
        if b"expect" in head: send(b"HTTP/1.1 100 Continue\\r\\n\\r\\n")
        if b"chunked" in head:
            while not data.endswith(b"0\\r\\n\\r\\n"): more()
            data = b""
        elif b"content-length" in head:
            size = int(head.split(b"content-length: ")[1].split(b"\\r")[0])
            while len(data) < size: more()
            data = data[size:]
        method = head.split(b" ")[0]
        if method == b"GET": send(b"HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\n\\r\\nabc")
        if method == b"HEAD": send(b"HTTP/1.1 404 No\\r\\nContent-Length: 300\\r\\n\\r\\n")
        if method == b"POST":
            send(b"HTTP/1.1 201 Made\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n")
            send(b"2\\r\\nab\\r\\n0\\r\\n\\r\\n")
        if method == b"PUT": send(b"HTTP/1.1 500 No\\r\\nContent-Length: 0\\r\\n\\r\\n")
l = socket.socket(socket.AF_INET6)
l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.setsockopt(41, 26, 0) # IPV6_V6ONLY
l.bind(("::", 8000)); l.listen(512)
while True:
    s = l.accept()[0]
    s.setsockopt(6, 1, 1)
    threading.Thread(target=serve, args=(s,), daemon=True).start()
"""
HTTP_CLIENT = """
import socket
def one(host):
    s = socket.create_connection((host, 8000)); s.setsockopt(6, 1, 1)
    def ask(request, end):
        for i in range(len(request)): s.send(request[i:i+1])
        answer = b""
        while not answer.endswith(end): answer += s.recv(65536)
    ask(b"GET / HTTP/1.1\\r\\n\\r\\n", b"abc")
    ask(b"HEAD / HTTP/1.1\\r\\n\\r\\n", b"\\r\\n\\r\\n")
    head = b"POST / HTTP/1.1\\r\\nexpect: 100-continue\\r\\ncontent-length: 5\\r\\n\\r\\n"
    ask(head + b"GET /", b"\\r\\n0\\r\\n\\r\\n")
    head = b"PUT / HTTP/1.1\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n"
    ask(head + b"3\\r\\nabc\\r\\n0\\r\\n\\r\\n", b"\\r\\n\\r\\n")
for i in range({times}):
    one("127.0.0.1"); one("::1")
"""


@pytest.mark.guest("l7")
def test_http_a_byte_at_a_time_is_exact(tmpfs: Path, cgroups: Cgroup) -> None:
    times = 20
    with site(tmpfs, cgroups) as s, python(s.server, HTTP_SERVER):
        s.look()
        script(s.client, HTTP_CLIENT.format(times=times))
        client, server = s.ends()
    expected = {
        ("GET", "2xx"): 2 * times,
        ("HEAD", "4xx"): 2 * times,
        ("POST", "2xx"): 2 * times,
        ("PUT", "5xx"): 2 * times,
    }
    assert client == expected
    assert server == expected
    assert s.lost() == [0, 0]


def test_nginx_and_curl(tmpfs: Path, cgroups: Cgroup, tmp_path: Path) -> None:
    with site(tmpfs, cgroups) as s, nginx(s.server, tmp_path) as log:
        s.look()
        curl = program("/usr/bin/curl")
        urls = [f"http://127.0.0.1/{p}" for p in ("small", "large", "missing", "fail")]
        for _ in range(5):
            s.client.run(curl, "-s", *(word for u in urls for word in (u, "-o", "/dev/null")))
        s.client.run(curl, "-s", "-d", "@" + str(tmp_path / "root/large"), "http://127.0.0.1/post")
        client, server = s.ends()
        lines = log.read_text().splitlines()
    expected = {("GET", "2xx"): 10, ("GET", "4xx"): 5, ("GET", "5xx"): 5, ("POST", "2xx"): 1}
    assert client == server == expected
    assert len(lines) == sum(expected.values())
    assert s.lost() == [0, 0]


@pytest.mark.parametrize("pipeline", [1, 16])
def test_redis_benchmark_is_what_the_server_counted(
    tmpfs: Path, cgroups: Cgroup, tmp_path: Path, pipeline: int
) -> None:
    count = 4000
    with site(tmpfs, cgroups) as s, redis(s.server, tmp_path):
        s.look()
        benchmark = program("/usr/bin/redis-benchmark")
        s.client.run(
            *(benchmark, "-q", "-n", str(count), "-c", "10", "-P", str(pipeline)),
            *("-t", "set,get,lpush,mset"),
        )
        client, server = s.ends()
        stats = s.client.run(program("/usr/bin/redis-cli"), "info", "commandstats")
    expected = {(word, "ok"): count for word in ("SET", "GET", "LPUSH", "MSET")}
    for end in (client, server):
        assert {key: end[key] for key in expected} == expected
        assert set(end) - set(expected) <= {("CONFIG", "ok")}
    for word in ("set", "get", "lpush", "mset"):
        assert f"cmdstat_{word}:calls={count}," in stats
    assert s.lost() == [0, 0]


def test_postgresql_statements_and_errors(tmpfs: Path, cgroups: Cgroup) -> None:
    with site(tmpfs, cgroups) as s, postgresql(s.server, tmpfs / "pg") as psql:
        connect = (psql, "-h", "127.0.0.1", "-U", "postgres", "-q")
        s.client.run(*connect, "-c", "create table t(a int primary key)")
        s.look()
        for number in range(5):
            s.client.run(*connect, "-c", f"insert into t values({number})")
            s.client.run(*connect, "-c", "select no_such_column", check=False)
            s.client.run(*connect, "-c", "select 1/0", check=False)
            s.client.run(*connect, "-c", "select 1; select * from t; select 1/0", check=False)
        s.client.run(*connect, "-c", "copy t to stdout", "-c", "delete from t")
        client, server = s.ends()
    expected = {
        ("INSERT", "ok"): 5,
        ("SELECT", "42"): 5,
        ("SELECT", "22"): 10,
        ("COPY", "ok"): 1,
        ("DELETE", "ok"): 1,
    }
    assert client == server == expected
    assert s.lost() == [0, 0]


def test_mariadb_statements_and_errors(tmpfs: Path, cgroups: Cgroup) -> None:
    """As many statements as the server says it had, and the error after 2,000 rows is one."""
    late = "select (select seq from seq_1_to_2 where s.seq > 2000) from seq_1_to_3000 s"
    with site(tmpfs, cgroups) as s, mariadb(s.server, tmpfs / "my") as client:
        (tmpfs / "file").write_text("".join(f"{n}\n" for n in range(1000, 21000)))
        s.look()
        s.client.run(*client, "-e", "create database d; create table d.t(a int primary key)")
        for number in range(5):
            s.client.run(*client, "d", "-e", f"insert into t values({number}); select * from t")
            s.client.run(*client, "d", "-e", f"insert into t values({number})", check=False)
            s.client.run(*client, "d", "-e", "select no_such_column", check=False)
        s.client.run(*client, "d", "-e", f"load data local infile '{tmpfs}/file' into table t")
        rows = s.client.run(*client, "--quick", "d", "-e", f"select * from t; {late}", check=False)
        status = s.client.run(*client, "-e", "show global status like 'Com\\_%'")
        client_end, server_end = s.ends()
    assert len(rows.splitlines()) > 20005 + 1000
    assert "ERROR 1242 (21000)" in rows
    said = {line.split()[0]: int(line.split()[1]) for line in status.splitlines()[1:]}
    expected = {
        ("CREATE", "ok"): 2,
        ("INSERT", "ok"): 5,
        ("INSERT", "23"): 5,
        ("SELECT", "ok"): 6,
        ("SELECT", "42"): 5,
        ("SELECT", "21"): 1,
        ("LOAD", "ok"): 1,
        ("SHOW", "ok"): 1,
        ("QUIT", "one_way"): 19,
    }
    assert client_end == server_end == expected
    for verb in ("insert", "select", "load"):
        counted = sum(n for (operation, _), n in server_end.items() if operation == verb.upper())
        assert said[f"Com_{verb}"] == counted
    assert s.connections() == [{"mysql": 19}] * 2
    assert s.lost() == [0, 0]


USE_MONGODB = """
import json, sys
sys.path.insert(0, {packages!r})
from collections import Counter
import pymongo
from pymongo.errors import DuplicateKeyError, OperationFailure
from pymongo.monitoring import CommandListener
class Counts(CommandListener):
    rows = Counter()
    def started(self, event): pass
    def failed(self, event): self.rows[event.command_name + " error"] += 1
    def succeeded(self, event):
        status = "write_error" if event.reply.get("writeErrors") else "ok"
        self.rows[event.command_name + " " + status] += 1
client = pymongo.MongoClient("127.0.0.1", 27017, event_listeners=[Counts()])
table = client.d.t
for number in range(20):
    table.insert_one(dict(_id=number, text="x" * 5000))
    try: table.insert_one(dict(_id=number))
    except DuplicateKeyError: pass
    table.update_one(dict(_id=number), {{"$set": dict(a=1)}})
    assert len(list(table.find(dict(), batch_size=5))) == number + 1
    try: list(table.aggregate([{{"$nosuch": 1}}]))
    except OperationFailure: pass
    table.count_documents(dict())
table.delete_many(dict())
client.close()
print(json.dumps(Counts.rows))
"""


def test_mongodb_is_what_the_driver_counted(tmpfs: Path, cgroups: Cgroup, tmp_path: Path) -> None:
    """By command and result. The driver does not count its own hello."""
    code = USE_MONGODB.format(packages=packages("mongodb"))
    with site(tmpfs, cgroups) as s, mongodb(s.server, tmp_path):
        s.look()
        said = json.loads(script(s.client, code))
        ends = s.ends()
    expected = {tuple(key.split()): n for key, n in said.items()}
    assert {key: n for key, n in expected.items() if key[1] != "ok"} == {
        ("insert", "write_error"): 20,
        ("aggregate", "error"): 20,
    }
    assert expected["getMore", "ok"] > 20
    expected["other", "ok"] = expected.pop(("endSessions", "ok"))
    for end in ends:
        assert end.pop(("hello", "ok")) > 1
        assert end == expected
    assert s.lost() == [0, 0]


USE_KAFKA = """
import json, os, sys, time
sys.path.insert(0, {packages!r})
from confluent_kafka import Consumer, Producer, TopicPartition
def options(**more):
    stats = []
    at = dict({{"bootstrap.servers": {address!r}, "statistics.interval.ms": 100}}, **more)
    at["stats_cb"] = lambda text: stats.append(json.loads(text))
    return at, stats
def sent(client, stats):
    for _ in range(2):
        del stats[:]
        while not stats: client.poll(0.1)
    counts = {{}}
    for broker in stats[-1]["brokers"].values():
        for name, n in broker["req"].items():
            if n: counts[name] = counts.get(name, 0) + n
    return counts
results = []
for acks in (1, 0):
    settings, stats = options(acks=acks)
    producer = Producer(settings)
    for n in range(50):
        producer.produce("t", b"x" * 200)
        producer.flush()
    results.append(sent(producer, stats))
settings, stats = options(**{{"group.id": "g", "fetch.wait.max.ms": 300}})
consumer = Consumer(settings)
consumer.assign([TopicPartition("t", n, 0) for n in range(4)])
got = 0
while got < 100:
    message = consumer.poll(10)
    got += message is not None and not message.error()
time.sleep(1)
consumer.pause([TopicPartition("t", n) for n in range(4)])
time.sleep(0.5)
results.append(sent(consumer, stats))
print(json.dumps(results), flush=True)
os._exit(0)
"""
# librdkafka's names for what Kafka calls otherwise, or what we do not name.
OTHER_NAMES = {"ApiVersion": "ApiVersions", "GetTelemetrySubscriptions": "other"}


def test_kafka_is_what_the_client_sent(tmpfs: Path, cgroups: Cgroup) -> None:
    """By key, of producers with and without acks, and of a consumer, whose Fetch has no latency.

    The broker lives in the process of a client of its own, which asks it something too.
    """
    with site(tmpfs, cgroups) as s, kafka(s.server) as address:
        s.look()
        code = USE_KAFKA.format(packages=packages("kafka"), address=address)
        results = json.loads(script(s.client, code))
        s.after = s.running.fresh()
    said: Counter[str] = Counter()
    for counts in results:
        for name, n in counts.items():
            said[OTHER_NAMES.get(name, name)] += n
    assert said["Produce"] == 100

    def asked(inside: Inside, side: str) -> Counter[str]:
        counts: Counter[str] = Counter()
        for (end, _, operation, _), n in s.moved(inside.cgroup).items():
            if end == side:
                counts[operation] += n
        return counts

    # The client forgets what it asked over connections to brokers that it knew by address only.
    found = asked(s.client, "client")
    assert {name: found[name] for name in ("Produce", "Fetch")} == {
        name: said[name] for name in ("Produce", "Fetch")
    }
    assert found >= said
    assert asked(s.server, "server") == found + asked(s.server, "client")
    assert not asked(s.client, "server")
    assert not s.moved(s.neighbour)
    for inside, side in ((s.client, "client"), (s.server, "server")):
        rows = s.after.by_key(inside.cgroup.id, "l7")
        assert rows[side, "kafka", "Produce", "answered"][REQUESTS] == 50
        assert rows[side, "kafka", "Produce", "one_way"][REQUESTS] == 50
        assert rows[side, "kafka", "Fetch", "answered"][REQUESTS] >= 4
        assert not sum(rows[side, "kafka", "Fetch", "answered"][DURATION])
        for operation in ("Produce", "Metadata", "ApiVersions"):
            row = rows[side, "kafka", operation, "answered"]
            assert sum(row[DURATION]) == row[REQUESTS]
    assert s.lost() == [0, 0]


SLOW = """
import socket, sys, time
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.bind(("127.0.0.1", 8000)); l.listen(8)
while True:
    s = l.accept()[0]
    while s.recv(65536):
        time.sleep(0.005)
        s.send(b"HTTP/1.1 200 OK\\r\\nContent-Length: 4\\r\\n\\r\\nab")
        time.sleep(0.02)
        s.send(b"cd")
"""
ASK_SLOW = """
import json, socket, time
s = socket.create_connection(("127.0.0.1", 8000))
spent = []
for _ in range(20):
    began = time.monotonic_ns()
    s.send(b"GET / HTTP/1.1\\r\\n\\r\\n")
    answer = b""
    while not answer.endswith(b"cd"): answer += s.recv(65536)
    spent.append(time.monotonic_ns() - began)
print(json.dumps(spent))
"""


@pytest.mark.guest("l7")
def test_latency_ends_with_the_last_byte(tmpfs: Path, cgroups: Cgroup) -> None:
    """No shorter than the server's sleeps, no longer than the client found, wake-up included."""
    with site(tmpfs, cgroups) as s, python(s.server, SLOW):
        s.look()
        spent = [ns / 1e9 for ns in json.loads(script(s.client, ASK_SLOW))]
        s.ends()
    for side, inside in (("client", s.client), ("server", s.server)):
        row = s.after.by_key(inside.cgroup.id, "l7")[side, "http", "GET", "2xx"]
        assert row[REQUESTS] == sum(row[DURATION]) == 20
        used = [bucket for bucket, count in enumerate(row[DURATION]) if count]
        assert 2 ** (-20 + used[0] / 4) >= 0.025
        assert 2 ** (-20 + (used[-1] - 1) / 4) <= max(spent)


UPGRADES = """
import socket
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.bind(("127.0.0.1", 8000)); l.listen(8)
while True:
    s = l.accept()[0]
    s.recv(65536)
    s.send(b"HTTP/1.1 101 Switching Protocols\\r\\n\\r\\n")
    while s.recv(65536): s.send(b"frame")
"""
UPGRADED = """
import socket
s = socket.create_connection(("127.0.0.1", 8000))
s.send(b"GET / HTTP/1.1\\r\\n\\r\\n"); s.recv(65536)
for _ in range(3): s.send(b"frame"); s.recv(65536)
"""


@pytest.mark.guest("l7")
def test_a_connection_that_leaves_its_protocol_is_counted_once(
    tmpfs: Path, cgroups: Cgroup
) -> None:
    with site(tmpfs, cgroups) as s, python(s.server, UPGRADES):
        s.look()
        script(s.client, UPGRADED)
        assert s.ends() == ({("GET", "1xx"): 1}, {("GET", "1xx"): 1})
    assert s.connections() == [{"http": 1}] * 2


OLDER = (
    PRELUDE.replace("gate()\n", "")
    + ENTER
    + """
import socket
enter({path!r})
s = socket.create_connection(("127.0.0.1", 8000))
def ask(request, size):
    s.send(request)
    answer = b""
    while len(answer) < size: answer += s.recv(65536)
head = len(b"HTTP/1.1 200 OK\\r\\nContent-Length: 1000000\\r\\n\\r\\n")
ask(b"GET / HTTP/1.1\\r\\n\\r\\n", head + 1000000)
s.send(b"GET / HTTP/1.1\\r\\n\\r\\n")
got = len(s.recv(1000))
gate()
while got < head + 1000000: got += len(s.recv(65536))
for _ in range(20): ask(b"GET / HTTP/1.1\\r\\n\\r\\n", head + 1000000)
gate()
"""
)
LARGE = """
import socket, threading
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.bind(("0.0.0.0", 8000)); l.listen(64)
answer = b"HTTP/1.1 200 OK\\r\\nContent-Length: {size}\\r\\n\\r\\n"
answer += b"GET / HTTP/1.1\\r\\n" * {lines}
def serve(s):
    while s.recv(65536): s.sendall(answer)
while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
"""


@pytest.mark.guest("l7")
def test_older_connections_are_read_from_the_next_request_on(tmpfs: Path, cgroups: Cgroup) -> None:
    """Also where a large answer, full of what looks like requests, is under way at the start."""
    server, client = cgroups.child("server.service"), cgroups.child("client.service")
    with namespaces("a") as (own,):
        serving = python(Inside(own, server), LARGE.format(size=1_000_000, lines=62_500))
        with serving:
            worker = Worker(client, OLDER.format(path=own.path))
            with loader(tmpfs, "--collectors", "l7") as running:
                before = running.fresh()
                worker.go()
                worker.stopped()
                s = Site(running, Inside(own, server), Inside(own, client), cgroups, before)
                s.after = running.fresh()
                ends = s.moved(client), s.moved(server)
            worker.end()
    assert ends[0] == {("client", "http", "GET", "2xx"): 20}
    assert ends[1] == {("server", "http", "GET", "2xx"): 20}


NOISE = """
import os, socket, threading
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.bind(("127.0.0.1", 8000)); l.listen(512)
def serve(s):
    while s.recv(65536): s.send(os.urandom(700))
while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
"""
MAKE_NOISE = """
import os, socket
for _ in range(300):
    s = socket.create_connection(("127.0.0.1", 8000))
    for _ in range(20):
        s.send(os.urandom(500))
        s.recv(65536)
    s.close()
"""


def test_random_bytes_are_no_protocol(tmpfs: Path, cgroups: Cgroup) -> None:
    with site(tmpfs, cgroups) as s, python(s.server, NOISE):
        s.look()
        script(s.client, MAKE_NOISE)
        client, server = s.ends()
        rows = [s.after.row(i.cgroup.id, "l7_connections") for i in (s.client, s.server)]
    assert client == server == {}
    for row in rows:
        counted = {
            name: value
            for name, value in row.items()
            if name.startswith("kpod_l7_connections_total") and value
        }
        assert counted == {"kpod_l7_connections_total{unknown}": 300}
        assert row["kpod_l7_untracked_connections_total"] == 0


ASK_LARGE = """
import socket
for _ in range({conns}):
    s = socket.create_connection(("{address}", 8000))
    for _ in range(10):
        s.send(b"GET / HTTP/1.1\\r\\n\\r\\n")
        left = {answer}
        while left: left -= len(s.recv(min(left, 65536)))
    s.close()
"""


def test_what_loss_takes_is_counted(tmpfs: Path, cgroups: Cgroup) -> None:
    """One in 50 large packets of the server is lost, and comes again later, out of order."""
    size, conns = 30_000, 20
    server, client, other = (cgroups.child(f"{n}.service") for n in ("server", "client", "other"))
    answer = len(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n") + size
    with (
        namespaces("a", "b") as (a, b),
        link(a, b, lose_one_in=50),
        loader(tmpfs, "--collectors", "l7") as running,
    ):
        s = Site(running, Inside(a, server), Inside(b, client), other, running.fresh())
        with python(s.server, LARGE.format(size=size, lines=size // 16)):
            script(s.client, ASK_LARGE.format(address=a.address, conns=conns, answer=answer))
            ends = s.ends()
            retransmitted = int(a.snmp("Tcp", "RetransSegs"))
    assert retransmitted > 10
    assert ends[1] == {("GET", "2xx"): conns * 10}
    assert s.lost()[1] == 0
    whole = ends[0]["GET", "2xx"]
    assert whole + ends[0].get(("GET", "no_response"), 0) + s.lost()[0] == conns * 10
    # Most are lost in the midst of a body, which loses nothing.
    assert whole > 0.9 * conns * 10


class Program:
    """A program of somebody else's at a cgroup: it lets everything through, or nothing."""

    LOAD, ATTACH, DETACH, KIND, INGRESS = 5, 8, 9, 8, 0

    def __init__(self, passes: bool) -> None:
        code = struct.pack("=BBhi", 0xB7, 0, 0, passes) + struct.pack("=BBhi", 0x95, 0, 0, 0)
        self.code = ctypes.create_string_buffer(code)
        self.license = ctypes.create_string_buffer(b"GPL")
        attributes = struct.pack(
            "=IIQQIIQII16sII",
            *(self.KIND, 2, ctypes.addressof(self.code), ctypes.addressof(self.license)),
            *(0, 0, 0, 0, 0, b"other", 0, self.INGRESS),
        )
        self.fd = self.call(self.LOAD, attributes)

    @staticmethod
    def call(command: int, attributes: bytes) -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(attributes)
        number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
        result = int(libc.syscall(number, command, buffer, len(attributes)))
        assert result >= 0, os.strerror(ctypes.get_errno())
        return result

    @contextmanager
    def attached(self, cgroup: Path, flags: int) -> Iterator[None]:
        fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        where = struct.pack("=IIII", fd, self.fd, self.INGRESS, flags)
        self.call(self.ATTACH, where)
        try:
            yield
        finally:
            self.call(self.DETACH, where[:-4] + bytes(4))
            os.close(fd)


@pytest.mark.parametrize("flags", [0, 1, 2], ids=["none", "override", "multi"])
@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_beside_programs_of_others(tmpfs: Path, cgroups: Cgroup, flags: int, first: str) -> None:
    """Attached to a cgroup below ours in each way there is: both go on working."""
    server = cgroups.child("above").path
    with ExitStack() as stack:
        theirs = Program(True).attached(server, flags)
        if first == "theirs":
            stack.enter_context(theirs)
        s = stack.enter_context(site(tmpfs, cgroups))
        if first == "ours":
            stack.enter_context(theirs)
        s.server.cgroup = Cgroup(server / "server.service")
        stack.enter_context(python(s.server, SLOW))
        s.look()
        script(s.client, ASK_SLOW)
        assert s.ends() == ({("GET", "2xx"): 20}, {("GET", "2xx"): 20})
        with Program(False).attached(s.client.cgroup.path, flags):
            assert script(s.client, CONNECT) == "dropped\n"


CONNECT = """
import socket
s = socket.socket()
s.settimeout(0.3)
try: s.connect(("127.0.0.1", 8000))
except TimeoutError: print("dropped")
"""


# Frames by hand, a byte at a time: fields of the static table, and one that goes to the dynamic one
# and is then named by its index, as `:status: 503` of the answer to every third.
HTTP2 = """
import socket, struct
def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload
def read(s, data=b""):
    while len(data) < 9: data += s.recv(9 - len(data)) or exit()
    size, kind, flags = int.from_bytes(data[:3], "big"), data[3], data[4]
    left = size
    while left: left -= len(s.recv(left))
    return kind, flags, int.from_bytes(data[5:9], "big")
def slowly(s, data):
    for i in range(len(data)): s.send(data[i:i+1])
"""
HTTP2_SERVER = (
    HTTP2
    + """
import threading
def serve(s):
    s.setsockopt(6, 1, 1)
    if s.recv(3, socket.MSG_WAITALL) == b"GET":
        while not s.recv(1000).endswith(b"\\r\\n\\r\\n"): pass
        slowly(s, b"HTTP/1.1 101 Switching Protocols\\r\\nupgrade: h2c\\r\\n\\r\\n")
        s.sendall(frame(4, 0, 0) + frame(1, 4, 1, b"\\x8d") + frame(0, 1, 1, b"abc"))
        s.recv(3, socket.MSG_WAITALL)
    left = 21
    while left: left -= len(s.recv(left))
    slowly(s, frame(4, 0, 0))
    seen = 0
    while True:
        kind, flags, stream = read(s)
        if kind != 1: continue
        if seen % 3 == 2:
            block = b"\\x48\\x03503" if seen == 2 else b"\\xbe"
        else:
            block = b"\\x88"
        seen += 1
        slowly(s, frame(1, 4, stream, block) + frame(0, 1, stream, b"abc"))
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.bind(("127.0.0.1", 8000)); l.listen(64)
while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
"""
)
HTTP2_CLIENT = (
    HTTP2
    + """
def connect():
    s = socket.create_connection(("127.0.0.1", 8000)); s.setsockopt(6, 1, 1)
    slowly(s, b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + frame(4, 0, 0))
    return s
def ask(s, first, last):
    for number in range(first, last):
        block = b"\\x42\\x03PUT" if number == first else b"\\xbe" if number % 2 else b"\\x83"
        slowly(s, frame(1, 5, 2 * number + 1, block + b"\\x86\\x84"))
        while read(s)[:2] != (0, 1): pass
"""
)


@pytest.mark.guest("l7")
def test_http2_a_byte_at_a_time_is_exact(tmpfs: Path, cgroups: Cgroup) -> None:
    times, conns = 12, 5
    code = f"{HTTP2_CLIENT}\nfor _ in range({conns}): ask(connect(), 0, {times})\n"
    with pinned(tmpfs, cgroups) as s, python(s.server, HTTP2_SERVER):
        s.look()
        script(s.client, code)
        client, server = s.ends()
    # Of 12: PUT are 0 and the odd ones, 503 are 2, 5, 8, 11.
    expected = {
        ("PUT", "2xx"): 5 * conns,
        ("PUT", "5xx"): 2 * conns,
        ("POST", "2xx"): 3 * conns,
        ("POST", "5xx"): 2 * conns,
    }
    assert client == server == expected
    assert s.connections() == [{"http2": conns}] * 2
    assert s.lost() == [0, 0]


HTTP2_UPGRADE = """
s = socket.create_connection(("127.0.0.1", 8000)); s.setsockopt(6, 1, 1)
slowly(s, b"GET / HTTP/1.1\\r\\nUpgrade: h2c\\r\\n\\r\\n")
answer = b""
while not answer.endswith(b"\\r\\n\\r\\n"): answer += s.recv(1)
while read(s) != (0, 1, 1): pass
s.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + frame(4, 0, 0))
ask(s, 1, 6)
"""


@pytest.mark.guest("l7")
def test_an_upgrade_to_http2_is_answered_in_it(tmpfs: Path, cgroups: Cgroup) -> None:
    """The first request is one of HTTP/1 whose answer, 404, is that of stream 1."""
    with pinned(tmpfs, cgroups) as s, python(s.server, HTTP2_SERVER):
        s.look()
        script(s.client, HTTP2_CLIENT + HTTP2_UPGRADE)
        client, server = s.ends()
        kinds = {keys[1] for inside in s.both for keys in s.moved(inside.cgroup)}
    assert (
        client
        == server
        == {
            ("GET", "4xx"): 1,
            ("PUT", "2xx"): 2,
            ("PUT", "5xx"): 1,
            ("POST", "2xx"): 2,
        }
    )
    assert kinds == {"http2"}
    assert s.connections() == [{"http": 1, "http2": 1}] * 2
    assert s.lost() == [0, 0]


BYTES, WHOLE = "for i in range(len(data)): s.send(data[i:i+1])", "s.sendall(data)"
HTTP2_OLDER = (
    PRELUDE.replace("gate()\n", "")
    + ENTER
    + HTTP2_CLIENT
    + """
enter({path!r})
s = connect()
ask(s, 0, 6)
gate()
ask(s, 6, 30)
gate()
"""
)


@pytest.mark.guest("l7")
def test_of_older_http2_only_the_number_is_known(tmpfs: Path, cgroups: Cgroup) -> None:
    """What the tables of its sides have in them was said before, so nothing is guessed."""
    server, client = cgroups.child("server.service"), cgroups.child("client.service")
    serving = HTTP2_SERVER.replace(BYTES, WHOLE)
    with namespaces("a") as (own,), python(Inside(own, server), serving):
        asking = HTTP2_OLDER.replace("{path!r}", repr(str(own.path)))
        worker = Worker(client, asking.replace(BYTES, WHOLE))
        with loader(tmpfs, "--collectors", "l7") as running:
            before = running.fresh()
            worker.go()
            worker.stopped()
            s = Site(running, Inside(own, server), Inside(own, client), cgroups, before)
            s.after = running.fresh()
            ends = s.moved(client), s.moved(server)
            lost = s.lost()
        worker.end()
    for side, found, missing in zip(("client", "server"), ends, lost, strict=True):
        assert set(found) == {(side, "http2", "unknown", "unknown")}
        assert found[side, "http2", "unknown", "unknown"] + missing == 24
        assert missing <= 1


def test_http2_multiplexed_is_what_the_client_counted(
    tmpfs: Path, cgroups: Cgroup, tmp_path: Path
) -> None:
    """Ten streams at once are all told apart; of a hundred, those that are not are counted."""
    few, most = 2000, 1000
    with pinned(tmpfs, cgroups) as s, nghttpd(s.server, tmp_path):
        s.look()
        load = (program("/usr/bin/h2load"), "-t", "1", "-c", "4", "-m")
        url = "http://127.0.0.1:8000"
        said = s.client.run(*load, "10", "-n", str(few), f"{url}/small")
        assert f"{few} succeeded, 0 failed" in said
        client, server = s.ends()
        assert client == server == {("GET", "2xx"): few}
        assert s.connections() == [{"http2": 4}] * 2
        assert s.lost() == [0, 0]
        said = s.client.run(*load, "100", "-n", str(most), f"{url}/larger")
        assert f"{most} succeeded, 0 failed" in said
        ends = s.ends()
    overflow = [s.row(inside)[LOST[1]] for inside in s.both]
    assert s.lost() == overflow
    for counted, lost in zip(ends, overflow, strict=True):
        assert lost
        assert set(counted) == {("GET", "2xx")}
        assert counted["GET", "2xx"] + lost == few + most


def test_http2_of_nghttp_by_method_and_status(tmpfs: Path, cgroups: Cgroup, tmp_path: Path) -> None:
    """Padding, priorities, bodies, and pushes, which nobody asked for."""
    pushes = "--push=/small=/larger,/small"
    with pinned(tmpfs, cgroups) as s, nghttpd(s.server, tmp_path, "--padding=60", pushes):
        s.look()
        nghttp = (program("/usr/bin/nghttp"), "-n")
        url = "http://127.0.0.1:8000"
        for _ in range(5):
            s.client.run(*nghttp, "-b", "100", *(f"{url}/{p}" for p in ("small", "larger", "no")))
            s.client.run(*nghttp, "-d", str(tmp_path / "larger"), f"{url}/small")
            s.client.run(*nghttp, "-H", ":method: HEAD", f"{url}/larger")
            s.client.run(*nghttp, "-H", ":method: DELETE", f"{url}/no")
        client, server = s.ends()
    assert client == server
    assert client == {
        ("GET", "2xx"): 10,
        ("GET", "4xx"): 5,
        ("POST", "2xx"): 5,
        ("HEAD", "2xx"): 5,
        ("DELETE", "4xx"): 5,
    }
    assert s.connections() == [{"http2": 20}] * 2
    assert s.lost() == [0, 0]


USE_GRPC = """
import json, sys, threading
sys.path.insert(0, {packages!r})
from collections import Counter
import grpc
counts = Counter()
def ended(call):
    try: code = (call() if callable(call) else call).code().name
    except grpc.RpcError as e: code = e.code().name
    counts[code] += 1
with grpc.insecure_channel("127.0.0.1:8000") as channel:
    one, many = channel.unary_unary("/t.S/One"), channel.unary_stream("/t.S/Many")
    collect, echo = channel.stream_unary("/t.S/Collect"), channel.stream_stream("/t.S/Echo")
    def calls(each):
        for n in range(each):
            ended(lambda: one.with_call(b"x" * 10 * n, metadata=[("n", str(n))])[1])
            for code in (3, 5, 13, 16): ended(lambda: one.with_call(b"code %d" % code)[1])
            for answers in (b"0", b"3", b"20"):
                stream = many(answers)
                try: list(stream)
                except grpc.RpcError: pass
                ended(stream)
            ended(lambda: collect.with_call(iter([b"x" * 20000] * 5))[1])
            stream = echo(iter([b"x" * 100] * 10)); assert len(list(stream)) == 10
            ended(stream)
            ended(lambda: channel.unary_unary("/t.S/None").with_call(b"")[1])
    threads = [threading.Thread(target=calls, args=(20,)) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    for _ in range(10):
        stream = channel.unary_stream("/t.S/Forever")(b"")
        next(stream); stream.cancel()
        ended(stream)
print(json.dumps(counts))
"""


def test_grpc_is_what_the_client_counted(tmpfs: Path, cgroups: Cgroup) -> None:
    """Streams of all four kinds, errors with and without messages before, and cancelled ones."""
    with pinned(tmpfs, cgroups) as s, grpcio(s.server) as folder:
        s.look()
        said = json.loads(script(s.client, USE_GRPC.format(packages=folder)))
        client, server = s.ends()
        kinds = {keys[1] for inside in s.both for keys in s.moved(inside.cgroup)}
    assert said.pop("CANCELLED") == 10
    assert said == {
        "OK": 5 * 80,
        "DATA_LOSS": 80,
        "UNIMPLEMENTED": 80,
        **dict.fromkeys(("INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL", "UNAUTHENTICATED"), 80),
    }
    expected = {("POST", code): n for code, n in said.items()}
    expected["POST", "cancelled"] = 10
    assert client == server == expected
    assert kinds == {"grpc"}
    assert s.lost() == [0, 0]


def test_what_loss_takes_of_http2_is_counted(tmpfs: Path, cgroups: Cgroup, tmp_path: Path) -> None:
    """What comes after it is of an unknown status, and never of another."""
    requests = 400
    server, client, other = (cgroups.child(f"{n}.service") for n in ("server", "client", "other"))
    with (
        namespaces("a", "b") as (a, b),
        link(a, b, lose_one_in=50),
        loader(tmpfs, "--collectors", "l7") as running,
    ):
        s = Site(running, Inside(a, server), Inside(b, client), other, running.fresh())
        s.server.cpus = s.client.cpus = {min(s.server.cpus)}
        with nghttpd(s.server, tmp_path):
            load = (program("/usr/bin/h2load"), "-t", "1", "-c", "10", "-m", "2")
            said = s.client.run(*load, "-n", str(requests), f"http://{a.address}:8000/larger")
            assert f"{requests} succeeded, 0 failed" in said
            ends = s.ends()
            retransmitted = int(a.snmp("Tcp", "RetransSegs"))
    assert retransmitted > 10
    assert ends[1] == {("GET", "2xx"): requests}
    assert s.lost()[1] == 0
    known = {("GET", "2xx"), ("GET", "unknown"), ("GET", "no_response")}
    assert set(ends[0]) <= known
    assert ends[0]["GET", "unknown"]
    assert s.lost()[0]
    assert sum(ends[0].values()) + s.lost()[0] == requests

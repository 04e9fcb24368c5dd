"""
Every recorded conversation (tests/fixtures/l7/README.md has the true counts), however it is cut.

The same step functions that the kernel runs, in a process: fed whole, a byte at a time, cut in two
at each place, with segments sent again, and seen from either end, they come to the same.
"""

import struct
from collections import Counter
from typing import Any

import pytest

from tests.l7.recordings import FOLDER, Recording, Result, replay

HOW = (("bytes",), ("pairs",), ("again",), ("bytes", "client"), ("again", "client"))

# name: (protocol, requests, answers, errors, most outstanding), errors by the statuses below.
TRUE = {
    "http1-1xx": ("http", 2, 2, 0, 1),
    "http1-408-silent-haproxy": ("http", 0, 0, 0, 0),
    "http1-absolute-form-proxy": ("http", 2, 2, 0, 1),
    "http1-connect": ("http", 1, 1, 0, 1),
    "http1-duplex": ("http", 2, 2, 0, 1),
    "http1-early-403-keepalive": ("http", 2, 2, 0, 1),
    "http1-expect-refused-curl": ("http", 2, 2, 0, 1),
    "http1-head-304-204-chunk": ("http", 5, 5, 1, 5),
    "http1-pipelined-nginx": ("http", 8, 8, 2, 8),
    "http1-sse-slow": ("http", 2, 2, 0, 1),
    "http1-upgrade-h2c-apache": ("http2", 2, 2, 0, 1),
    "http1-websocket": ("http", 1, 1, 0, 1),
    "redis-benchmark-pipeline16": ("redis", 208, 208, 0, 16),
    "redis-blpop": ("redis", 11, 11, 6, 1),
    "redis-inline": ("redis", 7, 7, 0, 2),
    # The PING after MONITOR is not looked at: README has 8.
    "redis-monitor": ("redis", 7, 7, 3, 1),
    "redis-multi-exec-errors": ("redis", 25, 25, 7, 6),
    # README has 14 answers, as the other two are pushes; they answer SUBSCRIBE and UNSUBSCRIBE.
    "redis-pubsub": ("redis", 16, 16, 6, 1),
    "redis-py-connect-6379": ("redis", 6, 6, 3, 1),
    "redis-py-connect-6380": ("redis", 6, 6, 1, 1),
    "redis-replication-psync": ("redis", 4, 4, 0, 1),
    "redis-tracking-push": ("redis", 6, 6, 0, 1),
    "valkey-replication-psync": ("redis", 5, 5, 0, 2),
    "postgres-asyncpg": ("postgresql", 11, 11, 1, 1),
    "postgres-cancel-proto32": ("postgresql", 4, 4, 3, 1),
    "postgres-copy": ("postgresql", 4, 4, 2, 1),
    # START_REPLICATION is answered by what begins the stream; README has 3 answers.
    "postgres-logical-replication": ("postgresql", 4, 4, 0, 1),
    "postgres-node-pg": ("postgresql", 9, 9, 1, 1),
    "postgres-notify-terminate": ("postgresql", 10, 9, 0, 1),
    "postgres-pgbench-pipeline": ("postgresql", 3, 3, 0, 1),
    "postgres-pipeline-error": ("postgresql", 5, 5, 1, 1),
    "dns-tcp-out-of-order": ("dns", 2, 2, 0, 2),
    "dns-glibc-tc-tcp-rounds": ("dns", 2, 2, 0, 1),
    "dns-go-resolver": ("dns", 2, 2, 0, 1),
    "mysql-cli": ("mysql", 5, 4, 1, 1),
    "mysql-local-infile": ("mysql", 4, 3, 0, 1),
    # Its error is the log-in's, which is no request: an unsolicited one.
    "mysql-login-refused": ("mysql", 0, 0, 0, 0),
    "mysql-mariadb-c-binary": ("mysql", 12, 10, 2, 2),
    "mysql-node-mariadb-pipelined": ("mysql", 18, 17, 1, 3),
    "mysql-node-mysql2-prepared": ("mysql", 23, 17, 2, 1),
    "mysql-row-heads": ("mysql", 5, 4, 0, 1),
    "mysql-send-long-data": ("mysql", 9, 6, 0, 1),
    "mysql-simple-multi": ("mysql", 8, 7, 2, 1),
    # README has 18 answers: one is more of a hello's, one answers what needs no answer.
    "mongo-node-driver": ("mongodb", 18, 16, 1, 1),
    # README has an error; it is compressed.
    "mongo-op-compressed": ("mongodb", 8, 8, 0, 1),
    # README has 3 errors, but all documents say `ok: 1`, also that of a command which is none.
    "mongo-pymongo-writeerrors": ("mongodb", 11, 11, 2, 1),
    # README has the answers that brokers give to acks=0, and counts these as outstanding.
    "kafka-acks0-answered": ("kafka", 11, 4, 0, 1),
    "kafka-acks0-mock": ("kafka", 13, 7, 0, 1),
    "kafka-aiokafka": ("kafka", 29, 29, 0, 2),
    "kafka-consumer-group": ("kafka", 42, 42, 0, 3),
    "kafka-kafkajs": ("kafka", 33, 32, 0, 2),
    "kafka-kip848-mock": ("kafka", 11, 11, 0, 1),
    "kafka-producer-acks0": ("kafka", 15, 3, 0, 1),
    "kafka-producer-acks1": ("kafka", 16, 16, 0, 2),
    "kafka-producer-idem": ("kafka", 7, 7, 0, 2),
    "kafka-python-ng": ("kafka", 11, 11, 0, 2),
    # README has 10 answers: the one that the client cancelled has none, but has ended.
    "grpc-deadline-cancel-stream": ("http2", 11, 10, 4, 4),
    "grpc-envoy": ("http2", 8, 8, 1, 1),
    "grpc-unary-grpcio": ("http2", 12, 12, 2, 1),
    "grpc-unary-grpcjs": ("http2", 12, 12, 2, 1),
    "http2-h2load-multiplexed": ("http2", 30, 30, 0, 10),
    "http2-nghttp-node-priority": ("http2", 5, 5, 1, 5),
    "http2-node-statuses": ("http2", 18, 18, 8, 1),
    "http2-padding-priority": ("http2", 2, 2, 0, 2),
    "http2-table-size-0": ("http2", 2, 2, 0, 2),
}
# The responder of that recording answers a request that says it wants no answer.
EVENTS = {"mongo-node-driver": {"unmatched": 1}}
NO_ERROR = {
    *("ok", "answered", "no_response", "one_way", "1xx", "2xx", "3xx", "4xx", "NOERROR"),
    *("OK", "cancelled"),
}
# Protocols that are not read, but could be taken for one that is.
OPAQUE = {
    "memcached-text": "unknown",
    "nats-client": "unknown",
    "tls13-opaque": "tls",
    "mysql-compressed": "unknown",
}


def tcp(name: str) -> bytes:
    return Recording.of(name).packed()


@pytest.mark.parametrize("name", TRUE)
def test_counts_are_true(name: str) -> None:
    protocol, requests, answers, errors, most = TRUE[name]
    result = replay(tcp(name), "whole")
    assert set(result.protocols) == {protocol}
    assert result.requests == requests
    assert result.answers == answers
    assert sum(n for (_, status), n in result.rows.items() if status not in NO_ERROR) == errors
    assert result.most == most
    assert result.grpc == (requests if name.startswith("grpc-") else 0)
    del result.events["unsolicited"]
    assert result.events == EVENTS.get(name, {})


def same(a: Result, b: Result) -> bool:
    return (a.rows, a.events, a.untimed, a.grpc, sorted(a.protocols)) == (
        b.rows,
        b.events,
        b.untimed,
        b.grpc,
        sorted(b.protocols),
    )


@pytest.mark.parametrize("name", [*TRUE, *OPAQUE])
@pytest.mark.parametrize("how", HOW, ids=" ".join)
def test_how_it_is_cut_makes_no_difference(name: str, how: tuple[str, ...]) -> None:
    packed = tcp(name)
    assert same(replay(packed, *how), replay(packed, "whole"))


def test_every_recording_is_tested() -> None:
    left = {
        path.stem
        for path in FOLDER.glob("*.jsonl")
        if "tcp" in Recording.of(path.stem).transport and path.stem not in {*TRUE, *OPAQUE}
    }
    assert not left


TCP = sorted(p.stem for p in FOLDER.glob("*.jsonl") if "tcp" in Recording.of(p.stem).transport)


@pytest.mark.parametrize("name", TCP)
def test_who_joins_late_takes_nothing_for_something_else(name: str) -> None:
    """From each of the first segments on: the protocol, or unknown."""
    known = {TRUE[name][0] if name in TRUE else OPAQUE.get(name, "unknown")}
    if "upgrade" in name:
        known.add("http")
    for first in (1, 2, 3, 4, 6, 9):
        found = replay(tcp(name), "late", str(first), *(["client"] * (first & 1))).protocols
        assert set(found) <= {*known, "unknown"}, first


@pytest.mark.parametrize("name", OPAQUE)
def test_look_alikes_are_not_taken_for_something_else(name: str) -> None:
    result = replay(tcp(name), "whole")
    assert result.protocols == [OPAQUE[name]]
    assert not result.requests
    assert not result.events


def rows(name: str) -> Counter[tuple[str, str]]:
    return replay(tcp(name), "whole").rows


def test_an_error_that_nobody_asked_for_is_an_event() -> None:
    assert replay(tcp("http1-408-silent-haproxy"), "whole").events == {"unsolicited": 1}
    assert replay(tcp("postgres-notify-terminate"), "whole").events == {"unsolicited": 1}


def test_final_statuses_by_method() -> None:
    assert rows("http1-1xx") == {("GET", "2xx"): 1, ("POST", "2xx"): 1}
    assert rows("http1-early-403-keepalive") == {("POST", "4xx"): 1, ("GET", "2xx"): 1}
    assert rows("http1-head-304-204-chunk") == {
        ("HEAD", "2xx"): 1,
        ("GET", "3xx"): 1,
        ("GET", "2xx"): 2,
        ("GET", "5xx"): 1,
    }


def test_a_failed_pipeline_has_one_error() -> None:
    assert rows("postgres-pipeline-error") == {("SELECT", "ok"): 4, ("SELECT", "22"): 1}
    assert rows("postgres-copy") == {("COPY", "ok"): 2, ("COPY", "22"): 1, ("COPY", "57"): 1}


def test_a_librarys_handshake_is_not_the_programs_error() -> None:
    for name in ("redis-py-connect-6379", "redis-py-connect-6380"):
        result = rows(name)
        assert result["SET", "ok"] == result["GET", "ok"] == 1
        assert not sum(n for (_, status), n in result.items() if status == "error")


def test_long_polls_have_no_latency() -> None:
    result = replay(tcp("redis-blpop"), "whole")
    assert result.rows["BLPOP", "ok"] == result.untimed == 2
    assert all(conn["slowest"] < 100_000_000 for conn in result.conns.values())


def test_the_answer_ends_with_its_last_byte() -> None:
    result = replay(tcp("http1-sse-slow"), "whole")
    assert 300_000_000 <= result.conns[0]["slowest"] < 400_000_000


def conversation(*parts: tuple[str, bytes]) -> bytes:
    """Of one connection: "c" and what the client sends, "s" and what the server does."""
    recording = {"c": 0, "s": 1}
    return b"".join(
        one_record(recording[side], number, data) for number, (side, data) in enumerate(parts)
    )


def one_record(server: int, number: int, data: bytes) -> bytes:
    return struct.pack("=IIIQ", 0, server, len(data), 1_000_000 * (number + 1)) + data


def command(*words: str) -> bytes:
    return f"*{len(words)}\r\n".encode() + b"".join(f"${len(w)}\r\n{w}\r\n".encode() for w in words)


@pytest.mark.parametrize("how", [("whole",), ("bytes",)])
def test_client_reply_off_and_skip_are_one_way(how: tuple[str, ...]) -> None:
    packed = conversation(
        ("c", command("SET", "a", "1")),
        ("s", b"+OK\r\n"),
        ("c", command("CLIENT", "REPLY", "SKIP") + command("SET", "a", "2") + command("PING")),
        ("s", b"+PONG\r\n"),
        ("c", command("CLIENT", "REPLY", "OFF") + command("GET", "a") * 5),
        ("c", command("CLIENT", "REPLY", "ON")),
        ("s", b"+OK\r\n"),
        ("c", command("GET", "a")),
        ("s", b"$1\r\n2\r\n"),
    )
    assert replay(packed, *how).rows == {
        ("SET", "ok"): 1,
        ("CLIENT", "one_way"): 2,
        ("SET", "one_way"): 1,
        ("PING", "ok"): 1,
        ("GET", "one_way"): 5,
        ("CLIENT", "ok"): 1,
        ("GET", "ok"): 1,
    }


@pytest.mark.parametrize("how", [("whole",), ("bytes",), ("pairs",)])
def test_resp2_subscriptions(how: tuple[str, ...]) -> None:
    def confirmed(kind: str, channel: str, count: int) -> bytes:
        return f"*3\r\n${len(kind)}\r\n{kind}\r\n$2\r\n{channel}\r\n:{count}\r\n".encode()

    packed = conversation(
        ("c", command("SUBSCRIBE", "c1", "c2")),
        ("s", confirmed("subscribe", "c1", 1) + confirmed("subscribe", "c2", 2)),
        ("s", b"*3\r\n$7\r\nmessage\r\n$2\r\nc1\r\n$2\r\nhi\r\n" * 3),
        ("c", command("UNSUBSCRIBE")),
        ("s", confirmed("unsubscribe", "c1", 1) + confirmed("unsubscribe", "c2", 0)),
        ("c", command("LRANGE", "l", "0", "-1")),
        ("s", b"*2\r\n$1\r\na\r\n-ERR inside\r\n"),
    )
    result = replay(packed, *how)
    assert result.rows == {
        ("SUBSCRIBE", "ok"): 1,
        ("UNSUBSCRIBE", "ok"): 1,
        ("LRANGE", "ok"): 1,
    }
    assert not result.events


@pytest.mark.parametrize("how", [("whole",), ("bytes",), ("pairs",)])
def test_resp3_attributes_and_nested_values(how: tuple[str, ...]) -> None:
    packed = conversation(
        ("c", command("GET", "a") + command("MGET", "a", "b")),
        ("s", b"|1\r\n+ttl\r\n:3600\r\n$2\r\nhi\r\n*2\r\n*-1\r\n%1\r\n+k\r\n~1\r\n#t\r\n"),
        ("c", command("EXEC")),
        ("s", b"!5\r\nERR x\r\n"),
    )
    result = replay(packed, *how)
    assert result.rows == {("GET", "ok"): 1, ("MGET", "ok"): 1, ("EXEC", "error"): 1}
    assert not result.events


@pytest.mark.parametrize("how", [("whole",), ("bytes",), ("pairs",)])
def test_the_sync_after_a_copy_is_not_answered_again(how: tuple[str, ...]) -> None:
    def message(kind: bytes, body: bytes = b"") -> bytes:
        return kind + (len(body) + 4).to_bytes(4) + body

    startup = b"\x00\x03\x00\x00user\x00me\x00\x00"
    extended = (
        message(b"P", b"\x00copy t from stdin\x00\x00\x00")
        + message(b"B", b"\x00" * 8)
        + message(b"E", b"\x00" * 5)
        + message(b"S")
    )
    packed = conversation(
        ("c", (len(startup) + 4).to_bytes(4) + startup),
        ("s", message(b"R", b"\x00" * 4) + message(b"Z", b"I")),
        ("c", extended),
        ("s", message(b"1") + message(b"2") + message(b"G", b"\x00\x00\x01\x00\x00")),
        ("c", message(b"d", b"1\n") + message(b"c") + message(b"S")),
        ("s", message(b"C", b"COPY 1\x00") + message(b"Z", b"I")),
        ("c", message(b"Q", b"select 1\x00")),
        ("s", message(b"C", b"SELECT 1\x00") + message(b"Z", b"I")),
    )
    result = replay(packed, *how)
    assert result.rows == {("COPY", "ok"): 1, ("SELECT", "ok"): 1}
    assert not result.events


EACH_HOW = pytest.mark.parametrize("how", [("whole",), ("bytes",), ("pairs",)])


def mysql(sequence: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "little") + bytes([sequence]) + body


def mysql_logged_in(capabilities: int) -> list[tuple[str, bytes]]:
    low, high = capabilities.to_bytes(4, "little")[:2], capabilities.to_bytes(4, "little")[2:]
    greeting = b"\x0a8.0.44\0" + bytes(13) + low + bytes(3) + high + bytes(30)
    return [
        ("s", mysql(0, greeting)),
        ("c", mysql(1, capabilities.to_bytes(4, "little") + bytes(60))),
        ("s", mysql(2, b"\xfecaching_sha2_password\0" + bytes(20))),
        ("c", mysql(3, bytes(32))),
        ("s", mysql(4, b"\x01\x03") + mysql(5, MYSQL_OK)),
    ]


MYSQL_OK = bytes([0, 0, 0, 2, 0, 0, 0])
MYSQL_EOF = bytes([0xFE, 0, 0, 2, 0])
MYSQL_MORE = bytes([0xFE, 0, 0, 10, 0])
MYSQL_ROWS_END = bytes([0xFE, 0, 0, 2, 0, 0, 0])
MYSQL_COLUMN = b"\x03def" + bytes(24)
MYSQL_NO_EOF = 1 << 24


def mysql_error(number: int, state: str) -> bytes:
    return b"\xff" + number.to_bytes(2, "little") + f"#{state}Something is wrong".encode()


def packets(first: int, *bodies: bytes) -> bytes:
    return b"".join(mysql((first + n) & 255, body) for n, body in enumerate(bodies))


@EACH_HOW
def test_mysql_progress_is_no_error_and_an_error_may_follow_rows(how: tuple[str, ...]) -> None:
    progress = b"\xff\xff\xff\x01\x01\x02\x00\x00\x00\x05stage"
    packed = conversation(
        *mysql_logged_in(0),
        ("c", mysql(0, b"\x03alter table t engine=aria")),
        ("s", packets(1, progress, progress, MYSQL_OK)),
        ("c", mysql(0, b"\x03 select a from t")),
        ("s", packets(1, b"\x01", MYSQL_COLUMN, MYSQL_EOF, *[b"\x011"] * 300)),
        ("s", packets(48, mysql_error(1317, "70100"))),
        ("c", mysql(0, b"\x0e")),
        ("s", packets(1, MYSQL_OK)),
    )
    result = replay(packed, *how)
    assert result.rows == {("ALTER", "ok"): 1, ("SELECT", "70"): 1, ("PING", "ok"): 1}
    assert not result.events


@EACH_HOW
def test_mysql_answers_without_eof_packets(how: tuple[str, ...]) -> None:
    """Of MySQL 8: query attributes, several results, a cursor, no columns before the rows."""
    packed = conversation(
        *mysql_logged_in(MYSQL_NO_EOF),
        ("c", mysql(0, b"\x03\x00\x01select 1; insert into t values (1)")),
        (
            "s",
            packets(1, b"\x01", MYSQL_COLUMN, b"\x011", b"\xfb", MYSQL_MORE + bytes(2))
            + packets(6, MYSQL_OK),
        ),
        ("c", mysql(0, b"\x16select ?, ?")),
        ("s", packets(1, bytes([0, 1, 0, 0, 0, 2, 0, 2, 0, 0, 0, 0]), *[MYSQL_COLUMN] * 4)),
        ("c", mysql(0, b"\x17\x01\0\0\0\x01\x01\0\0\0")),
        ("s", packets(1, b"\x01", MYSQL_COLUMN, bytes([0xFE, 0, 0, 0x42, 0, 0, 0]))),
        ("c", mysql(0, b"\x1c\x01\0\0\0\x02\0\0\0")),
        ("s", packets(1, b"\0\0\x01", b"\0\0\x02", MYSQL_ROWS_END)),
        ("c", mysql(0, b"\x09") + mysql(0, b"\x03commit")),
        ("s", packets(1, b"Uptime: 1") + packets(1, MYSQL_OK)),
    )
    result = replay(packed, *how)
    assert result.rows == {
        ("SELECT", "ok"): 1,
        ("PREPARE", "ok"): 1,
        ("EXECUTE", "ok"): 1,
        ("FETCH", "ok"): 1,
        ("other", "ok"): 1,
        ("COMMIT", "ok"): 1,
    }
    assert not result.events


@pytest.mark.parametrize("how", [("whole",), ("bytes",)])
def test_mysql_packets_of_16_mib_and_a_file_that_wraps(how: tuple[str, ...]) -> None:
    """The rest of a packet has a header of its own, and a file's packets use every number."""
    row = 0xFFFFFF
    part = [b"x" * 300] * 60
    packed = conversation(
        *mysql_logged_in(0),
        ("c", mysql(0, b"\x03select a")),
        ("s", packets(1, b"\x01", MYSQL_COLUMN, MYSQL_EOF) + row.to_bytes(3, "little") + b"\x04"),
        *(("s", b"\x01" + b"\xfe" * (row // 255 - 1)) for _ in range(255)),
        ("s", mysql(5, b"\xfe\xff") + mysql(6, MYSQL_EOF)),
        ("c", mysql(0, b"\x03load data local infile 'a' into table t")),
        ("s", mysql(1, b"\xfbname")),
        *(("c", packets(2 + 60 * n, *part)) for n in range(10)),
        ("c", mysql((2 + 600) & 255, b"")),
        ("s", mysql((3 + 600) & 255, MYSQL_OK)),
        ("c", mysql(0, b"\x01")),
    )
    result = replay(packed, *how)
    assert result.rows == {("SELECT", "ok"): 1, ("LOAD", "ok"): 1, ("QUIT", "one_way"): 1}
    assert not result.events


@EACH_HOW
def test_mysql_errors_of_nobodys_requests(how: tuple[str, ...]) -> None:
    packed = conversation(
        *mysql_logged_in(0),
        ("c", mysql(0, b"\x0e")),
        ("s", packets(1, MYSQL_OK)),
        ("s", packets(1, mysql_error(1927, "70100"))),
    )
    result = replay(packed, *how)
    assert result.rows == {("PING", "ok"): 1}
    assert result.events == {"unsolicited": 1}
    refused = replay(conversation(("s", mysql(0, b"\xff\x10\x04Too many connections"))), *how)
    assert (refused.protocols, refused.events) == (["mysql"], {"unsolicited": 1})


@EACH_HOW
def test_mysql_that_turns_to_tls_is_tls(how: tuple[str, ...]) -> None:
    packed = conversation(
        mysql_logged_in(1 << 11)[0],
        ("c", mysql(1, (1 << 11).to_bytes(4, "little") + bytes(28))),
        ("c", b"\x16\x03\x01\x02\x00\x01" + bytes(100)),
    )
    assert replay(packed, *how).protocols == ["tls"]


def bson(**elements: float | str | list[Any]) -> bytes:
    body = b""
    for key, value in elements.items():
        name = key.encode() + b"\0"
        if isinstance(value, bool):
            body += b"\x08" + name + bytes([value])
        elif isinstance(value, int):
            body += b"\x10" + name + struct.pack("<i", value)
        elif isinstance(value, float):
            body += b"\x01" + name + struct.pack("<d", value)
        elif isinstance(value, str):
            body += b"\x02" + name + struct.pack("<i", len(value) + 1) + value.encode() + b"\0"
        else:
            items = {str(n): item for n, item in enumerate(value)}
            body += b"\x04" + name + bson(**items)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def mongo(number: int, answers: int, opcode: int, body: bytes) -> bytes:
    return struct.pack("<iiii", len(body) + 16, number, answers, opcode) + body


def op_msg(number: int, answers: int, document: bytes, flags: int = 0, first: bytes = b"") -> bytes:
    return mongo(number, answers, 2013, struct.pack("<I", flags) + first + b"\0" + document)


@EACH_HOW
def test_mongodb_errors_are_in_documents(how: tuple[str, ...]) -> None:
    """ok: 0 of each type, and writeErrors before and behind an `ok: 1`, but only if there are any.

    A key `ok` inside of another document is not the answer's.
    """
    sequence = b"\x01" + struct.pack("<i", 4 + 10 + 40) + b"documents\0" + bytes(40)
    packed = conversation(
        ("c", op_msg(1, 0, bson(insert="t"), first=sequence)),
        ("s", op_msg(9, 1, bson(n=1, writeErrors=["a"], ok=1.0))),
        ("c", op_msg(2, 0, bson(update="t"))),
        ("s", op_msg(9, 2, bson(ok=1, writeErrors=[1, 2]))),
        ("c", op_msg(3, 0, bson(delete="t"))),
        ("s", op_msg(9, 3, bson(writeErrors=[], ok=True, nested=[0.0], text="ok"))),
        ("c", op_msg(4, 0, bson(findAndModify="t"))),
        ("s", op_msg(9, 4, bson(ok=0.0, errmsg="No"), first=sequence)),
        ("c", op_msg(5, 0, bson(commitTransaction=1))),
        ("s", op_msg(9, 5, bson(ok=False))),
        ("c", op_msg(6, 0, bson(aggregate="t"))),
        ("s", op_msg(9, 6, bson(ok=0))),
        ("c", mongo(7, 0, 2004, struct.pack("<i", 4) + b"a.$cmd\0" + bytes(8) + bson(isMaster=1))),
        ("s", mongo(9, 7, 1, struct.pack("<iqii", 8, 0, 0, 1) + bson(ok=1.0))),
    )
    result = replay(packed, *how)
    assert result.rows == {
        ("insert", "write_error"): 1,
        ("update", "write_error"): 1,
        ("delete", "ok"): 1,
        ("findAndModify", "error"): 1,
        ("commitTransaction", "error"): 1,
        ("aggregate", "error"): 1,
        ("hello", "ok"): 1,
    }
    assert not result.events
    assert result.untimed == 1


@EACH_HOW
def test_mongodb_answers_that_go_on_and_requests_without(how: tuple[str, ...]) -> None:
    """moreToCome of either side, and what is compressed and may or may not be answered."""

    def compressed(number: int, answers: int) -> bytes:
        return mongo(number, answers, 2012, struct.pack("<iiB", 2013, 50, 2) + bytes(20))

    packed = conversation(
        ("c", op_msg(1, 0, bson(getMore=1), flags=1 << 16)),
        ("s", op_msg(101, 1, bson(ok=1.0), flags=2)),
        ("s", op_msg(102, 101, bson(ok=1.0), flags=2) + op_msg(103, 102, bson(ok=1.0))),
        ("c", op_msg(2, 0, bson(insert="t"), flags=2)),
        ("c", compressed(3, 0)),
        ("c", compressed(4, 0)),
        ("c", compressed(5, 0)),
        ("s", compressed(104, 5)),
        ("c", op_msg(6, 0, bson(find="t"))),
        ("s", op_msg(105, 6, bson(ok=1.0))),
        ("s", op_msg(106, 77, bson(ok=1.0))),
    )
    result = replay(packed, *how)
    assert result.rows == {
        ("getMore", "ok"): 1,
        ("insert", "one_way"): 1,
        ("unknown", "one_way"): 2,
        ("unknown", "answered"): 1,
        ("find", "ok"): 1,
    }
    assert result.events == {"unmatched": 1}


def kafka(key: int, version: int, number: int, body: bytes = b"", name: str = "rdkafka") -> bytes:
    head = struct.pack(">hhi", key, version, number) + struct.pack(">h", len(name)) + name.encode()
    return struct.pack(">i", len(head) + len(body)) + head + body


def kafka_answer(number: int, size: int = 20) -> bytes:
    return struct.pack(">ii", size + 4, number) + bytes(size)


@EACH_HOW
def test_what_waits_behind_a_fetch_of_kafka_is_not_slow(how: tuple[str, ...]) -> None:
    packed = conversation(
        ("c", kafka(18, 3, 1)),
        ("s", kafka_answer(1)),
        ("c", kafka(1, 12, 2, bytes(30))),
        ("c", kafka(3, 9, 3, bytes(5))),
        ("c", kafka(12, 4, 4, bytes(5))),
        *(("c", b"") for _ in range(50)),
        ("s", kafka_answer(2)),
        ("s", kafka_answer(3)),
        ("s", kafka_answer(4)),
        ("c", kafka(1, 12, 5, bytes(30))),
    )
    result = replay(packed, *how)
    assert result.rows == {
        ("ApiVersions", "answered"): 1,
        ("Fetch", "answered"): 1,
        ("Metadata", "answered"): 1,
        ("Heartbeat", "answered"): 1,
        ("Fetch", "no_response"): 1,
    }
    assert not result.events
    assert result.conns[0]["slowest"] == 2_000_000


ACKS_0 = {2: b"\0\0", 8: b"\xff\xff\0\0", 12: bytes(4)}
ACKS_1 = {2: b"\0\1", 8: b"\xff\xff\0\1", 12: b"\0\0\0\1"}


@EACH_HOW
@pytest.mark.parametrize("version", ACKS_0)
@pytest.mark.parametrize("answers", [False, True])
def test_kafka_without_acks_is_one_way(
    how: tuple[str, ...], version: int, *, answers: bool
) -> None:
    """Whether the broker answers, as the protocol says it must not, or does not."""
    none, one = ACKS_0[version] + bytes(50), ACKS_1[version] + bytes(50)
    packed = conversation(
        ("c", kafka(18, 3, 1)),
        ("s", kafka_answer(1)),
        ("c", kafka(0, version, 2, none) + kafka(0, version, 3, none) + kafka(0, version, 4, one)),
        ("s", (kafka_answer(2) + kafka_answer(3) if answers else b"") + kafka_answer(4)),
        ("c", kafka(3, 9, 5)),
        ("s", kafka_answer(5)),
        ("s", kafka_answer(5)),
    )
    result = replay(packed, *how)
    assert result.rows == {
        ("ApiVersions", "answered"): 1,
        ("Produce", "one_way"): 2,
        ("Produce", "answered"): 1,
        ("Metadata", "answered"): 1,
    }
    # The last answer is nobody's. Who does not answer without acks has two to his credit.
    assert result.events == ({"unmatched": 1} if answers else {})


def test_more_of_kafka_than_fits_is_outstanding_and_one_answer_is_missing() -> None:
    asked = [kafka(0, 8, n, ACKS_1[8] + bytes(50)) for n in range(1, 31)]
    packed = conversation(
        *(("c", request) for request in asked),
        ("s", b"".join(kafka_answer(n) for n in range(1, 31) if n != 11)),
    )
    result = replay(packed, "whole")
    assert result.rows == {("Produce", "answered"): 29}
    assert result.events == {"gap": 1}
    assert result.most == 30
    # Numbers of other connections are between these, so that they make no run.
    apart = [kafka(0, 8, 3 * n, ACKS_1[8] + bytes(50)) for n in range(1, 11)]
    packed = conversation(
        *(("c", request) for request in apart),
        ("s", b"".join(kafka_answer(3 * n) for n in range(1, 11))),
    )
    result = replay(packed, "whole")
    assert result.rows == {("Produce", "answered"): 8}
    assert result.events == {"overflow": 2}


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def text(value: str | bytes) -> bytes:
    """A string of HPACK: as it is, or bytes that are Huffman's code of it."""
    size = len(value)
    head = bytes([size]) if size < 127 else bytes([127, size - 127 & 127 | 128, size - 127 >> 7])
    if isinstance(value, str):
        return head + value.encode()
    return bytes([head[0] | 128]) + head[1:] + value


def field(name: int | str | bytes, value: str | bytes, kind: int = 0x40) -> bytes:
    """A literal that goes to the dynamic table, or with kind 0 does not."""
    start = bytes([kind | name]) if isinstance(name, int) else bytes([kind]) + text(name)
    return start + text(value)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)
DATA, HEADERS, RST, PUSH, GOAWAY, CONTINUATION = 0, 1, 3, 5, 7, 9
END_STREAM, END_HEADERS, PADDED, PRIORITY = 1, 4, 8, 0x20
ALL = END_STREAM | END_HEADERS
GET = b"\x82\x86\x84"
POST = b"\x83\x86\x84"


def http2(*parts: tuple[str, bytes]) -> bytes:
    return conversation(("c", PREFACE), ("s", frame(4, 0, 0)), *parts)


def asked(stream: int, block: bytes = GET) -> tuple[str, bytes]:
    return "c", frame(HEADERS, ALL, stream, block)


def answered(stream: int, block: bytes = b"\x88") -> tuple[str, bytes]:
    return "s", frame(HEADERS, ALL, stream, block)


@EACH_HOW
def test_http2_methods_and_statuses_in_huffmans_code(how: tuple[str, ...]) -> None:
    """As literals, and by their indices, which move with every field that is added."""
    methods = {
        "GET": b"\xc5\x83\x7f",
        "HEAD": b"\xc7\x82\x1b\xff",
        "POST": b"\xd7\xab\x76\xff",
        "PUT": b"\xd7\xc3\x7f",
        "DELETE": b"\xbf\x83\x3e\x0d\xf8\x3f",
        "CONNECT": b"\xbd\xab\x4e\x9c\x17\xb7\xff",
        "OPTIONS": b"\xd5\xaf\x7e\x4d\x5a\x77\x7f",
        "TRACE": b"\xdf\xb6\x1b\xd8\x3f",
        "PATCH": b"\xd7\x0e\xfb\xd8\xff",
    }
    statuses = {
        "2xx": b"\x10\x01",
        "3xx": b"\x64\x01",
        "4xx": b"\x68\x0d\x7f",
        "5xx": b"\x6c\x0c\xff",
    }
    parts, expected, stream = [], Counter[tuple[str, str]](), 1
    for number, (method, code) in enumerate(methods.items()):
        klass, status = list(statuses.items())[number % 4]
        name = 2 if number % 2 else b"\xb9\x49\x53\x39\xe4"
        other = field("user-agent", "x" * 20)
        parts += [
            asked(stream, field(name, code) + other),
            answered(stream, field(8, status) + field("date", "x" * 29)),
            asked(stream + 2, b"\xbf"),
            answered(stream + 2, b"\xbf"),
            asked(stream + 4, field(2, method, 0x10)),
            answered(stream + 4, field(b"\xb8\x84\x8d\x36\xa3", status, 0)),
        ]
        expected[method, klass] += 3
        stream += 6
    result = replay(http2(*parts, asked(stream, field(2, b"\xff\x00", 0)), answered(stream)), *how)
    assert result.rows == expected + Counter({("other", "2xx"): 1})
    assert not result.events


@EACH_HOW
def test_http2_frames_of_all_kinds(how: tuple[str, ...]) -> None:
    """Padding, priorities, blocks in pieces, trailers, 1xx, resets, pushes, GOAWAY."""
    long = field("x-long", "y" * 300)
    cut = GET + long
    pushed = (2).to_bytes(4)
    packed = http2(
        ("c", frame(HEADERS, ALL | PADDED | PRIORITY, 1, b"\x05" + bytes(5) + GET + bytes(5))),
        ("s", frame(HEADERS, END_HEADERS, 1, field(8, "103"))),
        ("s", frame(PUSH, END_HEADERS | PADDED, 1, b"\x02" + pushed + GET + long + bytes(2))),
        ("s", frame(DATA, 0, 2, b"x")),
        ("s", frame(HEADERS, END_HEADERS, 1, b"\x8d") + frame(DATA, PADDED, 1, b"\x03abc\0\0\0")),
        ("s", frame(DATA, END_STREAM, 2, b"pushed")),
        ("s", frame(HEADERS, ALL, 1, field("x-trailer", "1"))),
        ("c", frame(HEADERS, END_STREAM, 3, cut[:2]) + frame(CONTINUATION, 0, 3, cut[2:100])),
        ("c", frame(CONTINUATION, END_HEADERS, 3, cut[100:])),
        ("s", frame(HEADERS, 0, 3, b"\x8e") + frame(CONTINUATION, END_HEADERS, 3)),
        ("s", frame(DATA, END_STREAM, 3)),
        ("c", frame(HEADERS, END_HEADERS, 5, POST) + frame(DATA, 0, 5, bytes(1000))),
        ("c", frame(HEADERS, ALL, 5, b"\x40\x01a\x01b") + frame(0xAA, 0xFF, 0, bytes(50))),
        ("c", frame(RST, 0, 5, (0).to_bytes(4))),
        asked(7),
        ("s", frame(HEADERS, END_HEADERS, 7, b"\x88") + frame(RST, 0, 7, (2).to_bytes(4))),
        asked(9),
        ("s", frame(RST, 0, 9, (8).to_bytes(4))),
        asked(11),
        asked(13),
        ("s", frame(GOAWAY, 0, 0, (11).to_bytes(4) + bytes(4))),
        answered(11),
    )
    result = replay(packed, *how)
    assert result.rows == {
        ("GET", "4xx"): 1,
        ("GET", "5xx"): 1,
        ("POST", "cancelled"): 1,
        ("GET", "reset"): 1,
        ("GET", "cancelled"): 1,
        ("GET", "2xx"): 1,
        ("GET", "no_response"): 1,
    }
    assert not result.events
    assert not result.grpc


GRPC_TYPE = field("content-type", "application/grpc")


@EACH_HOW
def test_grpc_is_told_by_stream_and_its_code_by_trailers(how: tuple[str, ...]) -> None:
    """Also in trailers only; grpc-web has its code in the body, and is no gRPC here."""
    proto = b"\x1d\x75\xd0\x62\x0d\x26\x3d\x4c\x4d\x65\x64\xff\x75\xd8\x74\x9f"
    web = b"\x1d\x75\xd0\x62\x0d\x26\x3d\x4c\x4d\x65\x64\x5b\xc1\x63"
    name = b"\x9a\xca\xc8\xb2\x12\x34\xda\x8f"
    packed = http2(
        asked(1, POST + GRPC_TYPE),
        ("s", frame(HEADERS, END_HEADERS, 1, b"\x88" + GRPC_TYPE) + frame(DATA, 0, 1, bytes(9))),
        answered(1, field("grpc-status", "0")),
        asked(3, POST + b"\xbe"),
        answered(3, b"\x88\xbf" + field(name, b"\x0b\x9f")),
        asked(5, POST + field(31, proto)),
        answered(5, b"\x88\x5f" + text("application/grpc+proto") + b"\xbf"),
        asked(7, POST + field(31, web)),
        answered(7, b"\x88" + field(31, "application/grpc-web")),
        asked(9, POST + field(31, "multipart/form-data; boundary=------------------1234")),
        answered(9, b"\x8d"),
        asked(11, POST + field(b"\x21\xea\x49\x6a\x4a\xc9\xf5\x59\x7f", "application/grpc;a")),
        answered(11, b"\x88"),
        asked(13, GET),
        answered(13, b"\x88"),
        asked(15, POST + field(31, "application/grpc" + "+" * 40)),
        answered(15, field("grpc-status", "17", 0)),
    )
    result = replay(packed, *how)
    assert result.rows == {
        ("POST", "OK"): 1,
        ("POST", "UNAUTHENTICATED"): 2,
        ("POST", "2xx"): 1,
        ("POST", "4xx"): 1,
        ("POST", "unknown"): 2,
        ("GET", "2xx"): 1,
    }
    assert result.grpc == 5
    assert not result.events


@EACH_HOW
def test_what_is_not_seen_of_http2_is_unknown(how: tuple[str, ...]) -> None:
    """Names and values that go on in another frame, and insertions that were forgotten."""
    method = field(2, "DELETE")
    packed = http2(
        ("c", frame(HEADERS, END_STREAM, 1, method[:3]) + frame(CONTINUATION, 4, 1, method[3:])),
        answered(1),
        asked(3, b"\xbe"),
        answered(3),
        *(
            part
            for n in range(12)
            for part in (asked(5 + 2 * n), answered(5 + 2 * n, field(8, f"3{n:02}")))
        ),
        asked(31),
        answered(31, b"\xbe"),
        asked(33),
        answered(33, bytes([0x80 | 62 + 7])),
        asked(35),
        answered(35, bytes([0x80 | 62 + 8])),
        asked(37),
        answered(37, b"\x8d" + bytes([0x80 | 62 + 11])),
    )
    result = replay(packed, *how)
    assert result.rows == {
        ("unknown", "unknown"): 2,
        ("GET", "3xx"): 14,
        ("GET", "unknown"): 1,
        ("GET", "4xx"): 1,
    }
    assert not result.events


def test_more_streams_than_are_tracked_are_counted() -> None:
    streams = range(1, 61, 2)
    packed = http2(*(asked(n) for n in streams), *(answered(n) for n in streams))
    result = replay(packed, "whole")
    assert result.rows == {("GET", "2xx"): 16}
    assert result.events == {"overflow": 14}


def test_bytes_that_are_not_http2s_end_what_is_known() -> None:
    """An index beyond all that was inserted: the answer is lost, and later ones are unknown."""
    packed = http2(
        asked(1),
        answered(1, b"\xbe"),
        asked(3),
        ("s", frame(6, 0, 0, bytes(8)) + answered(3)[1]),
        asked(5),
        answered(5),
    )
    result = replay(packed, "whole")
    assert result.rows == {("GET", "unknown"): 2}
    assert result.events == {"broken": 1, "gap": 1}


@pytest.mark.parametrize("name", [n for n in TRUE if n.startswith(("http2-", "grpc-"))])
def test_of_older_http2_nothing_is_guessed(name: str) -> None:
    """From any record on: what was said before may be named by any index."""
    seen = 0
    for first in (3, 4, 6, 9, 15):
        for observer in ([], ["client"]):
            result = replay(tcp(name), "late", str(first), *observer)
            assert {operation for operation, _ in result.rows} <= {"unknown"}
            assert {status for _, status in result.rows} <= {
                *("unknown", "cancelled", "reset", "no_response")
            }
            assert not result.events["broken"]
            seen += result.requests
    assert seen or TRUE[name][1] < 10


@pytest.mark.parametrize("every", [3, 5, 7])
@pytest.mark.parametrize("name", [n for n in TRUE if n.startswith(("http2-", "grpc-"))])
def test_after_a_loss_no_status_of_http2_is_wrong(name: str, every: int) -> None:
    """Each that is said is one of those that there are, and no more often than it is true."""
    whole = replay(tcp(name), "whole").rows
    for how in (every, -every):
        found = replay(tcp(name), "lose", str(how)).rows
        known = [k for k in found if "unknown" not in k and "no_response" not in k]
        assert all(found[key] <= whole[key] for key in known)


REQUEST_LIKE = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("how", [("whole",), ("bytes",)])
def test_a_body_that_looks_like_requests_is_a_body(how: tuple[str, ...]) -> None:
    body = REQUEST_LIKE * 100
    head = f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    packed = conversation(
        ("c", head),
        *(("c", body[at : at + 260]) for at in range(0, len(body), 260)),
        ("s", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("c", REQUEST_LIKE),
        ("s", b"HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\nhi"),
    )
    assert replay(packed, *how).rows == {("POST", "2xx"): 1, ("GET", "2xx"): 1}


def test_a_connection_that_ends_leaves_no_response() -> None:
    packed = conversation(("c", REQUEST_LIKE), ("c", REQUEST_LIKE))
    assert replay(packed, "whole").rows == {("GET", "no_response"): 2}


def test_an_answer_until_the_close_ends_with_its_last_byte() -> None:
    packed = conversation(
        ("c", REQUEST_LIKE),
        ("s", b"HTTP/1.0 200 OK\r\n\r\nab"),
        ("s", b"cd"),
    )
    result = replay(packed, "whole")
    assert result.rows == {("GET", "2xx"): 1}
    assert result.conns[0]["slowest"] == 2_000_000


def test_more_than_fits_outstanding_is_counted_as_other() -> None:
    words = ["GET", "SET", "DEL", "TTL", "INCR", "DECR", "LLEN", "LPOP", "RPOP", "PING", "MGET"]
    packed = conversation(
        ("c", b"".join(command(w, "a") for w in words)),
        ("s", b"+OK\r\n" * len(words)),
    )
    result = replay(packed, "whole")
    assert result.requests == len(words)
    assert not result.events
    assert result.rows["other", "ok"] == 4


@pytest.mark.parametrize("every", [2, 3, 5, -3, -5, -7])
@pytest.mark.parametrize(
    "name",
    [
        *("redis-benchmark-pipeline16", "postgres-node-pg", "mysql-node-mysql2-prepared"),
        *("kafka-kip848-mock", "kafka-consumer-group", "mongo-pymongo-writeerrors"),
        *("http2-node-statuses", "grpc-unary-grpcio", "grpc-envoy", "grpc-unary-grpcjs"),
    ],
)
def test_what_is_lost_is_counted(name: str, every: int) -> None:
    """Answers that are lost (every > 0) leave requests; of requests that are, answers are left.

    MySQL's error that answers a request of which the loss is not yet noticed is unsolicited.
    """
    events = ["gap", "unmatched", *(["unsolicited"] if name.startswith("mysql-") else [])]
    result = replay(tcp(name), "lose", str(every))
    unanswered = result.status("no_response") + sum(result.events[event] for event in events)
    assert result.answers < TRUE[name][2]
    assert result.answers + unanswered == TRUE[name][2]


def test_segments_too_early_inside_a_body_lose_nothing() -> None:
    body = bytes(5000)
    packed = conversation(
        ("c", REQUEST_LIKE),
        ("s", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"),
        *(("s", body[at : at + 500]) for at in range(0, 5000, 500)),
        ("c", REQUEST_LIKE),
        ("s", b"HTTP/1.1 204 No Content\r\n\r\n"),
    )
    for every in (1, 2, 3):
        result = replay(packed, "reorder", str(every), "client")
        assert result.rows == {("GET", "2xx"): 2}
        assert not result.events

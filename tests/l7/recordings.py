"""Recorded conversations of layer 7, and what the engine makes of them."""

import base64
import json
import struct
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "fixtures/l7"
REPLAY = Path(__file__).parent.parent.parent / "build/l7/replay"


@dataclass(frozen=True)
class Record:
    conn: int
    server: bool
    ns: int
    data: bytes


@dataclass(frozen=True)
class Recording:
    name: str
    transport: list[str]
    records: list[Record]

    @staticmethod
    def of(name: str) -> "Recording":
        lines = (FOLDER / f"{name}.jsonl").read_text().splitlines()
        head = json.loads(lines[0])
        transport = head["transport"]
        records = [
            Record(r["c"], r["d"] == "s", round(r["t"] * 1e9) + 1_000_000, base64.b64decode(r["b"]))
            for r in map(json.loads, lines[1:])
        ]
        if isinstance(transport, str):
            transport = [transport] * head["conns"]
        return Recording(name, transport, records)

    def packed(self, transport: str = "tcp") -> bytes:
        return b"".join(
            struct.pack("=IIIQ", r.conn, r.server, len(r.data), r.ns) + r.data
            for r in self.records
            if self.transport[r.conn] == transport
        )


@dataclass
class Result:
    """Of all connections together."""

    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    untimed: int = 0
    grpc: int = 0  # of the rows, those that are not HTTP/2's own
    most: int = 0
    protocols: list[str] = field(default_factory=list)
    conns: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        return sum(self.rows.values())

    def status(self, *names: str) -> int:
        return sum(n for (_, status), n in self.rows.items() if status in names)

    @property
    def answers(self) -> int:
        return self.requests - self.status("no_response", "one_way", "cancelled")


def replay(packed: bytes, *how: str) -> Result:
    done = subprocess.run([REPLAY, *how], input=packed, capture_output=True)
    assert not done.returncode, done.stderr.decode()
    result = Result()
    for number, conn in json.loads(done.stdout).items():
        result.conns[int(number)] = conn
        for row, count in conn["rows"].items():
            operation, status = row.split(" ")
            result.rows[operation, status] += count
        result.events.update(conn["events"])
        result.untimed += conn["untimed"]
        result.grpc += conn["grpc"]
        result.most = max(result.most, conn["most"])
        result.protocols.append(conn["protocol"])
    return result

"""Prometheus 2.42 computes quantiles of a known distribution from what it scraped."""

import math
import random
from pathlib import Path

import pytest

from tests.e2e.stack import aggregator, prometheus, scrape_of
from tests.live import wait_for
from tests.segment import HOST_SLOT, Row, Segment, column, schema, table

BUCKETS = 98
ENDS = (-20, -17, -14, -12, -10, -8, -6, -4, -2, 0, 2, 4)
QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)


def bucket(seconds: float) -> int:
    """Where bpf/histogram.h counts it."""
    return min(max(math.ceil(4 * math.log2(seconds)) + 80, 0), BUCKETS - 1)


def latencies() -> list[float]:
    """Two humps, as a cache that sometimes misses has: about 40 us, and about 20 ms."""
    generator = random.Random(1)
    fast = [generator.lognormvariate(math.log(40e-6), 0.8) for _ in range(80_000)]
    slow = [generator.lognormvariate(math.log(20e-3), 1.0) for _ in range(20_000)]
    return sorted(fast + slow)


def test_quantiles(tmpfs: Path, tmp_path: Path) -> None:
    values = latencies()
    words = [0] * (BUCKETS + 1)
    words[0] = round(sum(values) * 1e9)
    for value in values:
        words[1 + bucket(value)] += 1
    columns = [
        column(
            name,
            "histogram",
            word=1,
            decimals=9,
            schema=2,
            first_exponent=-20,
            buckets=BUCKETS,
            sum=0,
            sum_words=1,
        )
        for name in ("native_seconds", "classic_seconds")
    ]
    segment = Segment(
        schema(table("t", BUCKETS + 1, columns)),
        [HOST_SLOT],
        [Row(0, 0, words)],
        stale_after_ns=10**15,
    )
    segment.write(tmpfs / "segment")
    shape = f"classic_*=classic:{','.join(map(str, ENDS))}"
    with (
        aggregator(tmpfs, "--histogram", shape) as served,
        prometheus(tmp_path, scrape_of(served), "--enable-feature=native-histograms") as server,
    ):
        wait_for("a scrape", lambda: server.value("up"))
        assert not server.query("native_seconds_bucket")
        assert server.value("histogram_count(native_seconds)") == len(values)
        assert server.value("classic_seconds_count") == len(values)
        for total in ("histogram_sum(native_seconds)", "classic_seconds_sum"):
            assert server.value(total) == pytest.approx(sum(values), rel=1e-9)
        for q in QUANTILES:
            true = values[math.ceil(q * len(values)) - 1]
            native = server.value(f"histogram_quantile({q}, native_seconds)")
            assert native == pytest.approx(true, rel=0.1)
            classic = server.value(f"histogram_quantile({q}, classic_seconds_bucket)")
            assert classic
            end = min(e for e in ENDS if true <= 2.0**e)
            start = max((2.0**e for e in ENDS if e < end), default=0)
            assert start <= classic <= 2.0**end
        fraction = server.value("histogram_fraction(0, 0.0009765625, native_seconds)")
        assert fraction == pytest.approx(sum(v <= 2.0**-10 for v in values) / len(values))

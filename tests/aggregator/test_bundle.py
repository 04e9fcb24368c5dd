"""`kpod-aggregator bundle`: what somebody needs to help, and no secret that was planted."""

import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aggregator import __version__
from aggregator.bundle import known_secrets, scrub
from aggregator.cli import make_parser, variable
from tests.aggregator.test_server import segment
from tests.live import ROOT

# None of these may be seen again, nor a part of them: each line has PLANTED at least once.
PLANTED = "hunter2Planted"
ENCODED = base64.b64encode(f"user:{PLANTED}".encode()).decode()
JWT = f"eyJhbGciOiJIUzI1NiJ9.{PLANTED}.c2ln"
LINES = f"""\
Authorization: Bearer {PLANTED}
"authorization": "Basic {ENCODED}"
proxy-authorization: Digest username="u", response="{PLANTED}"
Set-Cookie: session={PLANTED}; HttpOnly
GET https://user:{PLANTED}@collector:4318/v1/metrics failed
GET https://collector:4318/v1/metrics?sig={PLANTED}&a=b failed
DATABASE_PASSWORD={PLANTED}
{{"level":"error","password":"{PLANTED} with blanks","message":"refused"}}
  token: {PLANTED}
client-key-data: {PLANTED}
exec: mysqld --root-password {PLANTED} --datadir /x
exec: curl -H 'X-Api-Key: {PLANTED}'
api_key = '{PLANTED}'
kubelet refused {JWT}
prometheus: $2y$10$abcdefghijklmnopqrstuu{PLANTED}
-----BEGIN RSA PRIVATE KEY-----
{PLANTED}
-----END RSA PRIVATE KEY-----
a key that was cut: -----BEGIN PRIVATE KEY-----
{PLANTED}"""
NO_SECRETS = """\
2026-11-28T11:00:00.000Z warning kpod-loader: collector udp: fexit: load: Operation not permitted
serving http://localhost:9090/metrics
kpod_pods_requests_total{mode="api"} 4
tokens of cgroups are read from /sys/fs/cgroup at a rate: 4 a second"""


def bundle(*options: str, stdin: str = "", **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "aggregator", "bundle", *options],
        input=stdin,
        env={"PATH": os.environ["PATH"], **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout


@pytest.mark.parametrize("line", LINES.split("\n")[:15])
def test_each_form_of_a_secret_is_scrubbed(line: str) -> None:
    shown = scrub(line)
    assert "<scrubbed>" in shown
    assert PLANTED not in shown
    assert ENCODED not in shown


def test_keys_are_scrubbed_even_if_their_end_is_missing() -> None:
    assert PLANTED not in scrub(LINES)


def test_the_rest_is_as_it_was() -> None:
    assert scrub(NO_SECRETS) == NO_SECRETS


def test_what_the_process_was_told_is_scrubbed_wherever_it_is(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("opaque-token-of-ours\n")
    told = {"OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=a%20b%2Fc,x=opaque2", "SHORT_KEY": "abc"}
    known = tuple(known_secrets(told, token))
    shown = scrub("seen opaque-token-of-ours, a b/c and opaque2; abc", known)
    assert shown == "seen <scrubbed>, <scrubbed> and <scrubbed>; abc"


def test_no_option_of_free_text_is_shown(tmp_path: Path) -> None:
    """Whatever it is called: each is given a text that no pattern knows."""
    planted = "zq9planted"
    text = {"--otlp-endpoint", "--kubelet"}
    given, free = {}, set()
    for action in make_parser()._actions:
        if action.dest in ("help", "version", "segment", "listen", "histogram", "pod_selector"):
            continue
        if action.nargs != 0 and not action.choices and not isinstance(action.default, int | float):
            name = action.option_strings[-1]
            given[variable(action)] = f"http://{planted}/x" if name in text else planted
            free.add(name)
    given["KPOD_POD_SELECTOR"] = planted
    shown = bundle("--pods=api", "--segment", str(tmp_path / "segment"), **given)
    assert planted not in shown
    for name in free:
        assert f"\n{name}: set\n" in shown
    assert "\n--pods: api\n" in shown
    assert "\n--max-series: default\n" in shown


def test_it_tells_what_helps_and_no_secret(tmp_path: Path) -> None:
    """Of an aggregator at work that was told secrets, with what came in."""
    path = tmp_path / "segment"
    segment(stale_after_ns=3600 * 10**9).write(path)  # however slow this machine is
    secrets = {
        "KPOD_OTLP_ENDPOINT": f"http://user:{PLANTED}@127.0.0.1:9/v1/metrics",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{PLANTED}",
        "MY_PASSWORD": f"x{PLANTED}x",
    }
    serving = subprocess.Popen(
        [sys.executable, "-m", "aggregator", "--segment", str(path), "--listen", "127.0.0.1:0"],
        env={"PATH": os.environ["PATH"], **secrets},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert serving.stderr
        while not (
            found := re.search(
                r"http://localhost:(\d+)|:(\d+)/metrics", line := serving.stderr.readline()
            )
        ):
            assert line, "the aggregator did not start"
        address = f"127.0.0.1:{found[1] or found[2]}"
        shown = bundle("--listen", address, "--segment", str(path), stdin=LINES, **secrets)
    finally:
        serving.terminate()
        serving.communicate(timeout=60)
    assert PLANTED not in shown
    assert ENCODED not in shown
    assert f"kpod-aggregator {__version__}\n" in shown
    assert os.uname().release in shown
    assert os.uname().nodename not in shown
    assert f"\n{path}: live\n" in shown
    assert "\ncollector a: up (tp_btf)\n" in shown
    assert '\ncollector b: down: no <"BTF">\n' in shown
    assert "\n/readyz: 200: ready\n" in shown
    assert "\nkpod_loader_up 1.0\n" in shown
    assert "\nt_total" not in shown, "a container's row"
    assert "exec: mysqld --root-password <scrubbed> --datadir /x" in shown
    assert "variables that are set: KPOD_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS\n" in shown


def test_without_a_loader_and_an_aggregator(tmp_path: Path) -> None:
    shown = bundle("--listen", "127.0.0.1:1", "--segment", str(tmp_path / "segment"))
    assert f"\n{tmp_path}/segment: absent\n" in shown
    assert "\n/readyz: no answer: " in shown

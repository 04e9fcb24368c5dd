"""The aggregator as an HTTP server: over real connections, with whatever clients do to it."""

import asyncio
import base64
import contextlib
import http.client
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import bcrypt
import pytest
import trustme
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import Counter

from aggregator.app import listen
from aggregator.http.protocol import KEEP_ALIVE, Connections, Protocol
from aggregator.http.server import VIEWS_MAX, Application
from aggregator.http.webconfig import BasicAuth, WebConfig, WebConfigError, load
from aggregator.pods.resolver import standalone
from aggregator.segment.store import Store
from tests.live import wait_for
from tests.segment import HOST_SLOT, UNIT, Row, Segment, Slot, column, schema, table

HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()


def segment(rows: int = 1, columns: int = 1) -> Segment:
    series = [column("t_total", labels={"i": str(i)}) for i in range(columns)]
    return Segment(
        schema(table("t", 1, series)),
        [HOST_SLOT, *(Slot(i, f"{i}.service", UNIT) for i in range(1, rows))],
        [Row(0, i, [42]) for i in range(rows)],
        ring_capacity=1 << 24,
        stale_after_ns=10**15,
    )


@contextmanager
def program(*options: str) -> Iterator[str]:
    """The aggregator as a process; yields its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "aggregator", "--listen", "127.0.0.1:0", *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    try:
        while "serving http" not in (line := process.stderr.readline()):
            assert line, "the aggregator did not start"
        yield line.split()[-1].removesuffix("/metrics")
    finally:
        process.terminate()
        process.communicate(timeout=60)


@contextmanager
def server(
    application: Application,
    deadline: float,
    connections: int = 1000,
    on_close: Callable[[object], None] = lambda _: None,
) -> Iterator[tuple[str, int]]:
    """The same in a thread, so that its deadline can be short; yields the address."""
    opened = Connections(connections, application.own.connections_closed.inc)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        application,
        http=partial(  # type: ignore[arg-type]
            Protocol, application.own.timed_out.inc, opened, deadline=deadline, on_close=on_close
        ),
        lifespan="off",
        log_config=None,
        proxy_headers=False,
        timeout_keep_alive=30,
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        running.should_exit = True
        thread.join(20)


def count(counter: Counter) -> float:
    (metric,) = counter.collect()
    return metric.samples[0].value


def status(address: tuple[str, int], path: str) -> int:
    client = http.client.HTTPConnection(*address, timeout=30)
    client.request("GET", path)
    answer = client.getresponse()
    answer.read()
    client.close()
    return answer.status


def timeouts(application: Application) -> float:
    return count(application.own.timed_out)


def test_slow_clients_are_cut(tmp_path: Path) -> None:
    # 20 MB, which no socket's buffers hold.
    path = segment(1000, 300).write(tmp_path / "segment")
    application = Application(Store(str(path), clock=time.monotonic_ns, resolver=standalone))
    with server(application, 2) as address:
        # One says nothing, one does not finish its request, one does not read the answer.
        clients = [socket.create_connection(address) for _ in range(3)]
        clients[2].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        clients[1].send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
        clients[2].send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for("all three to be cut", lambda: timeouts(application) == 3)
        assert clients[0].recv(1) == b""
        assert clients[1].recv(1) == b""
        # Whoever waits between requests is not slow.
        patient = http.client.HTTPConnection(*address)
        for _ in range(2):
            patient.request("GET", "/healthz")
            assert patient.getresponse().read() == b"ok\n"
            time.sleep(2.5)
        assert timeouts(application) == 3
        for client in clients:
            client.close()
        patient.close()


def test_pages_that_nobody_reads_are_cut_and_bounded(tmp_path: Path) -> None:
    """A page is made whole, so a client that does not read it keeps it in memory: for a while."""
    path = segment(1000, 300).write(tmp_path / "segment")
    application = Application(Store(str(path), clock=time.monotonic_ns, resolver=standalone))
    with server(application, 2) as address:
        clients = [socket.create_connection(address) for _ in range(VIEWS_MAX)]
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            # Many at once on a connection: more than any socket's buffers hold.
            client.send(b"GET /api/v1/pods HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
        wait_for("one to be refused", lambda: status(address, "/") == 503)
        assert status(address, "/healthz") == 200
        wait_for("all to be cut", lambda: timeouts(application) >= VIEWS_MAX)
        wait_for("a page", lambda: status(address, "/") == 200)
        assert count(application.own.views_refused) >= 1
        for client in clients:
            client.close()


def test_a_connection_outlives_the_scrape_interval(tmp_path: Path) -> None:
    """By itself uvicorn closes after 5 s; the default scrape interval is 60 s."""
    assert KEEP_ALIVE >= 75
    path = segment().write(tmp_path / "segment")
    with program("--segment", str(path)) as url:
        client = http.client.HTTPConnection(url.removeprefix("http://"))
        client.request("GET", "/metrics")
        assert b"t_total" in client.getresponse().read()
        first = client.sock
        time.sleep(6)
        client.request("GET", "/metrics")
        assert b"t_total" in client.getresponse().read()
        assert client.sock is first
        client.close()


def test_a_forward_proxy_gets_what_it_asks_for(tmp_path: Path) -> None:
    """Absolute-form (RFC 9112, 3.2.2), over a real connection that is used twice."""
    path = segment().write(tmp_path / "segment")
    application = Application(Store(str(path), clock=time.monotonic_ns, resolver=standalone))
    with server(application, 2) as address:
        client = http.client.HTTPConnection(*address)
        for _ in range(2):
            client.request("GET", f"http://{address[0]}:{address[1]}/metrics")
            answer = client.getresponse()
            assert b"t_total" in answer.read()
            assert answer.status == 200
        client.close()


def test_pipelined_requests_have_a_deadline_each(tmp_path: Path) -> None:
    # 20 MB, which no socket's buffers hold.
    path = segment(1000, 300).write(tmp_path / "segment")
    application = Application(Store(str(path), clock=time.monotonic_ns, resolver=standalone))
    with server(application, 2) as address, socket.create_connection(address) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = "GET {} HTTP/1.1\r\nHost: x\r\n\r\n"
        client.send(request.format("/healthz").encode() + request.format("/metrics").encode())
        wait_for("the second to be cut", lambda: timeouts(application) == 1)
        assert b"ok\n" in client.recv(1 << 16)


def test_https_with_client_certificates(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "server.pem")
    )
    for name in ("ca.pem", "trusted.pem"):
        authority.cert_pem.write_to_path(str(tmp_path / name))
    config = tmp_path / "web.yml"
    config.write_text(
        "tls_server_config:\n  cert_file: server.pem\n  key_file: server.pem\n"
        "  client_ca_file: ca.pem\n  client_auth_type: RequireAndVerifyClientCert\n"
        "  min_version: TLS13\n"
    )

    def get(url: str, client: trustme.CA | None) -> tuple[bytes, bytes]:
        context = ssl.create_default_context(cafile=str(tmp_path / "trusted.pem"))
        if client:
            client.issue_cert("client").configure_cert(context)
        connection = http.client.HTTPSConnection(
            url.removeprefix("https://").replace("127.0.0.1", "localhost"), context=context
        )
        connection.request("GET", "/healthz")
        body = connection.getresponse().read()
        certificate = connection.sock.getpeercert(binary_form=True)
        assert certificate
        connection.close()
        return body, certificate

    options = ("--segment", str(tmp_path / "segment"), "--web.config.file", str(config))
    with program(*options) as url:
        assert url.startswith("https://")
        body, first = get(url, authority)
        assert body == b"ok\n"
        assert get(url, authority)[1] == first
        for stranger in (None, other):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                get(url, stranger)
        with pytest.raises((OSError, http.client.HTTPException)):
            urllib.request.urlopen(url.replace("https", "http") + "/healthz")
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
            str(tmp_path / "server.pem")
        )
        assert get(url, authority)[1] != first, "a renewed certificate is used"
        (tmp_path / "server.pem").write_text("damaged")
        assert get(url, authority)[0] == b"ok\n", "a damaged one is not"
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
            str(tmp_path / "server.pem")
        )
        other.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        assert get(url, other)[0] == b"ok\n", "so is a new authority of clients"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            get(url, authority)


def authorization(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_basic_auth(tmp_path: Path) -> None:
    config = tmp_path / "web.yml"
    config.write_text(f"basic_auth_users:\n  alice: {HASH}\n")
    path = segment().write(tmp_path / "segment")

    def status(url: str, user: str | None = None, password: str = "") -> int:
        request = urllib.request.Request(url)
        if user is not None:
            request.add_header("Authorization", authorization(user, password))
        try:
            with urllib.request.urlopen(request) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code if "Basic" in error.headers["WWW-Authenticate"] else 0

    with program("--segment", str(path), "--web.config.file", str(config)) as url:
        for _ in range(2):
            assert status(f"{url}/metrics", "alice", "secret") == 200
        for user, password in (
            *((None, ""), ("alice", "Secret"), ("alice", ""), ("bob", "secret")),
            ("alice", "secret" + "x" * 100),
        ):
            assert status(f"{url}/metrics", user, password) == 401
        assert status(f"{url}/nothing") == 401
        assert status(f"{url}/healthz") == 200
        assert status(f"{url}/readyz") == 200


def users(**passwords: str) -> str:
    hashes = {
        user: bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
        for user, password in passwords.items()
    }
    return "basic_auth_users:\n" + "".join(f"  {u}: {h}\n" for u, h in hashes.items())


def test_changed_users_are_in_force_at_once(tmp_path: Path) -> None:
    """As Kubernetes mounts a Secret: a link to a link, which is swapped."""
    for version, text in (("one", users(alice="old")), ("two", users(alice="new", bob="x"))):
        (tmp_path / version).mkdir()
        (tmp_path / version / "web.yml").write_text(text)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "web.yml").symlink_to("..data/web.yml")
    config = WebConfig(tmp_path / "web.yml")

    def allowed(user: str, password: str) -> bool:
        assert config.auth
        return asyncio.run(config.auth.allows(authorization(user, password)))

    assert allowed("alice", "old")
    assert not allowed("alice", "new")
    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert not allowed("alice", "old"), "a revoked password is refused, though it was right once"
    assert allowed("alice", "new"), "a password is right now that was wrong once"
    assert allowed("bob", "x")
    (tmp_path / "two/web.yml").write_text("basic_auth_users: [")
    assert allowed("alice", "new"), "a damaged file changes nothing"
    assert not allowed("alice", "old")
    (tmp_path / "two/web.yml").unlink()
    assert allowed("alice", "new"), "nor does one that is not there"
    (tmp_path / "two/web.yml").write_text(users(bob="y"))
    assert not allowed("alice", "new")
    assert allowed("bob", "y")


def test_wrong_passwords_keep_nobody_else_out(tmp_path: Path) -> None:
    """A client has two passwords under way and no more, so that another's turn comes soon.

    The costs of bcrypt are those of htpasswd -B -C 10, what exporter-toolkit's documents tell.
    """
    path = segment().write(tmp_path / "segment")
    hashed = bcrypt.hashpw(b"right", bcrypt.gensalt(10)).decode()
    auth = BasicAuth({"alice": hashed})
    application = Application(
        Store(str(path), clock=time.monotonic_ns, resolver=standalone), auth=lambda: auth
    )
    stop = threading.Event()
    answers: list[int] = []

    def attack(address: tuple[str, int], thread: int) -> None:
        for attempt in range(100_000):
            if stop.is_set():
                return
            connection = http.client.HTTPConnection(*address, source_address=("127.0.0.2", 0))
            header = {"Authorization": authorization("alice", f"{thread}-{attempt}")}
            connection.request("GET", "/metrics", headers=header)
            answers.append(connection.getresponse().status)
            connection.close()

    with server(application, 20) as address:
        attackers = [threading.Thread(target=attack, args=(address, i)) for i in range(6)]
        for attacker in attackers:
            attacker.start()
        try:
            wait_for("the attack", lambda: 429 in answers)
            worst = 0.0
            for password, wanted in (("right", 200), ("wrong", 401), ("right", 200)):
                begun = time.monotonic()
                connection = http.client.HTTPConnection(*address)
                header = {"Authorization": authorization("alice", password)}
                connection.request("GET", "/metrics", headers=header)
                assert connection.getresponse().status == wanted
                worst = max(worst, time.monotonic() - begun)
                connection.close()
        finally:
            stop.set()
            for attacker in attackers:
                attacker.join(20)
    # At most three comparisons before ours, at a tenth of a second on a slow machine; and others.
    assert worst < 5
    assert 200 not in answers
    assert count(application.own.logins_refused) == answers.count(429)


def test_idle_connections_do_not_keep_the_probe_out(tmp_path: Path) -> None:
    path = segment().write(tmp_path / "segment")
    application = Application(Store(str(path), clock=time.monotonic_ns, resolver=standalone))
    with server(application, 60, connections=20) as address:
        idle = [socket.create_connection(address) for _ in range(100)]
        for _ in range(3):
            connection = http.client.HTTPConnection(*address, timeout=60)
            connection.request("GET", "/healthz")
            assert connection.getresponse().read() == b"ok\n"
            connection.close()
        idle[0].settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert idle[0].recv(1) == b"", "the oldest is closed"
        idle[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in idle[-1].recv(4096), "one that is young enough is not"
        for client in idle:
            client.close()
    assert count(application.own.connections_closed) >= 80


@pytest.mark.parametrize("host", ["", "::"])
def test_no_host_is_every_address_of_both_families(host: str) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with listen(host, 0) as listener:
        port = listener.getsockname()[1]
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, port), timeout=60).close()
    with listen("127.0.0.1", 0) as listener, pytest.raises(OSError, match="refused"):
        socket.create_connection(("::1", listener.getsockname()[1]), timeout=60)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(max_size=50) | st.binary(max_size=120).map(lambda b: "Basic " + b.hex()))
def test_any_authorization_header_is_survived(header: str) -> None:
    assert not asyncio.run(BasicAuth({"alice": HASH}).allows(header))


BAD_CONFIGS = [
    ("[]", "file: not a map"),
    ("a: [", "while parsing"),
    ("rate_limit: {}", "file: 'rate_limit' is not supported; known: tls_server_config, basic_"),
    ("basic_auth_users: []", "basic_auth_users: not a map"),
    ("basic_auth_users: {alice: plain}", "what 'alice' has is not a bcrypt hash"),
    (f"basic_auth_users: {{alice: {'$2b$32$' + HASH[7:]}}}", "what 'alice' has is not a bcr"),
    ("tls_server_config: x", "tls_server_config: not a map"),
    ("tls_server_config: {cert_file: a}", "tls_server_config: has no 'key_file'"),
    ("tls_server_config: {cert_file: 1, key_file: b}", "cert_file: not a string"),
    ("tls_server_config: {cert_file: a, key_file: b}", "a, "),
    ("tls_server_config: {cipher_suites: x}", "'cipher_suites' is not supported; known: cert_f"),
    (
        "tls_server_config: {cert_file: a, key_file: b, min_version: TLS10}",
        "min_version: 'TLS10' is none of TLS12, TLS13",
    ),
    (
        "tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequireAnyClientCert}",
        "'RequireAnyClientCert' is none of NoClientCert, Verify",
    ),
    (
        "tls_server_config: {cert_file: a, key_file: b, client_ca_file: c}",
        "client_ca_file and client_auth_type need each other",
    ),
]


@pytest.mark.parametrize(("text", "cause"), BAD_CONFIGS, ids=[c for _, c in BAD_CONFIGS])
def test_bad_config_says_where_and_why(tmp_path: Path, text: str, cause: str) -> None:
    path = tmp_path / "web.yml"
    path.write_text(text)
    with pytest.raises(WebConfigError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert cause in str(error.value)
    assert "\n" not in str(error.value)


def test_empty_config_is_none(tmp_path: Path) -> None:
    (tmp_path / "web.yml").write_text("# nothing\n")
    assert load(tmp_path / "web.yml") == (None, None)


def test_program_says_why_it_does_not_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "aggregator", "--web.config.file", str(tmp_path / "no.yml")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"kpod-aggregator: {tmp_path}/no.yml: [Errno 2] No such file or directory: "
        f"'{tmp_path}/no.yml'\n"
    )

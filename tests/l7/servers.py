"""Real servers and clients, the system's or unpacked by `make setup-test`, in a test's cgroups."""

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live import SLOWNESS, Cgroup, wait_for
from tests.net import Namespace

UNPACKED = Path(__file__).parent.parent.parent / ".cache/l7"
LIBRARIES = f"{UNPACKED}/usr/lib/{platform.machine()}-linux-gnu"
ENVIRONMENT = {**os.environ, "LD_LIBRARY_PATH": LIBRARIES, "LC_ALL": "C"}


def program(*places: str) -> str:
    """The first that there is, of the system or unpacked. Places may have wildcards."""
    for place in places:
        for root in (Path("/"), UNPACKED):
            if found := sorted(root.glob(place.removeprefix("/"))):
                return str(found[-1])
    raise FileNotFoundError(f"none of {places}: make setup-test")


def packages(name: str) -> str:
    """Where packages of PyPI are that tests/l7/setup.sh has got for a protocol."""
    folder = UNPACKED / "python{}.{}".format(*sys.version_info) / name
    if not (folder / "ready").exists():
        pytest.skip(f"PyPI's packages for {name} could not be had: tests/l7/setup.sh")
    return str(folder)


class Inside:
    """Runs things in a network namespace and a cgroup."""

    def __init__(self, namespace: Namespace, cgroup: Cgroup) -> None:
        self.namespace = namespace
        self.cgroup = cgroup
        self.cpus = os.sched_getaffinity(0)

    def start(self, *command: str, name: str | None = None) -> "subprocess.Popen[bytes]":
        def prepare() -> None:
            self.cgroup.enter()
            os.sched_setaffinity(0, self.cpus)
            fd = os.open(self.namespace.path, os.O_RDONLY)
            assert ctypes.CDLL(None).setns(fd, 0x40000000) == 0
            os.close(fd)

        return subprocess.Popen(
            [name or command[0], *command[1:]],
            executable=command[0],
            env=ENVIRONMENT,
            preexec_fn=prepare,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *command: str, check: bool = True) -> str:
        started = self.start(*command)
        text = started.communicate(timeout=60 * SLOWNESS)[0].decode()
        assert not check or not started.returncode, (command, text)
        return text

    @contextmanager
    def serving(self, *command: str, port: int, name: str | None = None) -> Iterator[None]:
        started = self.start(*command, name=name)
        try:
            wait_for(f"{command[0]} on port {port}", lambda: self.listens(started, port), 30)
            yield
        finally:
            started.terminate()
            try:
                started.communicate(timeout=20 * SLOWNESS)
            except subprocess.TimeoutExpired:
                started.kill()
                started.communicate()

    def listens(self, started: "subprocess.Popen[bytes]", port: int) -> bool:
        """Without connecting to it, as that would be counted."""
        if started.poll() is not None:
            assert started.stdout
            raise RuntimeError(f"the server ended: {started.stdout.read().decode()}")
        tables = f"/proc/{started.pid}/net"
        for file in ("tcp", "tcp6", "udp", "udp6"):
            for line in Path(f"{tables}/{file}").read_text().splitlines()[1:]:
                _, local, remote = line.split()[:3]
                if int(local.rsplit(":", 1)[1], 16) == port and remote.endswith(":0000"):
                    return True
        return False


@contextmanager
def redis(where: Inside, directory: Path) -> Iterator[None]:
    """On port 6379. The server is the same binary as what redis-tools has under another name."""
    binary = program("/usr/bin/redis-server", "/usr/bin/redis-check-rdb")
    arguments = ("--port", "6379", "--save", "", "--appendonly", "no", "--dir", str(directory))
    with where.serving(binary, *arguments, port=6379, name="redis-server"):
        yield


NGINX = """
daemon off; master_process off; worker_processes 1; user root;
pid {d}/pid; error_log {d}/error;
events {{ worker_connections 512; }}
http {{
	access_log {d}/access; sendfile on; keepalive_requests 1000000;
	client_body_temp_path {d}/body; proxy_temp_path {d}/proxy; fastcgi_temp_path {d}/fastcgi;
	uwsgi_temp_path {d}/uwsgi; scgi_temp_path {d}/scgi;
	server {{
		listen 80; root {d}/root;
		location /post {{ client_max_body_size 100m; return 200 "ok"; }}
		location /fail {{ return 503 "no"; }}
	}}
}}
"""


@contextmanager
def nginx(where: Inside, directory: Path) -> Iterator[Path]:
    """On port 80, with a small and a large file. The path is that of its log of requests."""
    (directory / "root").mkdir()
    (directory / "root/small").write_bytes(b"x" * 100)
    (directory / "root/large").write_bytes(b"GET / HTTP/1.1\r\n\r\n" * 60000)
    (directory / "conf").write_text(NGINX.format(d=directory))
    with where.serving(
        *(program("/usr/sbin/nginx"), "-c", f"{directory}/conf", "-e", f"{directory}/error"),
        port=80,
    ):
        yield directory / "access"


@contextmanager
def postgresql(where: Inside, directory: Path) -> Iterator[str]:
    """On port 5432, as uid 65534, which it insists on not being root. Gives psql's path."""
    folder = Path(program("/usr/lib/postgresql/*/bin/postgres")).parent
    data = directory / "data"
    directory.mkdir()
    directory.chmod(0o777)
    unprivileged = ("/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    made = subprocess.run(
        [*unprivileged, str(folder / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert not made.returncode, made.stderr
    settings = {
        "unix_socket_directories": "",
        "listen_addresses": "127.0.0.1",
        "fsync": "off",
        "autovacuum": "off",
        "dynamic_shared_memory_type": "mmap",
    }
    options = [word for k, v in settings.items() for word in ("-c", f"{k}={v}")]
    with where.serving(
        *unprivileged, str(folder / "postgres"), "-D", str(data), *options, port=5432
    ):
        yield str(folder / "psql")


@contextmanager
def mariadb(where: Inside, directory: Path) -> Iterator[tuple[str, ...]]:
    """On port 3306, without accounts. Gives the client and how it connects."""
    server = program("/usr/sbin/mariadbd")
    directory.mkdir()
    messages = Path(program("/usr/share/mysql/english/errmsg.sys")).parent.parent
    options = {
        "datadir": directory,
        "socket": directory / "socket",
        "pid-file": directory / "pid",
        "lc-messages-dir": messages,
        "user": "root",
        "bind-address": "127.0.0.1",
        "port": "3306",
        "innodb": "OFF",
        "default-storage-engine": "MyISAM",
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    with where.serving(server, "--no-defaults", "--skip-grant-tables", *arguments, port=3306):
        client = program("/usr/bin/mariadb")
        yield client, "--no-defaults", "--host=127.0.0.1", "--local-infile=1", "--batch"


@contextmanager
def nghttpd(where: Inside, directory: Path, *options: str) -> Iterator[None]:
    """On port 8000, without TLS, with a small and a larger file."""
    (directory / "small").write_bytes(b"x" * 100)
    (directory / "larger").write_bytes(b"y" * 30_000)
    binary = program("/usr/sbin/nghttpd", "/usr/bin/nghttpd")
    arguments = ("--no-tls", "-d", str(directory), *options, "8000")
    with where.serving(binary, *arguments, port=8000):
        yield


GRPC = """
import sys, time
sys.path.insert(0, {packages!r})
from concurrent import futures
import grpc
def one(request, context):
    if request.startswith(b"code "):
        context.abort([c for c in grpc.StatusCode if c.value[0] == int(request[5:])][0], "no")
    return request
def many(request, context):
    for _ in range(int(request)): yield b"x" * 1000
    if request == b"3": context.abort(grpc.StatusCode.DATA_LOSS, "no")
def forever(request, context):
    while context.is_active():
        yield b"x"
        time.sleep(0.01)
def collect(requests, context): return str(sum(len(r) for r in requests)).encode()
def echo(requests, context):
    for request in requests: yield request
kinds = dict(One=grpc.unary_unary_rpc_method_handler(one),
             Many=grpc.unary_stream_rpc_method_handler(many),
             Forever=grpc.unary_stream_rpc_method_handler(forever),
             Collect=grpc.stream_unary_rpc_method_handler(collect),
             Echo=grpc.stream_stream_rpc_method_handler(echo))
server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.S", kinds),))
server.add_insecure_port("127.0.0.1:8000")
server.start()
server.wait_for_termination()
"""


@contextmanager
def grpcio(where: Inside) -> Iterator[str]:
    """On port 8000. Gives where its client's packages are."""
    folder = packages("grpc")
    with where.serving(sys.executable, "-S", "-c", GRPC.format(packages=folder), port=8000):
        yield folder


MONGODB = """
import sys
sys.path.insert(0, {packages!r})
from nx_27017.nx_27017 import main
sys.argv = ["nx-27017", "--db", "memory", "--log-file", {log!r}, "--pid-file", {pid!r}]
sys.exit(main())
"""


@contextmanager
def mongodb(where: Inside, directory: Path) -> Iterator[None]:
    """On port 27017, a server that speaks the wire protocol and keeps its documents in SQLite."""
    files = {"log": f"{directory}/log", "pid": f"{directory}/pid"}
    code = MONGODB.format(packages=packages("mongodb"), **files)
    with where.serving(sys.executable, "-S", "-c", code, port=27017):
        yield


KAFKA = """
import os, sys, time
sys.path.insert(0, {packages!r})
from confluent_kafka import Producer
cluster = Producer({{"test.mock.num.brokers": 1, "log_level": 0}})
mine = {{os.readlink("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd")[:-1]}}
for line in open("/proc/self/net/tcp").read().splitlines()[1:]:
    fields = line.split()
    if fields[3] == "0A" and "socket:[" + fields[9] + "]" in mine:
        print(int(fields[1].split(":")[1], 16), flush=True)
while True: time.sleep(60)
"""


@contextmanager
def kafka(where: Inside) -> Iterator[str]:
    """librdkafka's own cluster of one broker. Gives its address: it chooses the port by itself."""
    code = KAFKA.format(packages=packages("kafka"))
    started = where.start(sys.executable, "-S", "-c", code)
    try:
        assert started.stdout
        yield f"127.0.0.1:{int(started.stdout.readline())}"
    finally:
        started.kill()
        started.communicate()

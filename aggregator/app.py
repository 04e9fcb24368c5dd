"""The aggregator as a whole: what is made of the options, in which order, and run."""

import argparse
import asyncio
import gc
import logging
import os
import socket
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from aggregator._native import ffi, lib
from aggregator.cli import arguments
from aggregator.http.protocol import KEEP_ALIVE, Connections, Protocol, max_connections
from aggregator.http.scrapers import Scrapers
from aggregator.http.server import Application
from aggregator.log import start as start_log
from aggregator.pods.claims import Claims, ClaimsCollector
from aggregator.pods.memory import Memory
from aggregator.pods.names import NOBODY, Names
from aggregator.pods.podinfo import PodInfo, Pods
from aggregator.pods.resolver import standalone
from aggregator.pods.table import PodTable
from aggregator.segment.store import Compat, Limits, Store
from aggregator.selfmetrics import SelfMetrics

if TYPE_CHECKING:
    from aggregator.pods.source import Source
    from aggregator.push.otlp import Exporter

log = logging.getLogger("kpod")

# Connections that the kernel keeps until they are taken; it takes no more than net.core.somaxconn.
BACKLOG = 1024


def make_pods(options: argparse.Namespace) -> Pods | None:
    if options.pods == "none":
        return None
    # Now, not later in the event loop: the kubernetes package takes half a second and 20 MB.
    from aggregator.pods.cluster import connector
    from aggregator.pods.kubelet import Kubelet
    from aggregator.pods.watch import Watcher

    table = PodTable(time.monotonic_ns)
    memory = Memory(options.state, table) if options.state else None
    if memory:
        memory.load()
    source: Source
    if options.pods == "api":
        source = Watcher(options.node, connector(options.kubeconfig), table)
    else:
        url = options.kubelet or f"https://{options.node}:10250"
        connect = connector(options.kubeconfig, url=url, insecure=options.kubelet_insecure)
        source = Kubelet(connect, table)
    names = Names(
        table,
        clock=time.monotonic_ns,
        policy=options.policy,
        grace_ns=int(options.name_grace * 1e9),
        all_ids=options.identity_labels == "always",
        save=memory.save if memory else lambda: None,
    )
    return Pods(source, names, PodInfo(table, options.policy, options.node))


def cadvisor(pods: Pods | None) -> Compat:
    """The page of that name; images are known of pods alone."""
    from aggregator.compat.cadvisor import PREFIXES, namer, translate

    def image(uid: str, container_id: str) -> str:
        found = pods.source.table.find(uid, container_id) if pods else None
        containers = found[0].containers if found else ()
        return next((c.image for c in containers if c.id == container_id), "")

    return Compat(translate, namer(image), PREFIXES)


def otlp(
    options: argparse.Namespace, store: Store, own: SelfMetrics, scrapers: Scrapers
) -> "Exporter | None":
    if not options.otlp_endpoint:
        return None
    try:
        from aggregator.push.otlp import Endpoint, Exporter, headers
    except ImportError as error:
        sys.exit(f"kpod-aggregator: --otlp-endpoint needs the package opentelemetry-proto: {error}")
    sent = headers(os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""))
    gzip = os.environ.get("OTEL_EXPORTER_OTLP_COMPRESSION", "") == "gzip"
    endpoint = Endpoint(options.otlp_endpoint, sent, gzip)
    page = "push"
    scrapers.expect(options.otlp_endpoint, page)
    return Exporter(
        store,
        own,
        endpoint,
        interval=options.otlp_interval,
        arrived=partial(scrapers.served, options.otlp_endpoint, page),
    )


def listen(host: str, port: int) -> socket.socket:
    """A listener there. No host, and [::], are all addresses of both families, as in Go."""
    if host in ("", "::") and socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def shown(host: str) -> str:
    """A host as it stands in a URL, reachable if possible."""
    if host in ("", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        log.error("%s ended: %r", task.get_name(), task.exception())


async def serve(
    server: uvicorn.Server,
    listener: socket.socket,
    pods: Pods | None,
    exporter: "Exporter | None",
    application: Application,
) -> None:
    tasks = [asyncio.create_task(application.feed_history(), name="history")]
    if pods:
        tasks.append(
            asyncio.create_task(pods.source.run(), name=f"pods from the {pods.source.mode}")
        )
    if exporter:
        tasks.append(asyncio.create_task(exporter.run(), name="OTLP push"))
    for task in tasks:
        task.add_done_callback(ended)
    await server.serve(sockets=[listener])


def confine(options: argparse.Namespace) -> None:
    """What the process may still do, before it has looked at anything that comes from outside."""
    # kubernetes.config writes the certificates of a kubeconfig to files, and its plugins are
    # programs, which may open /dev/null.
    plain = options.pods == "none" or (options.in_cluster and not options.kubeconfig)
    directories = [] if plain else [tempfile.gettempdir(), "/dev"]
    if options.state:
        directories.append(str(Path(options.state).absolute().parent))
    names = [ffi.new("char[]", os.fsencode(directory)) for directory in directories]
    landlock = lib.kpod_landlock(ffi.new("char *[]", [*names, ffi.NULL]))
    if landlock < 0:
        log.warning("no Landlock: %s", os.strerror(-landlock))
    elif not landlock:
        log.info("the kernel has no Landlock: files are guarded by their permissions only")
    if error := lib.kpod_confine():
        log.warning("no system call filter: %s", os.strerror(-error))


def main() -> None:
    options = arguments()
    start_log(options.log_level, options.log_format)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of each request
    confine(options)
    # Snapshots come and go: each gets a mapping of its own, as the heap between them would not be
    # given back. By itself the threshold grows with what is freed.
    lib.mallopt(lib.M_MMAP_THRESHOLD, 128 << 10)
    host, port = options.listen
    web = None
    if options.web_config:
        # 3 MB that most do without.
        from aggregator.http.webconfig import WebConfig, WebConfigError

        try:
            web = WebConfig(options.web_config)
        except WebConfigError as error:
            sys.exit(f"kpod-aggregator: {error}")
    tls = web.tls if web else None
    try:
        listener = listen(host, port)
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno and error.errno > 0 else error
        sys.exit(f"kpod-aggregator: cannot listen on {host}:{port}: {cause}")
    pods = make_pods(options)
    claims = Claims()
    scrapers = Scrapers(time.monotonic_ns)
    store = Store(
        options.segment,
        clock=time.monotonic_ns,
        resolver=pods.names if pods else standalone,
        changed=pods.names.changed if pods else lambda _: frozenset(),
        node=options.node,
        node_labels=NOBODY if pods else (),
        presentations=options.histogram,
        created=options.created,
        limits=Limits(
            options.max_series_per_family,
            options.max_series,
            options.max_page << 20,
            options.max_ended_per_pod,
        ),
        compat=cadvisor(pods) if options.compat == "cadvisor" else None,
        claims=claims,
        others=pods.info.limit if pods else lambda _: {},
        seen=scrapers.seen if options.ended == "until-seen" else lambda _: 0,
    )
    store.refresh()
    if pods:
        log.info("names come from the %s, for the pods of node %s", options.pods, options.node)
    else:
        log.info("standalone: names come from cgroup paths")
    application = Application(
        store,
        pods,
        auth=(lambda: web.auth) if web else lambda: None,
        max_scrapes=options.max_scrapes,
        scrapers=scrapers,
    )
    application.own.register(ClaimsCollector(claims))
    log.info(
        "serving %s://%s:%d/metrics",
        "https" if tls else "http",
        shown(host),
        listener.getsockname()[1],
    )
    exporter = otlp(options, store, application.own, scrapers)
    connections = Connections(max_connections(), application.own.connections_closed.inc)
    config = uvicorn.Config(
        application,
        http=partial(  # type: ignore[arg-type]
            Protocol, application.own.timed_out.inc, connections, on_close=scrapers.closed
        ),
        ssl_context_factory=(lambda *_: tls.context()) if tls else None,
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        proxy_headers=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=2,
    )
    gc.freeze()  # what is imported stays: looking at it again would stop the loop for 50 ms
    uvloop.run(serve(uvicorn.Server(config), listener, pods, exporter, application))

"""The aggregator as a whole: what is made of the options, in which order, and run."""

import argparse
import asyncio
import gc
import logging
import os
import socket
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from aggregator._native import lib
from aggregator.cli import arguments
from aggregator.http.protocol import Protocol
from aggregator.http.server import Application
from aggregator.pods.names import Names
from aggregator.pods.podinfo import PodInfo, Pods
from aggregator.pods.resolver import standalone
from aggregator.pods.table import PodTable
from aggregator.segment.store import Limits, Store
from aggregator.selfmetrics import SelfMetrics

if TYPE_CHECKING:
    from aggregator.pods.source import Source
    from aggregator.push.otlp import Exporter

log = logging.getLogger("kpod")


def make_pods(options: argparse.Namespace) -> Pods | None:
    if options.pods == "none":
        return None
    # Now, not later in the event loop: the kubernetes package takes half a second and 20 MB.
    from aggregator.pods.cluster import connector
    from aggregator.pods.kubelet import Kubelet
    from aggregator.pods.watch import Watcher

    table = PodTable(time.monotonic_ns)
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
    )
    return Pods(source, names, PodInfo(table, options.policy, options.node))


def otlp(options: argparse.Namespace, store: Store, own: SelfMetrics) -> "Exporter | None":
    if not options.otlp_endpoint:
        return None
    try:
        from aggregator.push.otlp import Endpoint, Exporter, headers
    except ImportError as error:
        sys.exit(f"kpod-aggregator: --otlp-endpoint needs the extra kpod-metrics[otlp]: {error}")
    sent = headers(os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""))
    gzip = os.environ.get("OTEL_EXPORTER_OTLP_COMPRESSION", "") == "gzip"
    endpoint = Endpoint(options.otlp_endpoint, sent, gzip)
    return Exporter(store, own, endpoint, interval=options.otlp_interval)


def ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        log.error("%s ended: %r", task.get_name(), task.exception())


async def serve(
    server: uvicorn.Server,
    listener: socket.socket,
    pods: Pods | None,
    exporter: "Exporter | None",
) -> None:
    tasks = []
    if pods:
        tasks.append(
            asyncio.create_task(pods.source.run(), name=f"pods from the {pods.source.mode}")
        )
    if exporter:
        tasks.append(asyncio.create_task(exporter.run(), name="OTLP push"))
    for task in tasks:
        task.add_done_callback(ended)
    await server.serve(sockets=[listener])


def main() -> None:
    options = arguments()
    logging.basicConfig(
        level=options.log_level.upper(), format="kpod-aggregator: %(message)s", stream=sys.stderr
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of each request
    if error := lib.kpod_confine():
        log.warning("no system call filter: %s", os.strerror(-error))
    # Snapshots come and go: each gets a mapping of its own, as the heap between them would not be
    # given back. By itself the threshold grows with what is freed.
    lib.mallopt(lib.M_MMAP_THRESHOLD, 128 << 10)
    host, port = options.listen
    tls = auth = None
    if options.web_config:
        # 3 MB that most do without.
        from aggregator.http.webconfig import WebConfigError, load

        try:
            tls, auth = load(options.web_config)
        except WebConfigError as error:
            sys.exit(f"kpod-aggregator: {error}")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        sys.exit(f"kpod-aggregator: cannot listen on {host}:{port}: {error.strerror or error}")
    pods = make_pods(options)
    store = Store(
        options.segment,
        clock=time.monotonic_ns,
        resolver=pods.names if pods else standalone,
        changed=pods.names.changed if pods else lambda _: frozenset(),
        node=options.node,
        presentations=options.histogram,
        limits=Limits(options.max_series_per_family, options.max_series),
    )
    store.refresh()
    if pods:
        log.info("names come from the %s, for the pods of node %s", options.pods, options.node)
    else:
        log.info("standalone: names come from cgroup paths")
    application = Application(store, pods, auth=auth, max_scrapes=options.max_scrapes)
    log.info(
        "serving %s://%s:%d/metrics",
        "https" if tls else "http",
        host or "0.0.0.0",
        listener.getsockname()[1],
    )
    exporter = otlp(options, store, application.own)
    config = uvicorn.Config(
        application,
        http=partial(Protocol, application.own.timed_out.inc),  # type: ignore[arg-type]
        ssl_context_factory=(lambda *_: tls.context()) if tls else None,
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        proxy_headers=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    gc.freeze()  # what is imported stays: looking at it again would stop the loop for 50 ms
    uvloop.run(serve(uvicorn.Server(config), listener, pods, exporter))

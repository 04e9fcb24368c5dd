"""Serves a loader's segment to Prometheus: `python -m aggregator --segment PATH`."""

import os
import signal

if __name__ == "__main__":
    # At once: the imports below take a second, and a container's first process gets no signal that
    # it does not handle. Until uvicorn takes over there is nothing to end in order; when it has
    # ended in order, it raises the signal again.
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, lambda *_: os._exit(0))

import argparse
import asyncio
import gc
import logging
import re
import socket
import sys
import time
import urllib.parse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from aggregator._native import lib
from aggregator.exposition import Presentation
from aggregator.names import GRACE_NS, Names
from aggregator.podinfo import PodInfo, Pods
from aggregator.pods import PodTable
from aggregator.policy import Policy, Requirement, parse_selector
from aggregator.protocol import Protocol
from aggregator.resolver import standalone
from aggregator.selfmetrics import SelfMetrics
from aggregator.server import MAX_SCRAPES, Application
from aggregator.store import Limits, Store

if TYPE_CHECKING:
    from aggregator.otlp import Exporter
    from aggregator.source import Source

SHAPES = ("native", "classic", "both")

log = logging.getLogger("kpod")


def address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is not HOST:PORT")
    return host.strip("[]"), int(port)


def natural(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number")
    return int(text)


def seconds(least: float, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not least <= value <= 86400:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a number of seconds from {least:g} to 86400"
        )
    return value


def url(text: str) -> str:
    try:
        parts = urllib.parse.urlsplit(text)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # of the port, or an IPv6 address
        good = False
    if not good:
        raise argparse.ArgumentTypeError(f"'{text}' is not http(s)://HOST[:PORT]/PATH")
    return text


def presentation(text: str) -> Presentation:
    pattern, equals, shape = text.rpartition("=")
    kind, _, exponents = shape.partition(":")
    if not equals or not pattern or kind not in SHAPES:
        raise argparse.ArgumentTypeError(f"'{text}' is not PATTERN={'|'.join(SHAPES)}[:N,N,...]")
    try:
        ends = tuple(float(part) for part in exponents.split(",")) if exponents else None
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}': '{exponents}' are not numbers") from None
    return Presentation(pattern, kind != "classic", kind != "native", ends)


def commas(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no regular expression: {error}") from None


def selector(text: str) -> tuple[tuple[str, Requirement], ...]:
    try:
        return parse_selector(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m aggregator", description=__doc__)
    parser.add_argument(
        "--segment", default="/run/kpod/segment", help="the loader's file (default: %(default)s)"
    )
    parser.add_argument(
        "--listen",
        type=address,
        default=address("0.0.0.0:9090"),
        metavar="HOST:PORT",
        help="where to serve HTTP (default: 0.0.0.0:9090)",
    )
    parser.add_argument(
        "--node",
        default=os.environ.get("NODE_NAME", ""),
        help="value of the label node (default: $NODE_NAME, or no such label)",
    )
    parser.add_argument(
        "--histogram",
        type=presentation,
        action="append",
        default=[],
        metavar="PATTERN=SHAPE[:N,N,...]",
        help="how histograms of these names are shown; of several that match, the last holds. "
        f"SHAPE is for protobuf: {', '.join(SHAPES)} (default: native). Classic buckets, of text "
        "formats too, end at 2^N (default: 12 or less, evenly over the histogram's range)",
    )
    parser.add_argument(
        "--max-series-per-family",
        type=natural,
        default=Limits().per_family,
        metavar="N",
        help="of a family, show no more series than this (default: %(default)s)",
    )
    parser.add_argument(
        "--max-series",
        type=natural,
        default=Limits().total,
        metavar="N",
        help="of all families together (default: %(default)s)",
    )
    parser.add_argument(
        "--max-scrapes",
        type=natural,
        default=MAX_SCRAPES,
        metavar="N",
        help="answer so many scrapes at once, further ones with 503 (default: %(default)s)",
    )
    parser.add_argument(
        "--web.config.file",
        dest="web_config",
        type=Path,
        metavar="PATH",
        help="TLS and basic auth, as other exporters have it (exporter-toolkit)",
    )
    parser.add_argument(
        "--otlp-endpoint",
        type=url,
        metavar="URL",
        help="also push to this OTLP/HTTP receiver, http://HOST:4318/v1/metrics; headers and gzip "
        "as $OTEL_EXPORTER_OTLP_HEADERS and $OTEL_EXPORTER_OTLP_COMPRESSION say (default: off)",
    )
    parser.add_argument(
        "--otlp-interval",
        type=partial(seconds, 0.1),
        default=15.0,
        metavar="SECONDS",
        help="between pushes (default: %(default)s)",
    )
    parser.add_argument(
        "--log-level", choices=["debug", "info", "warning", "error"], default="info"
    )
    pods = parser.add_argument_group("pods")
    pods.add_argument(
        "--pods",
        choices=["auto", "api", "kubelet", "none"],
        default="auto",
        help="who knows the names of this node's pods: the Kubernetes API, the node's kubelet or "
        "nobody (default: the API inside a cluster, else nobody)",
    )
    pods.add_argument(
        "--kubeconfig",
        default="",
        metavar="FILE",
        help="how to reach the API (default: the service account; outside a cluster $KUBECONFIG)",
    )
    pods.add_argument(
        "--kubelet",
        type=url,
        metavar="URL",
        help="the node's kubelet (default: https://NODE:10250)",
    )
    pods.add_argument(
        "--kubelet-insecure",
        action="store_true",
        help="do not check the kubelet's certificate, which often is its own; it gets the token",
    )
    pods.add_argument(
        "--pod-labels",
        type=commas,
        default=(),
        metavar="KEY,...",
        help="labels of pods to put on their series, as label_KEY; values are cut at 4096 bytes",
    )
    pods.add_argument(
        "--scrub",
        type=pattern,
        metavar="REGEX",
        help="what matches in pod labels, images and owners is shown as <scrubbed>",
    )
    pods.add_argument(
        "--namespaces", type=commas, default=(), metavar="NAME,...", help="show no others"
    )
    pods.add_argument(
        "--exclude-namespaces", type=commas, default=(), metavar="NAME,...", help="hide these"
    )
    pods.add_argument(
        "--pod-selector",
        type=selector,
        default=(),
        metavar="SELECTOR",
        help="show only pods whose labels match, as in kubectl get -l",
    )
    pods.add_argument(
        "--name-grace",
        type=partial(seconds, 0),
        default=GRACE_NS / 1e9,
        metavar="SECONDS",
        help="how long a new container waits for its name before it is shown without "
        "(default: %(default)g)",
    )
    options = parser.parse_args(argv)
    if options.pods == "auto":
        options.pods = "api" if os.environ.get("KUBERNETES_SERVICE_HOST") else "none"
    if options.pods != "none" and not options.node:
        parser.error(f"--pods={options.pods} needs the node's name: --node or $NODE_NAME")
    try:
        options.policy = Policy(
            options.pod_labels,
            options.scrub,
            frozenset(options.namespaces),
            frozenset(options.exclude_namespaces),
            options.pod_selector,
        )
    except ValueError as error:
        parser.error(f"--pod-labels: {error}")
    return options


def make_pods(options: argparse.Namespace) -> Pods | None:
    if options.pods == "none":
        return None
    # Now, not later in the event loop: the kubernetes package takes half a second and 20 MB.
    from aggregator.cluster import connector
    from aggregator.kubelet import Kubelet
    from aggregator.watch import Watcher

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
        from aggregator.otlp import Endpoint, Exporter, headers
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
        from aggregator.webconfig import WebConfigError, load

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


if __name__ == "__main__":
    main()

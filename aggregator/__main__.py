"""Serves a loader's segment to Prometheus: `python -m aggregator --segment PATH`."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import time
import urllib.parse
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import uvicorn
import uvloop

from aggregator._native import lib
from aggregator.exposition import Presentation
from aggregator.protocol import Protocol
from aggregator.resolver import standalone
from aggregator.selfmetrics import SelfMetrics
from aggregator.server import MAX_SCRAPES, Application
from aggregator.store import Limits, Store

if TYPE_CHECKING:
    from aggregator.otlp import Exporter

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


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0.1 to 86400")
    return value


def url(text: str) -> str:
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
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
        type=seconds,
        default=15.0,
        metavar="SECONDS",
        help="between pushes (default: %(default)s)",
    )
    parser.add_argument(
        "--log-level", choices=["debug", "info", "warning", "error"], default="info"
    )
    return parser.parse_args(argv)


def stop(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


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


def ended(pushing: asyncio.Task[None]) -> None:
    if not pushing.cancelled():
        log.error("OTLP push ended: %r", pushing.exception())


async def serve(
    server: uvicorn.Server, listener: socket.socket, exporter: "Exporter | None"
) -> None:
    if exporter:
        pushing = asyncio.create_task(exporter.run())
        pushing.add_done_callback(ended)
    await server.serve(sockets=[listener])


def main() -> None:
    options = arguments()
    logging.basicConfig(
        level=options.log_level.upper(), format="kpod-aggregator: %(message)s", stream=sys.stderr
    )
    if error := lib.kpod_confine():
        log.warning("no system call filter: %s", os.strerror(-error))
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
    store = Store(
        options.segment,
        clock=time.monotonic_ns,
        resolver=standalone,
        node=options.node,
        presentations=options.histogram,
        limits=Limits(options.max_series_per_family, options.max_series),
    )
    store.refresh()
    log.info("standalone: names come from cgroup paths")
    application = Application(store, auth=auth, max_scrapes=options.max_scrapes)
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
    # uvicorn stops in order on these and then raises them again for whoever was here before.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    uvloop.run(serve(uvicorn.Server(config), listener, exporter))


if __name__ == "__main__":
    main()

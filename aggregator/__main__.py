"""Serves a loader's segment to Prometheus: `python -m aggregator --segment PATH`."""

import argparse
import logging
import os
import signal
import socket
import sys
import time
from types import FrameType
from typing import NoReturn

import uvicorn

from aggregator._native import lib
from aggregator.exposition import DEFAULT_LE_EXPONENTS
from aggregator.resolver import standalone
from aggregator.server import Application
from aggregator.store import Store

log = logging.getLogger("kpod")


def address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is not HOST:PORT")
    return host.strip("[]"), int(port)


def exponents(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of integers") from None


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
        "--le-exponents",
        type=exponents,
        default=DEFAULT_LE_EXPONENTS,
        metavar="N,N,...",
        help="histogram buckets end at these powers of two, in seconds; write --le-exponents=-1,0 "
        f"(default: {','.join(map(str, DEFAULT_LE_EXPONENTS))})",
    )
    parser.add_argument(
        "--log-level", choices=["debug", "info", "warning", "error"], default="info"
    )
    return parser.parse_args(argv)


def stop(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def main() -> None:
    options = arguments()
    logging.basicConfig(
        level=options.log_level.upper(), format="kpod-aggregator: %(message)s", stream=sys.stderr
    )
    if error := lib.kpod_confine():
        log.warning("no system call filter: %s", os.strerror(-error))
    host, port = options.listen
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
        le_exponents=options.le_exponents,
    )
    store.refresh()
    log.info("standalone: names come from cgroup paths")
    log.info("serving http://%s:%d/metrics", host or "0.0.0.0", listener.getsockname()[1])
    config = uvicorn.Config(
        Application(store),
        loop="uvloop",
        http="h11",
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    # uvicorn stops in order on these and then raises them again for whoever was here before.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()

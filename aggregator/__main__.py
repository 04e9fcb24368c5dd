"""Serves a loader's segment to Prometheus: `python -m aggregator --segment PATH`."""

import argparse
import asyncio
import gc
import logging
import os
import re
import signal
import socket
import sys
import time
from types import FrameType
from typing import NoReturn

import uvicorn
import uvloop

from aggregator.exposition import DEFAULT_LE_EXPONENTS
from aggregator.kubelet import Kubelet
from aggregator.names import GRACE_NS, Names
from aggregator.podinfo import PodInfo, Pods
from aggregator.pods import PodTable
from aggregator.policy import Policy, Requirement, parse_selector
from aggregator.resolver import standalone
from aggregator.server import Application
from aggregator.source import Source
from aggregator.store import Store
from aggregator.watch import Watcher

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


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds")
    return value


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
        type=seconds,
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


async def serve(server: uvicorn.Server, listener: socket.socket, pods: Pods | None) -> None:
    follow = asyncio.create_task(pods.source.run()) if pods else None
    try:
        await server.serve(sockets=[listener])
    finally:
        if follow:
            follow.cancel()


def stop(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def main() -> None:
    options = arguments()
    logging.basicConfig(
        level=options.log_level.upper(), format="kpod-aggregator: %(message)s", stream=sys.stderr
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of each request
    host, port = options.listen
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
        le_exponents=options.le_exponents,
    )
    store.refresh()
    if pods:
        log.info("names come from the %s, for the pods of node %s", options.pods, options.node)
    else:
        log.info("standalone: names come from cgroup paths")
    log.info("serving http://%s:%d/metrics", host or "0.0.0.0", listener.getsockname()[1])
    config = uvicorn.Config(
        Application(store, pods),
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
    gc.freeze()  # what is imported stays: looking at it again would stop the loop for 50 ms
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(uvicorn.Server(config), listener, pods))


if __name__ == "__main__":
    main()

"""The command line of the aggregator."""

import argparse
import os
import re
import sys
import urllib.parse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NoReturn

from aggregator import __version__
from aggregator.http.server import MAX_SCRAPES
from aggregator.pods.names import GRACE_NS
from aggregator.pods.policy import Policy, Requirement, parse_selector
from aggregator.segment.exposition import CREATED, Presentation
from aggregator.segment.store import Limits

SHAPES = ("native", "classic", "both")


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


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and ends with 2."""

    def error(self, message: str) -> NoReturn:
        text = message.removeprefix("argument ")
        self.exit(2, f"{self.prog}: {text}; see {self.prog} --help\n")


def variable(action: argparse.Action) -> str:
    """The environment variable that stands for an option."""
    name = action.option_strings[-1].removeprefix("--")
    return "KPOD_" + re.sub("[-.]", "_", name).upper()


def from_environment(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> list[str]:
    """What the variables say, as arguments, each of them checked by itself."""
    found = []
    for action in parser._actions:
        if action.dest in ("help", "version") or not (value := environment.get(variable(action))):
            continue
        option, name = action.option_strings[-1], variable(action)
        if action.nargs == 0:
            if value not in ("true", "1", "false", "0"):
                parser.error(f"{name}: '{value}' is not true or false")
            found += [option] * (value in ("true", "1"))
            continue
        # Of an option that may be there several times, the values are separated by spaces.
        for part in value.split() if isinstance(action.default, list) else [value]:
            try:
                parser._get_values(action, [part])
            except argparse.ArgumentError as error:
                parser.error(f"{name}: {error.message}")
            found.append(f"{option}={part}")
    return found


def make_parser() -> Parser:
    """Every option there is; deploy/helm makes the chart's values of them."""
    parser = Parser(
        prog="kpod-aggregator",
        usage="%(prog)s [bundle] [options]",
        description="Serves the segment of a loader to Prometheus, and a page to people; bundle: "
        "prints how the one that is at work is, for a bug report, without secrets. Each "
        "option can also be set by the environment variable KPOD_NAME, with _ for - and for a dot; "
        "the command line wins.",
        epilog="Exit status: 0 after SIGTERM or SIGINT; 1 if it cannot do its work (an address "
        "that is in use, a file that cannot be used); 2 if an option is wrong.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--segment", default="/run/kpod/segment", help="the loader's file (default: %(default)s)"
    )
    parser.add_argument(
        "--listen",
        type=address,
        default=address(":9090"),
        metavar="HOST:PORT",
        help="where to serve HTTP; without a host, and at [::], on all IPv4 and IPv6 addresses "
        "(default: :9090)",
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
        f"SHAPE is for protobuf: {', '.join(SHAPES)} (default: both). Classic buckets, of text "
        "formats too, end at 2^N (default: 12 or less, evenly over the histogram's range)",
    )
    parser.add_argument(
        "--created",
        choices=CREATED,
        default="protobuf",
        help="where a scrape says since when a counter counts: nowhere, with the counters of "
        "protobuf, or also in the series NAME_created of OpenMetrics and in histograms "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--compat",
        choices=["none", "cadvisor"],
        default="none",
        help="also serve /metrics/cadvisor: container_* as the kubelet's cAdvisor has them, for "
        "what has the same meaning (docs/cadvisor.md)",
    )
    parser.add_argument(
        "--ended",
        choices=["until-seen", "always"],
        default="until-seen",
        help="how long a container that has ended is shown: until each scraper, and the OTLP "
        "receiver, has had its last values twice, where the scrapers can be told apart by the "
        "connections they keep; or always as long as the loader keeps it (default: %(default)s)",
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
        "--max-page",
        type=natural,
        default=Limits().page >> 20,
        metavar="MiB",
        help="of the page in text, before compression (default: %(default)s, as vmagent refuses "
        "more than 16)",
    )
    parser.add_argument(
        "--max-ended-per-pod",
        type=natural,
        default=Limits().ended_per_pod,
        metavar="N",
        help="of a pod's containers that have ended, show no more at once than the last N; the "
        "others follow when the scrapers have these (default: %(default)s)",
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
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        default="info",
        help="what is less important is not logged (default: %(default)s)",
    )
    parser.add_argument(
        "--log-format",
        choices=["text", "json"],
        default="text",
        help="of the lines on stderr: text, or an object for each line with time, level, program "
        "and message (default: %(default)s)",
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
    pods.add_argument(
        "--identity-labels",
        choices=["where-needed", "always"],
        default="where-needed",
        help="pod_uid and container_id on the series of pods: where another pod or container may "
        "have, or have had, the same names; or always (default: %(default)s)",
    )
    pods.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="remember names in this file, in a directory of the aggregator's own, so that they "
        "last when it is started anew while the API is away (default: off)",
    )
    return parser


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser()
    given = sys.argv[1:] if argv is None else argv
    options = parser.parse_args([*from_environment(parser, os.environ), *given])
    options.in_cluster = bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    if options.pods == "auto":
        options.pods = "api" if options.in_cluster else "none"
    if options.pods == "none":
        for name in ("namespaces", "exclude_namespaces", "pod_selector"):
            if getattr(options, name):
                option = name.replace("_", "-")
                parser.error(
                    f"--{option}: nobody knows of pods, so everything would be shown: "
                    "add --pods=api or --pods=kubelet"
                )
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

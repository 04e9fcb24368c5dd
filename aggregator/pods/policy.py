"""What of a pod is shown: which pods, which of their labels, and what is blotted out."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from aggregator.pods.table import Pod
from aggregator.segment.exposition import Labels, escape

VALUE_MAX = 4096  # bytes of a pod label's value
NAME_MAX = 512  # bytes of a name; the API allows 253
LABELS_MAX = 8192  # bytes of all label_* of a pod, escaped; KPOD_LABELS_MAX has room for the rest
BLOT = "<scrubbed>"
INT64_END = 2**63

Requirement = Callable[[str | None], bool]

_VALUE = r"[A-Za-z0-9](?:[\w.-]{0,61}[A-Za-z0-9])?"
_KEY = rf"(?P<key>(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?/)?{_VALUE})"
_REQUIREMENT = re.compile(
    rf"\s*(?:(?P<no>!)?\s*{_KEY}\s*"
    rf"(?:(?P<op>==?|!=)\s*(?P<value>(?:{_VALUE})?)|(?P<than>[<>])\s*(?P<limit>\d{{1,19}})"
    rf"|(?P<set>in|notin)\s*\((?P<values>\s*(?:{_VALUE}\s*)?(?:,\s*(?:{_VALUE}\s*)?)*)\))?)\s*"
    r"(?:,(?=.)|\Z)",
    re.ASCII,
)


def parse_selector(text: str) -> tuple[tuple[str, Requirement], ...]:
    """A label selector as kubectl has it (apimachinery's labels.Parse). Raises ValueError."""
    text = text.strip()
    found: list[tuple[str, Requirement]] = []
    at = 0
    while at < len(text):
        part = _REQUIREMENT.match(text, at)
        if not part or (part["no"] and (part["op"] or part["than"] or part["set"])):
            raise ValueError(f"'{text}' is not a label selector")
        at = part.end()
        found.append((part["key"], _requirement(part)))
    return tuple(found)


def _requirement(part: re.Match[str]) -> Requirement:
    if part["op"]:
        values = {part["value"]}
    elif part["set"]:
        values = {value.strip() for value in part["values"].split(",")}
    elif part["than"]:
        limit = int(part["limit"])
        numbers = range(limit + 1, INT64_END) if part["than"] == ">" else range(limit)
        return lambda value: value is not None and value.isdecimal() and int(value) in numbers
    elif part["no"]:
        return lambda value: value is None
    else:
        return lambda value: value is not None
    if part["op"] == "!=" or part["set"] == "notin":
        return lambda value: value not in values
    return lambda value: value in values


def label_name(key: str) -> str:
    """As kube-state-metrics has it: app.kubernetes.io/name -> label_app_kubernetes_io_name."""
    return "label_" + re.sub(r"[^a-zA-Z0-9_]", "_", key)


def cut(value: str, size: int = NAME_MAX) -> str:
    """At most so many bytes of UTF-8, whole characters."""
    if 4 * len(value) <= size:
        return value
    return value.encode()[:size].decode(errors="ignore")


@dataclass(frozen=True, slots=True)
class Policy:
    """The user's wishes. namespaces: empty means all."""

    labels: tuple[str, ...] = ()
    scrub: re.Pattern[str] | None = None
    namespaces: frozenset[str] = frozenset()
    exclude_namespaces: frozenset[str] = frozenset()
    selector: tuple[tuple[str, Requirement], ...] = ()

    def __post_init__(self) -> None:
        names = [label_name(key) for key in self.labels]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two pod labels would both be {name}")
        if sum(map(len, names)) > 2048:
            raise ValueError("the names of the pod labels are longer than 2048 bytes together")

    def shows(self, pod: Pod) -> bool:
        return (
            (not self.namespaces or pod.namespace in self.namespaces)
            and pod.namespace not in self.exclude_namespaces
            and all(holds(pod.labels.get(key)) for key, holds in self.selector)
        )

    def blot(self, value: str) -> str:
        return self.scrub.sub(BLOT, value) if self.scrub else value

    def pod_labels(self, pod: Pod | None) -> Labels:
        """All allow-listed labels, empty where the pod has none: every series has the same ones."""
        found: list[tuple[str, str]] = []
        left = LABELS_MAX
        for key in self.labels:
            value = cut(self.blot(pod.labels.get(key, "")), VALUE_MAX) if pod else ""
            size = len(escape(value).encode())
            if size > left:
                value, size = "", 0
            left -= size
            found.append((label_name(key), value))
        return tuple(found)

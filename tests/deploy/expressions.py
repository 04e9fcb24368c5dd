"""Every PromQL expression that we ship, and what is in it, by a parser that is not ours."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import promql_parser
import yaml

from tests.live import ROOT

RULES = ROOT / "deploy/rules"
DASHBOARDS = ROOT / "deploy/dashboards"
# Of the dashboards, what Grafana puts in.
VARIABLES = {"$__rate_interval": "1m"}


@dataclass(frozen=True)
class Expression:
    where: str
    text: str

    def __str__(self) -> str:
        return self.where


@dataclass(frozen=True)
class Selector:
    metric: str
    labels: tuple[str, ...]
    text: str


def rules() -> Iterator[dict[str, Any]]:
    for path in sorted(RULES.glob("*.yaml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def substituted(text: str) -> str:
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    return re.sub(r"\$\w+", ".*", text)


@cache
def every() -> tuple[Expression, ...]:
    found = [Expression(r.get("alert") or r["record"], r["expr"]) for r in rules()]
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                where = f"{path.stem}: {panel['title']} {target['refId']}"
                found.append(Expression(where, substituted(target["expr"])))
    page = (ROOT / "docs/queries.md").read_text()
    for number, text in enumerate(re.findall(r"(?s)```promql\n(.*?)```", page), 1):
        found.append(Expression(f"queries.md {number}", text))
    for path in sorted((ROOT / "docs/runbooks").glob("*.md")):
        for block in re.findall(r"(?s)```\n(.*?)```", path.read_text()):
            found += [
                Expression(f"{path.stem}.md {line}", line)
                for line in block.splitlines()
                if "kpod_" in line
            ]
    return tuple(found)


def _children(node: Any) -> Iterator[Any]:
    for name in ("expr", "lhs", "rhs", "param"):
        if (child := getattr(node, name, None)) is not None:
            yield child
    yield from getattr(node, "args", ()) or ()


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in _children(node):
        yield from _nodes(child)


def selectors(text: str) -> list[Selector]:
    found = []
    for node in _nodes(promql_parser.parse(text)):
        vector = getattr(node, "vector_selector", node)
        if isinstance(vector, promql_parser.VectorSelector):
            labels = tuple(m.name for m in vector.matchers.matchers)
            assert vector.name, "a selector without a metric"
            found.append(Selector(vector.name, labels, str(vector)))
    return found


def grouping(text: str) -> set[str]:
    """Labels of by, without, on, ignoring, group_left and group_right."""
    words = re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right) *\(([^)]*)\)", text)
    return {label.strip() for group in words for label in group.split(",") if label.strip()}

"""docs/metrics.md from the loader's own schema: `kpod-loader schema | python3 docs/metrics.py`."""

import json
import sys
from collections.abc import Iterator
from typing import Any

HEAD = """# Metrics

Made by `make docs` from the schema (`kpod-loader schema`): do not edit. Tables of scope *slot* have
a series for each container (and one for the host: all that belongs to none) with the labels
of its owner; tables of scope *node* have one for the node. What a collector costs is in
[performance.md](performance.md).
"""


def families(table: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """(name, kind, labels, help) of each family of a table."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for column in table["columns"]:
        by_name.setdefault(column["name"], []).append(column)
    keys = [f"`{key['label']}`" for key in table["keys"]]
    for name, columns in by_name.items():
        values: dict[str, list[str]] = {}
        for column in columns:
            for label, value in column["labels"].items():
                values.setdefault(label, []).append(value)
        constant = [f"`{label}`: {', '.join(v)}" for label, v in values.items()]
        yield name, columns[0]["kind"], "; ".join(keys + constant), columns[0]["help"]


def render(schema: dict[str, Any]) -> Iterator[str]:
    yield HEAD
    own = {"name": "loader", "help": "the loader itself", "profile": "minimal", "attachments": []}
    for collector in [*schema["collectors"], own]:
        tables = [t for t in schema["tables"] if t["collector"] == collector["name"]]
        yield f"## {collector['name']}\n{collector['help'][0].upper()}{collector['help'][1:]}.\n"
        yield f"- Profile: {collector['profile']} and larger."
        if "owner" in collector:
            yield f"- Owner of an event: {collector['owner']}."
            yield f"- Complete since kernel {collector['since']}."
        for attachment in collector["attachments"]:
            hooks = ", ".join(f"`{hook}`" for hook in attachment["hooks"])
            yield f"- Attached by {attachment['name']}: {hooks}."
        for table in tables:
            yield f"\nTable `{table['name']}`, scope {table['scope']}:\n"
            yield "| metric | type | labels | |\n|---|---|---|---|"
            for name, kind, labels, text in families(table):
                yield f"| `{name}` | {kind} | {labels} | {text} |"
        yield ""


if __name__ == "__main__":
    print("\n".join(render(json.load(sys.stdin))), end="")

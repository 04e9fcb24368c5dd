"""Makes the chart's values of what the two programs say of their own options.

    python -m deploy.helm.options build/kpod-loader [--check]

writes the marked blocks of values.yaml and the matching definitions of values.schema.json. Bounds
of numbers are not copied: the program is asked, by giving it something that is no number.
"""

import argparse
import functools
import json
import math
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregator import cli

CHART = Path(__file__).parent / "kpod-metrics"

# Options that are no values, because the chart itself sets them or they are for people.
LOADER_FIXED = {
    *("segment", "proc", "print", "help", "version"),
    *("json", "once", "sort", "filter"),  # of doctor and top
}
AGGREGATOR_FIXED = {
    *("segment", "listen", "node", "web.config.file"),  # by the DaemonSet
    *("kubeconfig",),  # a pod has its service account
    *("help", "version"),
}
# What changes in a cluster, and why.
CHART_DEFAULTS: dict[str, tuple[Any, str]] = {
    "ring-max": (
        33554432,
        "Two rings of this size must fit into the loader's memory limit. 32 MiB hold a snapshot of "
        "several thousand containers.",
    ),
}


@dataclass(frozen=True)
class Option:
    name: str
    help: str
    schema: dict[str, Any]


def bound(text: str) -> float:
    """A bound that a program printed with six digits; of a power of two that is not all of it."""
    value = float(text)
    power = 2.0 ** round(math.log2(value)) if value > 1e6 else value
    return power if abs(power - value) <= 1e-5 * value else value


def number(low: float, high: float, *, integer: bool) -> dict[str, Any]:
    kind = "integer" if integer else "number"
    ends = {"minimum": low, "maximum": high}
    return {"type": [kind, "null"], **{k: int(v) if v == int(v) else v for k, v in ends.items()}}


def strings(**more: Any) -> dict[str, Any]:
    # A comma would make two of one.
    return {"type": ["array", "null"], "items": {"type": "string", "pattern": "^[^,]+$"}, **more}


# ---- the loader ---------------------------------------------------------------------------------


def loader_options(program: Path) -> Iterator[Option]:
    usage = subprocess.check_output([program, "--help"], text=True)
    pattern = r"(?m)^  --([a-z-]+)(?: ([A-Z]+))? +(\S.*(?:\n {20,}\S.*)*)"
    for name, kind, text in re.findall(pattern, usage):
        if name not in LOADER_FIXED:
            yield Option(name, " ".join(text.split()), loader_schema(program, name, kind))


def loader_schema(program: Path, name: str, kind: str) -> dict[str, Any]:
    if not kind:
        return {"type": ["boolean", "null"]}
    # "--pods-only=x" and the like never get here; a word that is no number is refused with bounds.
    refused = subprocess.run(
        [program, "schema", f"--{name}", "no number"], capture_output=True, text=True, check=False
    ).stderr
    if bounds := re.search(r"is not a (?:whole )?number.* from (\S+) to ([^\s,;]+)", refused):
        return number(bound(bounds[1]), bound(bounds[2]), integer=kind in ("N", "BYTES"))
    if choices := re.search(r"'no number' is not (.*)", refused):
        words = re.split(r", | or ", choices[1])
        if all(re.fullmatch(r"[a-z-]+", word) for word in words):
            return {"enum": [None, *words]}
    if kind == "LIST":
        return strings(uniqueItems=True)
    return {"type": ["string", "null"], "minLength": 1}


# ---- the aggregator -----------------------------------------------------------------------------


def aggregator_options() -> Iterator[Option]:
    for action in cli.make_parser()._actions:
        name = action.option_strings[-1].removeprefix("--")
        if name not in AGGREGATOR_FIXED:
            text = (action.help or "").replace("%(default)s", str(action.default))
            text = text.replace("%(default)g", f"{action.default}")
            yield Option(name, text, aggregator_schema(action))


def aggregator_schema(action: argparse.Action) -> dict[str, Any]:
    kind = action.type
    if action.nargs == 0:
        return {"type": ["boolean", "null"]}
    if action.choices:
        return {"enum": [None, *action.choices]}
    if kind is cli.natural:
        return {"type": ["integer", "null"], "minimum": 0}
    if isinstance(kind, functools.partial) and kind.func is cli.seconds:
        return number(kind.args[0], 86400, integer=False)
    if kind is cli.commas:
        return strings(uniqueItems=True)
    if kind is cli.url:
        return {"type": ["string", "null"], "pattern": "^https?://[^/]+"}
    if kind is cli.presentation:
        shape = rf"^.+=({'|'.join(cli.SHAPES)})(:[-0-9.,]+)?$"
        return {"type": ["array", "null"], "items": {"type": "string", "pattern": shape}}
    return {"type": ["string", "null"], "minLength": 1}


# ---- the files ----------------------------------------------------------------------------------


def block(options: list[Option]) -> str:
    lines = []
    for option in options:
        default, why = CHART_DEFAULTS.get(option.name, (None, ""))
        text = " ".join(f"{option.help}{'. ' + why if why else ''}".split())
        lines += textwrap.wrap(text, 100, initial_indent="    # ", subsequent_indent="    #   ")
        lines.append(f"    {option.name}: {json.dumps(default)}")
    return "\n".join(lines) + "\n"


def values(text: str, name: str, options: list[Option]) -> str:
    pattern = rf"(?s)( *# BEGIN {name} options[^\n]*\n).*?( *# END {name} options)"
    filled, times = re.subn(pattern, lambda m: m[1] + block(options) + m[2], text)
    assert times == 1, f"values.yaml has no block for the {name}"
    return filled


def schema(text: str, **programs: list[Option]) -> str:
    document = json.loads(text)
    for name, options in programs.items():
        document["$defs"][f"{name}Options"] = {
            "type": "object",
            "additionalProperties": False,
            "properties": {o.name: {"description": o.help, **o.schema} for o in options},
        }
    return json.dumps(document, indent=2) + "\n"


def main() -> None:
    program, check = Path(sys.argv[1]), "--check" in sys.argv
    loader, aggregator = list(loader_options(program)), list(aggregator_options())
    made: dict[str, Callable[[str], str]] = {
        "values.yaml": lambda text: values(
            values(text, "loader", loader), "aggregator", aggregator
        ),
        "values.schema.json": lambda text: schema(text, loader=loader, aggregator=aggregator),
    }
    stale = False
    for name, make in made.items():
        path = CHART / name
        old = path.read_text()
        new = make(old)
        if new != old and check:
            stale = True
            print(f"{path}: not what the programs say; run make deploy", file=sys.stderr)
        elif new != old:
            path.write_text(new)
    sys.exit(stale)


if __name__ == "__main__":
    main()

"""docs/limits.md against the code: every bound is on the page, with its value, and every metric and
option that the page names is there."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs/limits.md"

UNITS = {"": 1, "s": 10**9, "ms": 10**6, "KiB": 1 << 10, "MiB": 1 << 20}
# What a name looks like that bounds something.
BOUND = re.compile(r"\w*(?:_MAX|^MAX_\w+|_THREADS|_MOUNTS|LEVELS_MAX|_BUDGET|_AGE_MAX_NS)")
# Those that bound nothing that people could meet: sizes of the code's own scratch space, and
# numbers of what the kernel or a standard has.
NO_BOUNDS = {
    "loader/options.c:ENVIRONMENT_MAX",
    "bpf/events.bpf.c:LEVELS_MAX",  # of `events exec`: it shows so much of a path
}
# Of the aggregator's talk with others, told by its own metrics and pages.
NO_BOUNDS_BELOW = ("aggregator/http/", "aggregator/push/", "aggregator/pods/")
NO_BOUNDS_IN = (
    "aggregator/segment/schema.py",
)  # the same as in shared/ and native/, checked there
# Maps with an element of a kind for each event that is under way, not for what is counted.
NO_MAPS = {"bpf/events.bpf.c:events", "bpf/tcp.bpf.c:tcp_done"}


@dataclass(frozen=True)
class Limit:
    bound: str
    value: str
    place: str
    seen: tuple[str, ...]
    options: tuple[str, ...]


def limits() -> list[Limit]:
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and ":" in cells[2]:
            names = re.findall(r"`([^`]+)`", cells[4])
            options = re.findall(r"`(--[\w.-]+)`", cells[5])
            found.append(Limit(cells[0], cells[1], cells[2], tuple(names), tuple(options)))
    return found


def evaluate(expression: str) -> int:
    text = re.sub(r"/\*.*|#.*", "", expression)
    text = re.sub(r"\b(\d+)(?:u|U|ULL|ull|UL)\b", r"\1", text)
    text = re.sub(r"\b(?:KPOD_SECOND|KPOD_BEAT_NS)\b", str(10**9), text)
    assert re.fullmatch(r"[\d_ ()<*+/-]+", text.strip()), expression
    return int(eval(text))


def in_the_code(place: str) -> int:
    """The value of what the page names as FILE:NAME."""
    path, _, name = place.partition(":")
    text = (ROOT / path).read_text()
    if path == "loader/options.c":
        match = re.search(rf'\{{"{name}", (\w+), TO\(\w+\), "([\d.]+)"', text)
        assert match, place
        return int(float(match[2]) * (10**9 if match[1] == "SECONDS" else 1))
    patterns = (
        rf"(?m)^#define {name}\s+(.*)$",
        rf"(?m)^{name}(?:: \w+)? = (.*)$",
        rf"(?m)^    {name}: int = (.*)$",
        rf"max_entries, ([^)]*)\);[^}}]*\}} {name} SEC",
        rf"\.{name} = (\d+)",
    )
    found = [m[1] for pattern in patterns if (m := re.search(pattern, text))]
    assert len(found) == 1, (place, found)
    return evaluate(found[0])


@pytest.mark.parametrize("limit", limits(), ids=lambda limit: limit.place)
def test_value_on_the_page_is_the_code_s(limit: Limit) -> None:
    number, _, unit = limit.value.partition(" ")
    assert int(number) * UNITS[unit] == in_the_code(limit.place)


def test_metrics_and_options_exist() -> None:
    metrics = (ROOT / "docs/metrics.md").read_text()
    sources = "".join(p.read_text() for p in (ROOT / "aggregator").rglob("*.py"))
    options = (ROOT / "docs/options.md").read_text()
    for limit in limits():
        for name in limit.seen:
            own = name.removesuffix("_total")
            assert f"`{name}`" in metrics or f'"{own}"' in sources, f"{limit.bound}: {name}"
        for option in limit.options:
            assert f"`{option} " in options or f'"{option}"' in sources, f"{limit.bound}: {option}"


def bounds() -> set[str]:
    found = set()
    for path in ROOT.glob("*/**/*"):
        place = str(path.relative_to(ROOT))
        if path.suffix not in (".c", ".h", ".py") or place.split("/")[0] not in (
            *("loader", "bpf", "shared", "aggregator"),
        ):
            continue
        text = path.read_text()
        names = re.findall(r"(?m)^#define (\w+)\s+\S", text)
        names += re.findall(r"(?m)^([A-Z_]+)(?:: \w+)? = \d", text)
        found |= {f"{place}:{name}" for name in names if BOUND.fullmatch(name)}
        for size, name in re.findall(r"max_entries, ([^)]*)\);[^}]*\} (\w+) SEC", text):
            if size != "1":
                found.add(f"{place}:{name}")
        found |= {f"{place}:unit_capacity" for _ in re.findall(r"\.unit_capacity = \d", text)}
    return found


def test_every_bound_is_on_the_page() -> None:
    known = {limit.place for limit in limits()} | NO_BOUNDS | NO_MAPS
    missing = {
        place
        for place in bounds() - known
        if not place.startswith(NO_BOUNDS_BELOW) and place.split(":")[0] not in NO_BOUNDS_IN
    }
    assert not missing, "say in docs/limits.md what happens beyond these"

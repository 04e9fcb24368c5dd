"""What the documents name is there: links, headings, metrics, options and files."""

import re
from pathlib import Path

import pytest

from aggregator.cli import make_parser
from tests.live import ROOT

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "shared/*.md", "deploy/**/*.md")
    for path in ROOT.glob(pattern)
)
# Where the reader is to put a name of his own, or that of the example.
EXAMPLES = {"NAME", "forks"}
# Of kubectl, helm, systemctl and Prometheus.
OTHERS_OPTIONS = {
    *("--namespace", "--create-namespace", "--now", "--enable-feature", "--field-selector"),
    *("--previous", "--as", "--all-containers", "--prefix", "--tail"),
}
# C names and BPF programs begin like metrics.
ABOUT_CODE = ("adding-a-collector.md", "architecture.md", "kernels.md", "decisions", "shared")


def prose(path: Path) -> str:
    return re.sub(r"(?ms)^```.*?^```", "", path.read_text())


def headings(path: Path) -> set[str]:
    """As GitHub makes anchors of them."""
    found = set()
    for heading in re.findall(r"(?m)^#+ (.*)$", prose(path)):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", prose(path)):
        if "://" in target or target.startswith("mailto:"):
            continue
        there = path.parent / target if target else path
        assert there.exists(), target
        if anchor and there.suffix == ".md":
            assert anchor in headings(there), f"{target}#{anchor}"


def in_the_page() -> set[str]:
    return set(re.findall(r"kpod_\w+", (ROOT / "docs/metrics.md").read_text()))


def test_the_aggregators_own_metrics_are_in_the_page() -> None:
    """The page is made from what the collectors give; here it is what the sources name."""
    sources = "\n".join(p.read_text() for p in (ROOT / "aggregator").rglob("*.py"))
    own = set(re.findall(r'"(kpod_\w+)",\s+"', sources))
    page = in_the_page()
    assert len(own) > 30
    assert not {n for n in own if not {n, f"{n}_total", f"{n}_info"} & page}


def test_metrics_are_there() -> None:
    known = {
        name + ending
        for name in in_the_page()
        for ending in ("", "_total", "_info", "_bucket", "_sum", "_count", "_created")
    }
    missing = {
        (str(path.relative_to(ROOT)), name)
        for path in DOCUMENTS
        if not any(part in path.parts for part in ABOUT_CODE)
        for name in re.findall(r"\bkpod_\w*\*?", path.read_text())
        if name not in known
        and not (name.rstrip("*")[-1] == "_" and any(k.startswith(name.rstrip("*")) for k in known))
    }
    assert not missing


def test_options_are_there() -> None:
    manual = (ROOT / "docs/man/kpod-loader.8").read_text().replace("\\-", "-")
    known = set(re.findall(r"--[a-z][\w.-]+\w", manual)) | OTHERS_OPTIONS
    known |= {option for action in make_parser()._actions for option in action.option_strings}
    missing = {
        (str(path.relative_to(ROOT)), option)
        for path in DOCUMENTS
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]", path.read_text())
        if option not in known
    }
    assert not missing


def test_files_are_there() -> None:
    folders = "aggregator|bpf|loader|shared|deploy|tests|docs|findings"
    missing = {
        (str(path.relative_to(ROOT)), name)
        for path in DOCUMENTS
        for name in re.findall(rf"`((?:{folders})/[\w./-]+)(?::\w+)?`", path.read_text())
        if not (ROOT / name).exists() and not any(part in name for part in EXAMPLES)
    }
    assert not missing

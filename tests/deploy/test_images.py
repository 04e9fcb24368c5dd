"""The images that `make images` built: small, bare, and the same bytes each time.

Run by `make test-images`, which also runs test_pod.py on them: a build downloads 300 MB once.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.live import ROOT

IMAGES = bool(os.environ.get("KPOD_IMAGES"))
pytestmark = pytest.mark.skipif(not IMAGES, reason="needs images: make test-images")
STORE = ROOT / ".cache/deploy"
MEGABYTE = 10**6
LIMITS = {"loader": 15 * MEGABYTE, "aggregator": 120 * MEGABYTE}


def buildah(*arguments: str) -> str:
    store = ("--root", str(STORE / "store"), "--runroot", str(STORE / "run"))
    return subprocess.check_output(["buildah", *store, *arguments], text=True)


def inspect(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", reference(name)))
    return found


def reference(name: str) -> str:
    version = (ROOT / "pyproject.toml").read_text().partition('\nversion = "')[2].partition('"')[0]
    return f"localhost/kpod-metrics/{name}:{version}"


@contextmanager
def root(name: str) -> Iterator[Path]:
    """The files of an image."""
    container = buildah("from", reference(name)).strip()
    try:
        yield Path(buildah("mount", container).strip())
    finally:
        buildah("rm", container)


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_it_is_small_and_bare(name: str) -> None:
    with root(name) as found:
        is_small_and_bare(name, found)


def is_small_and_bare(name: str, root: Path) -> None:
    files = [p for p in root.rglob("*") if p.is_file() and not p.is_symlink()]
    assert sum(p.stat().st_size for p in files) <= LIMITS[name]
    assert not [p for p in files if p.stat().st_mode & 0o6000], "none is set-uid"
    if name == "loader":
        assert {p.name for p in files} == {"kpod-loader", "LICENSE"}
    else:
        programs = {p.name for p in (root / "usr/bin").iterdir()}
        assert {p for p in programs if not p.startswith("python3")} == set()
        assert not [p for p in files if p.suffix in (".c", ".h", ".a")]
        assert not list(root.rglob("pip")), "nothing that could install more"
        assert not [p for p in files if p.suffix == ".py" and "aggregator" not in p.parts]


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_it_says_what_it_is(name: str) -> None:
    config = inspect(name)["OCIv1"]["config"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] == reference(name).rpartition(":")[2]
    assert len(labels["org.opencontainers.image.revision"]) >= 7
    assert config["User"] == {"loader": "0:0", "aggregator": "65534:65534"}[name]
    assert "Healthcheck" not in config, "probes are the cluster's"


def test_built_again_it_is_the_same_bytes() -> None:
    before = {name: inspect(name)["FromImageDigest"] for name in LIMITS}
    command = ["make", "-s", "images", "IMAGE_OPTIONS=--no-cache"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert {name: inspect(name)["FromImageDigest"] for name in LIMITS} == before

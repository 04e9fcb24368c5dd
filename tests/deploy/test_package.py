"""`pip install .`: the source distribution builds the wheel, and the wheel's program serves.

The oracle is a new virtual environment that has nothing but the wheel and what its metadata
requires, linked from the environment of the tests: no registry is asked.
"""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy.images.requirements import versions
from tests.live import ROOT

BUILD = "import sys, setuptools.build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"


def build(what: str, source: Path, into: Path) -> Path:
    """What pip does, with the setuptools that is here."""
    into.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BUILD, what, str(into)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return into / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("build_sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From the source distribution, not from the tree."""
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run(["tar", "-xf", sdist, "-C", directory], check=True)
    (source,) = directory.iterdir()
    return build("build_wheel", source, directory / "dist")


def required(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """The installed distributions that this one requires, and what those do."""
    found = {name}
    for text in importlib.metadata.requires(name) or ():
        one = Requirement(text)
        wanted = any(one.marker.evaluate({"extra": e}) for e in extras or {""}) if one.marker else 1
        if wanted and one.name not in found:
            found |= required(one.name, frozenset(one.extras))
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and its requirements, and nothing else."""
    directory = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    pip = [sys.executable, "-m", "pip", "-q", f"--python={directory}/bin/python", "install"]
    subprocess.run(
        [*pip, "--no-deps", "--no-index", "--no-warn-script-location", wheel], check=True
    )
    (site,) = directory.glob("lib/python3*/site-packages")
    with zipfile.ZipFile(wheel) as packed:
        (metadata,) = (n for n in packed.namelist() if n.endswith(".dist-info/METADATA"))
        text = packed.read(metadata).decode()
    for line in re.findall(r"(?m)^Requires-Dist: (.*)$", text):
        one = Requirement(line)
        if one.marker and not one.marker.evaluate({"extra": ""}):
            continue
        for name in required(one.name, frozenset(one.extras)):
            distribution = importlib.metadata.distribution(name)
            for top in {f.parts[0] for f in distribution.files or () if f.parts[0] != ".."}:
                source, link = Path(str(distribution.locate_file(top))), site / top
                if not link.exists() and source.exists():
                    link.symlink_to(source)
    return directory


def test_the_wheel_has_every_package_and_no_source(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    ours = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "aggregator").rglob("*.py")
        if "native" not in path.parts
    }
    assert ours <= set(names)
    (extension,) = (n for n in names if n.endswith(".so"))
    assert extension.startswith("aggregator/_native.")
    assert not [n for n in names if n.endswith((".c", ".h"))]
    assert not [n for n in names if not n.startswith(("aggregator/", "kpod_metrics-"))]


@pytest.mark.parametrize("which", ["run", "build"])
def test_the_image_installs_nothing_without_a_hash(which: str) -> None:
    """The lists have all packages, each version with its files' hashes, and pip has to look."""
    text = (ROOT / f"deploy/images/{which}.txt").read_text()
    locked = dict(
        re.findall(r"(?m)^(\S+)==\S+ \\\n((?:    --hash=sha256:[0-9a-f]{64}.*\n?)+)", text)
    )
    assert locked.keys() == versions(which).keys()
    assert len(re.findall(r"(?m)^\S+==", text)) == len(locked)
    dockerfile = (ROOT / "deploy/images/aggregator.Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install ([^&\n]*)", dockerfile)
    assert len(installs) == 3
    for arguments in installs:
        assert "--require-hashes" in arguments or "--no-index" in arguments, arguments


def test_the_program_starts_without_a_compiler_and_serves(
    environment: Path, tmp_path: Path
) -> None:
    program = environment / "bin/kpod-aggregator"
    bare = {"PATH": "/nonexistent", "LANG": "C.UTF-8"}
    run = {"env": bare, "cwd": tmp_path, "text": True}
    version = subprocess.check_output([program, "--version"], **run)  # type: ignore[call-overload]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert version == f"kpod-aggregator {project['version']}\n"
    helped = subprocess.check_output([program, "--help"], **run)  # type: ignore[call-overload]
    assert helped.startswith("usage: kpod-aggregator ")
    process = subprocess.Popen(  # type: ignore[call-overload]
        [program, "--segment", tmp_path / "segment", "--listen", "127.0.0.1:0"],
        stderr=subprocess.PIPE,
        **run,
    )
    try:
        while "serving http://" not in (line := process.stderr.readline()):
            assert line, "the aggregator did not start"
        with urllib.request.urlopen(line.split()[-1], timeout=10) as answer:
            body = answer.read().decode()
        assert "\nkpod_loader_up 0" in body
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert f"{environment}/lib" in maps, "the extension is another one's"
    finally:
        process.terminate()
        process.communicate(timeout=20)
    absent = "import sys, importlib.util as u; sys.exit(u.find_spec('setuptools') is not None)"
    subprocess.run([environment / "bin/python", "-c", absent], check=True)


def test_one_version_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f'__version__ = "{version}"' in (ROOT / "aggregator/__init__.py").read_text()
    assert f'"{version}"' in next(
        line
        for path in (ROOT / "loader").rglob("*.[ch]")
        for line in path.read_text().splitlines()
        if "define KPOD_VERSION" in line
    )

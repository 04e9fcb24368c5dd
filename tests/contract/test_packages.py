"""deploy/packages, with an apt-get of our own that does what a registry on a bad day does."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parent.parent.parent / "deploy/packages"
NEEDED = ("bash", "cat", "cut", "dirname", "env", "grep", "id", "mkdir", "mktemp", "mv", "rm")
MORE = ("cp", "head", "seq", "tail", "test", "touch", "wc")
# Packages that it knows: known-1 and known-2. What it does at each call is in ./calls.
APT_GET = """#!/bin/bash
echo "$*" >>"$CALLS"
case "$*" in
*update*) [ "$(grep -c update "$CALLS")" -gt "${DEAD:-0}" ] || { echo E: time-out; exit 100; }
	touch "$CALLS.lists" ;;
*--simulate*) echo Inst known-1; echo Inst what-it-needs ;;
*install*) echo Fetched 1 B ;;
*download*) [ -e "$CALLS.lists" ] && echo "$CONTENT" >package.deb ;;
esac
"""
APT_CACHE = """#!/bin/bash
[ -e "$CALLS.lists" ] && [[ $* = *known-* ]] && echo "Package: ${!#}"
exit 0
"""
DPKG_DEB = """#!/bin/bash
mkdir -p "$3/usr" && head -c -1 "$2" >"$3/usr/tool"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The only directory of PATH: without apt-get."""
    made = tmp_path / "bin"
    made.mkdir()
    for name in (*NEEDED, *MORE):
        found = shutil.which(name)
        assert found
        (made / name).symlink_to(found)
    (made / "sleep").write_text("#!/bin/bash\n")
    (made / "sleep").chmod(0o755)
    return made


@pytest.fixture
def apt(path: Path) -> Path:
    commands = {"apt-get": APT_GET, "apt-cache": APT_CACHE, "dpkg-deb": DPKG_DEB}
    for name, text in {**commands, "dpkg-query": "#!/bin/bash\nexit 1\n"}.items():
        (path / name).write_text(text)
        (path / name).chmod(0o755)
    return path


def run(path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(path), "CALLS": str(path.parent / "calls"), **variables}
    return subprocess.run(
        [PACKAGES, *arguments],
        cwd=path.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_another_distribution_names_what_is_missing(path: Path) -> None:
    (path / "clang").symlink_to("/bin/true")
    done = run(path, "clang", "gcc", "kmod", "bash")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    # kmod: the search goes on in /usr/sbin, where this machine may have modprobe.
    assert line.startswith("make setup: no apt-get on this machine: ")
    assert line.split(": ")[-1].split()[0] == "gcc"
    assert "clang" not in line


def test_another_distribution_that_has_everything(path: Path) -> None:
    assert run(path, "bash", "cat").returncode == 0


def test_the_name_that_is_known_is_installed(apt: Path) -> None:
    done = run(apt, "unknown|known-1", "known-2")
    assert done.returncode == 0, done.stderr
    assert "installs known-1 known-2 (2 packages with what they need)" in done.stdout


def test_a_registry_that_times_out_is_asked_again(apt: Path) -> None:
    done = run(apt, "known-1", DEAD="2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("failed: ") == 2


def test_a_registry_that_is_dead_is_named(apt: Path) -> None:
    done = run(apt, "known-1", DEAD="9")
    assert done.returncode == 1
    assert "E: time-out" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("make setup: apt-get could not get known-1")


def test_a_file_that_is_empty_is_not_taken_as_made(apt: Path, tmp_path: Path) -> None:
    tool = tmp_path / "cache/tool/usr/tool"
    unpack = ("--unpack", "cache/tool/usr/tool", "known-1")
    done = run(apt, *unpack, CONTENT="")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "make setup: known-1 has no usr/tool"
    assert not list((tmp_path / "cache").iterdir())

    tool.parent.mkdir(parents=True)
    tool.touch()  # half made, by whoever was here before
    assert run(apt, *unpack, CONTENT="x").returncode == 0
    assert tool.read_text() == "x"
    os.truncate(apt.parent / "calls", 0)
    assert run(apt, *unpack, CONTENT="y").returncode == 0
    assert tool.read_text() == "x"
    assert not (apt.parent / "calls").read_text(), "nothing was downloaded"

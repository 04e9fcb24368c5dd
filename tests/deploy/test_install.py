"""`make install`, and the two units: what systemd itself says of them, without running it."""

import importlib.metadata
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.pod import packages_into
from tests.live import ROOT

PROGRAMS = ("loader", "aggregator")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installed there; the requirements are those of this environment, as no registry is asked."""
    made = tmp_path_factory.mktemp("prefix")
    env = {**os.environ, "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    command = ["make", "-s", "install", f"PREFIX={made}", f"DESTDIR={made}/root"]
    subprocess.run(command, cwd=ROOT, check=True, env=env, capture_output=True)
    shutil.copytree(f"{made}/root{made}", made, dirs_exist_ok=True)
    packages_into(made / "lib/kpod-metrics")
    return made


def test_both_programs_run(prefix: Path) -> None:
    version = importlib.metadata.version("kpod-metrics")
    for name in PROGRAMS:
        bare = {"PATH": "/nonexistent"}
        said = subprocess.check_output([prefix / f"bin/kpod-{name}", "--version"], env=bare)
        assert said.decode() == f"kpod-{name} {version}\n"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_systemd_understands_the_units(prefix: Path) -> None:
    units = [prefix / f"lib/systemd/system/kpod-{name}.service" for name in PROGRAMS]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, units)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units[0].parent}:"},
    )
    ours = [line for line in done.stderr.splitlines() if "kpod" in line]
    assert ours == []


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
@pytest.mark.parametrize(("name", "most"), [("loader", 3.0), ("aggregator", 1.5)])
def test_they_are_confined(prefix: Path, name: str, most: float) -> None:
    unit = prefix / f"lib/systemd/system/kpod-{name}.service"
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    exposure = re.findall(r"Overall exposure level .*: ([0-9.]+)", said)
    assert exposure, said
    assert float(exposure[0]) <= most
    text = unit.read_text()
    documented = (ROOT / "docs/privileges.md").read_text().partition("## Aggregator")[0]
    known = set(re.findall(r"(?m)^\| (CAP_\w+) ", documented)) if name == "loader" else set()
    (bounding,) = re.findall(r"(?m)^CapabilityBoundingSet=(.*)$", text)
    assert set(bounding.split()) == known
    assert "NoNewPrivileges=yes" in text
    assert "ProtectSystem=strict" in text

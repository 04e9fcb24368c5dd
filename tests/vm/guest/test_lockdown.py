"""What is kept from us; at the end the kernel is locked down (kernel_lockdown(7)) for good."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import of_this_kernel
from tests.live import LOADER, WITHOUT_TRACEFS, collectors

pytestmark = pytest.mark.guest

SECURITY = Path("/sys/kernel/security")


@pytest.fixture
def lockdown() -> Path:
    if not (SECURITY / "lockdown").exists():
        subprocess.run(["mount", "-t", "securityfs", "securityfs", str(SECURITY)], check=True)
    return SECURITY / "lockdown"


def doctor(*prefix: str) -> str:
    command = [*prefix, str(LOADER), "doctor", "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_nothing_needs_tracefs() -> None:
    assert collectors(doctor(*WITHOUT_TRACEFS)) == of_this_kernel()


def test_integrity_takes_nothing_away(lockdown: Path) -> None:
    before = dict(of_this_kernel())
    lockdown.write_text("integrity")
    assert "[integrity]" in lockdown.read_text()
    after = collectors(doctor())
    # Nor does it then say whether it preempts functions, so `udp` takes what loses nothing if so.
    assert after.pop("udp")[0]
    assert before.pop("udp")[0]
    assert after == before


def test_confidentiality_is_said(lockdown: Path, tmpfs: Path) -> None:
    lockdown.write_text("confidentiality")
    checks = {check["name"]: check for check in json.loads(doctor())["checks"]}
    assert checks["privilege"]["state"] == "no"
    assert checks["privilege"]["text"].startswith("the kernel is locked down (confidentiality)")
    command = [str(LOADER), "run", "--segment", str(tmpfs / "segment")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("kpod-loader: the kernel is locked down (confidentiality): ")
    assert not list(tmpfs.iterdir())

"""What runs elsewhere: valid by GitHub's own schemas, and calling only what there is."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.live import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def check(schema: str, *files: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_github_understands_them() -> None:
    check("github-workflows", *WORKFLOWS)
    check("dependabot", ROOT / ".github/dependabot.yml")


def scripts(path: Path) -> list[str]:
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


def test_ci_is_the_same_as_here() -> None:
    assert "bash .ci/run" in scripts(ROOT / ".github/workflows/ci.yml")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_it_calls_what_there_is_and_keeps_secrets_out_of_scripts(path: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    for script in scripts(path):
        assert set(re.findall(r"(?m)^make ([a-z-]+)$", script)) <= targets
        assert "secrets." not in script, "a secret in a script is in the log of a failed one"
    # A strange file name or branch is no command.
    assert not re.findall(r"run: .*\$\{\{ *github\.(?:event|head_ref)", path.read_text())


def test_a_release_builds_both_images() -> None:
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    programs = release["jobs"]["images"]["strategy"]["matrix"]["program"]
    for name in programs:
        assert (ROOT / f"deploy/images/{name}.Dockerfile").exists()
    assert sorted(programs) == ["aggregator", "loader"]


def test_no_registrys_host_is_named() -> None:
    """It is the reader's: a variable in the release, values in the chart."""
    for path in (*WORKFLOWS, ROOT / "deploy/helm/kpod-metrics/values.yaml"):
        assert not re.findall(r"\b(?:ghcr|quay|gcr|docker)\.io\b", path.read_text())

"""Each profile loads exactly its collectors, and doctor lists them all."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import aggregator
from tests.live import LOADER, cgroup2, loader

PROFILES = ("minimal", "standard", "comprehensive")


def collectors(*options: str) -> dict[str, dict[str, Any]]:
    schema = json.loads(subprocess.check_output([LOADER, "schema", *options]))
    return {c["name"]: c for c in schema["collectors"]}


def loaded_programs(pid: int) -> set[str]:
    """Names (the kernel keeps 15 bytes) of the BPF programs that a process holds."""
    ids = set()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        ids.update(re.findall(r"(?m)^prog_id:\s+(\d+)$", info.read_text()))
    shown = (
        json.loads(subprocess.check_output(["bpftool", "--json", "prog", "show", "id", i]))
        for i in ids
    )
    return {program["name"] for program in shown}


@pytest.mark.parametrize("profile", PROFILES)
def test_profile_loads_its_collectors(tmpfs: Path, profile: str) -> None:
    every = collectors("--profile", "comprehensive")
    wanted = {
        name for name, c in every.items() if PROFILES.index(c["profile"]) <= PROFILES.index(profile)
    }
    assert collectors("--profile", profile).keys() == wanted
    with loader(tmpfs, "--profile", profile) as running:
        names = loaded_programs(running.process.pid)
    logged = {found[1] for line in running.log if (found := re.search(r"collector (\w+):", line))}
    assert logged == wanted
    # Programs are called kpod_OBJECT_…; two collectors share the object "tasks", others have none,
    # and of those that read cgroups the kernel keeps "kpod_cgroup_…" only.
    objects = {name: "tasks" if name in ("interface", "filesystem") else name for name in every}
    objects |= {name: "cgroup" for name in every if name.startswith("cgroup_")}
    hooked = {n for n, c in every.items() if any(a["hooks"] for a in c["attachments"])}
    assert {name for name in names if not name.startswith("kpod_")} == set()
    assert {name.split("_")[1] for name in names} == {objects[name] for name in wanted & hooked}


def test_collectors_by_name(tmpfs: Path) -> None:
    assert collectors("--collectors", "exec").keys() == {"cgroup", "exec"}
    with loader(tmpfs, "--collectors", "exec") as running:
        names = loaded_programs(running.process.pid)
    assert {name.split("_")[1] for name in names} == {"cgroup", "exec"}


def test_doctor_lists_every_collector() -> None:
    done = subprocess.run([LOADER, "doctor", "--json"], capture_output=True, text=True, check=False)
    rows = {check["name"]: check["text"] for check in json.loads(done.stdout)["checks"]}
    for name, collector in collectors("--profile", "comprehensive").items():
        profile, _, text = rows[name].partition(": ")
        assert profile.split(", ")[0] == collector["profile"]
        assert text


def test_a_collector_with_nothing_to_read_says_so(tmpfs: Path) -> None:
    """cgroup2 without a controller: the collector is up and makes no series, for a reason."""
    controllers = (cgroup2() / "cgroup.controllers").read_text().split()
    names = ("memory", "io", "pids")
    options = ("--collectors", ",".join(f"cgroup_{name}" for name in names))
    done = subprocess.run([LOADER, "doctor", "--json"], capture_output=True, text=True, check=False)
    states = {check["name"]: check["state"] for check in json.loads(done.stdout)["checks"]}
    with loader(tmpfs, *options), aggregator(tmpfs) as served:
        up = served.series("kpod_collector_up")
        nothing = served.series("kpod_collector_has_nothing")
        info = served.series("kpod_collector_info")
    for name in names:
        wanted = name not in controllers
        labels = frozenset({("collector", f"cgroup_{name}")})
        assert (up[labels], nothing[labels]) == (1, wanted)
        assert states[f"cgroup_{name}"] == ("empty" if wanted else "ok")
        (reason,) = (dict(i)["reason"] for i in info if labels < i)
        assert ("nothing to read: no controller" in reason) == wanted
        assert ("systemd.unified_cgroup_hierarchy=1" in reason) == wanted

"""docs/adding-a-collector.md is true: its example, as printed, is a whole collector."""

import re
import shutil
import subprocess
from pathlib import Path

from tests.live import ROOT, Cgroup, Dump, Worker, loader

FORK = """
import os
def gate():
    os.write(1, b"x")
    if not os.read(0, 1): os._exit(0)
gate()
for _ in range(37):
    pid = os.fork()
    if not pid: os._exit(0)
    os.waitpid(pid, 0)
gate()
"""


def test_example_collector(tmpfs: Path, cgroups: Cgroup) -> None:
    page = (ROOT / "docs/adding-a-collector.md").read_text()
    files = re.findall(r"\*\*\d\. `([\w./]+)`\*\*.*?```c\n(.*?)```", page, re.DOTALL)
    files = [(name, code) for name, code in files if name != "loader/collectors/registry.h"]
    assert [name for name, _ in files] == [
        *("bpf/forks.h", "bpf/forks.bpf.c", "loader/collectors/forks.c")
    ]
    tree = tmpfs / "tree"
    for folder in ("bpf", "loader", "shared"):
        shutil.copytree(ROOT / folder, tree / folder)
    shutil.copy(ROOT / "Makefile", tree)
    for name, code in files:
        (tree / name).write_text(code)
    listed = tree / "loader/collectors/registry.h"
    listed.write_text(listed.read_text().replace("X(cgroup)", "X(cgroup) X(forks)"))
    assert "X(forks)" in page
    subprocess.run(["make", "-s", "-j2", "build/kpod-loader"], cwd=tree, check=True)

    with loader(tmpfs, program=tree / "build/kpod-loader") as running:
        a, b = cgroups.child("a.service"), cgroups.child("b.service")
        forker, _idle = Worker(a, FORK), Worker(b, FORK)
        before = running.fresh()
        forker.go()
        forker.stopped()
        after = running.fresh()

    def forks(dump: Dump, cgroup: Cgroup) -> int:
        return int(dump.row(cgroup.id, "forks").get("kpod_forks_total", 0))

    assert forks(after, a) - forks(before, a) == 37
    assert forks(after, b) == forks(before, b)

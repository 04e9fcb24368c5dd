"""The loader in PID and cgroup namespaces of its own, as in a pod without hostPID."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.kernel.test_filesystem import Mounter, rows
from tests.kernel.test_interface import (
    FRAME,
    PACKETS,
    RECEIVER,
    RX,
    SENDER,
    TX,
    connect,
    moved,
)
from tests.live import HOG, LOADER, Cgroup, Worker, cgroup2, loader

# The host's cgroup tree and procfs are read-only and elsewhere; in their places are our own.
WRAPPER = """#!/bin/bash
set -e
echo $$ > {own}/cgroup.procs
exec unshare --mount --pid --cgroup --fork --kill-child bash -ec '
mount --bind /proc {host}/proc
mount -o remount,bind,ro {host}/proc
mount --bind {cgroup2} {host}/cgroup
mount -o remount,bind,ro {host}/cgroup
mount -t proc proc /proc
umount {cgroup2}
mount -t cgroup2 none {cgroup2}
exec {loader} "$@" --proc {host}/proc' loader "$@"
"""


@pytest.mark.guest("interface", "filesystem", "cgroup_cpu")
def test_no_host_pid_is_needed(tmpfs: Path, tmp_path: Path, cgroups: Cgroup) -> None:
    for name in ("proc", "cgroup"):
        (tmp_path / name).mkdir()
    wrapper = tmp_path / "loader"
    wrapper.write_text(
        WRAPPER.format(
            own=cgroups.child("own").path, host=tmp_path, cgroup2=cgroup2(), loader=LOADER
        )
    )
    wrapper.chmod(0o755)
    volume = f'mount("none", "{tmp_path}/volume", "tmpfs", 0, "size=8m")'

    def containers(first: int) -> tuple[Cgroup, Cgroup, Cgroup]:
        a, b, c = (cgroups.child(f"docker-{first + i:064x}.scope") for i in range(3))
        return a, b, c

    def start(cgroups: tuple[Cgroup, Cgroup, Cgroup], network: str) -> Worker:
        hog = Worker(cgroups[0], HOG.format(seconds=0.3))
        net = Worker(cgroups[1], network)
        Mounter(cgroups[2], tmp_path, volume)
        hog.go()
        hog.stopped()
        return net

    old = containers(0)
    sender = start(old, SENDER)
    with loader(tmpfs, program=wrapper) as running:
        parent = running.process.pid
        child = int(Path(f"/proc/{parent}/task/{parent}/children").read_text())
        try:
            status = Path(f"/proc/{child}/status").read_text()
            assert f"NSpid:\t{child}\t1\n" in status, "it is process 1 of its namespace"
            assert os.stat(f"/proc/{child}/ns/cgroup") != os.stat("/proc/self/ns/cgroup")
            new = containers(3)
            receiver = start(new, RECEIVER)
            connect(sender.pid, receiver.pid)
            first = running.fresh()
            sender.go()
            sender.stopped()
            last = running.shows(
                "what was sent, and the volumes",
                lambda dump: (
                    moved(first, dump, old[1], TX)[0]
                    and moved(first, dump, new[1], RX)[0]
                    and all(rows(dump, cgroup, tmp_path) for cgroup in (old[2], new[2]))
                ),
            )
            for cgroup in (old[0], new[0]):
                said = dict(map(str.split, (cgroup.path / "cpu.stat").open()))
                row = last.row(cgroup.id, "cgroup_cpu")
                assert row["kpod_cgroup_cpu_usage_seconds_total"] == int(said["usage_usec"])
        finally:
            os.kill(child, signal.SIGTERM)
            running.process.wait(20)
    assert running.process.returncode == 0
    assert last.loader["kpod_loader_sees_all_tasks"] == 0
    assert any("run with hostPID: true" in line for line in running.log)
    assert last.slot(new[0].id), "the kernel told of it"
    assert moved(first, last, old[1], TX) == [PACKETS, PACKETS * FRAME]
    assert moved(first, last, new[1], RX) == [PACKETS, PACKETS * FRAME]
    for cgroup in (old[2], new[2]):
        sizes = {name: row["size_bytes"] for name, row in rows(last, cgroup, tmp_path).items()}
        assert sizes == {"/volume": 8 << 20}
    lost = {**last.node("interface_reads"), **last.node("filesystem_reads")}
    del lost["kpod_filesystem_left_out_total{unasked}"]  # as when a busy machine is late
    assert set(lost.values()) == {0}, lost


# A container of its own on a pure v2 node, to which nobody gave the node's cgroups.
PRIVATE = """
echo $$ > {own}/cgroup.procs
exec unshare --mount --cgroup bash -ec '
umount {cgroup2} || mount --make-rprivate /
mount -t cgroup2 none {cgroup2}
exec "$@"' sh "$@"
"""


@pytest.mark.parametrize("command", ["run", "doctor"])
def test_a_container_without_the_nodes_cgroups_is_refused(
    tmpfs: Path, cgroups: Cgroup, command: str
) -> None:
    """Else all collectors are up, and every container that is there already counts as the host."""
    script = PRIVATE.format(own=cgroups.child("own").path, cgroup2=cgroup2())
    options = ("--segment", str(tmpfs / "segment")) if command == "run" else ("--json",)
    done = subprocess.run(
        ["bash", "-c", script, "sh", LOADER, command, *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = done.stderr if command == "run" else done.stdout
    assert done.returncode == 1
    lines = [line for line in said.splitlines() if "cgroup2" in line]
    assert len(lines) == 1
    assert "(hostPath)" in lines[0]

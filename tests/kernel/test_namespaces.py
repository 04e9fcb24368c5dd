"""The loader in PID and cgroup namespaces of its own, as in a pod without hostPID."""

import json
import os
import signal
import subprocess
import time
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
    named,
)
from tests.live import HOG, LOADER, Cgroup, Dump, Worker, cgroup2, exact, loader, mounted

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
            first = running.shows(
                "the interfaces", lambda dump: named(dump, old[1]) and named(dump, new[1])
            )
            sender.go()
            sender.stopped()
            last = running.shows(
                "what was sent, and the volumes",
                lambda dump: (
                    moved(first, dump, old[1], TX)[0] >= PACKETS
                    and moved(first, dump, new[1], RX)[0] >= PACKETS
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


def read_errors(dump: Dump) -> int:
    return dump.node("interface_reads")["kpod_interface_read_errors_total"]


def both_shown(dump: Dump) -> bool:
    return len({row["slot"] for row in dump.keyed if row["table"] == "interface"}) == 2


@pytest.mark.guest("cpu", "interface", "filesystem")
@pytest.mark.parametrize("ahead", [True, False])
def test_clocks_of_a_time_namespace_change_nothing(
    tmpfs: Path, tmp_path: Path, cgroups: Cgroup, ahead: bool
) -> None:
    """The loader joins that of the node. Else, ahead, interfaces and file systems are missing, as
    the start times in /proc are others than the kernel's; behind, births are in the future.
    """
    if not Path("/proc/self/ns/time").exists():
        pytest.skip("the kernel has no time namespaces (5.6)")
    offset = str(100_000 if ahead else -int(time.monotonic() / 2))  # none is before the boot
    inside = ("unshare", "--time", "--monotonic", offset, "--boottime", offset)
    options = ("--collectors", "cpu,interface,filesystem")
    receiver, mounter = (cgroups.child(f"docker-{i:064x}.scope") for i in range(2))
    with loader(tmpfs, *options, prefix=inside) as running:
        worker = Worker(receiver, RECEIVER)
        Mounter(mounter, tmp_path, f'mount("none", "{tmp_path}/volume", "tmpfs", 0, "size=8m")')
        sender = Worker(cgroups.child(f"docker-{2:064x}.scope"), SENDER)
        connect(sender.pid, worker.pid)
        first = running.shows("the interface", lambda dump: named(dump, receiver))
        sender.go()
        sender.stopped()
        last = running.shows(
            "what was sent, and the volume",
            lambda dump: (
                moved(first, dump, receiver, RX)[0] >= PACKETS and rows(dump, mounter, tmp_path)
            ),
        )
        exact(running, cgroups.child("born.service"))
    assert moved(first, last, receiver, RX) == [PACKETS, PACKETS * FRAME]
    assert set(rows(last, mounter, tmp_path)) == {"/volume"}


def test_a_time_namespace_that_cannot_be_left_is_refused() -> None:
    inside = (
        *("unshare", "--time", "--boottime", "5000"),
        *("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", str(LOADER)),
    )
    if not Path("/proc/self/ns/time").exists():
        pytest.skip("the kernel has no time namespaces (5.6)")
    done = subprocess.run([*inside, "run"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "in a time namespace whose clocks are not the kernel's" in done.stderr
    done = subprocess.run(
        [*inside, "doctor", "--json"], capture_output=True, text=True, check=False
    )
    (clocks,) = (c for c in json.loads(done.stdout)["checks"] if c["name"] == "clocks")
    assert (done.returncode, clocks["state"]) == (1, "no")
    assert "node's time namespace" in clocks["do"]


# A procfs of its own, at `proc`.
PROCFS = 'mount -t proc -o "$HIDEPID" proc {proc}'
NO_PTRACE = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")


@pytest.mark.guest("interface", "filesystem")
def test_processes_that_procfs_hides(
    tmpfs: Path, tmp_path: Path, cgroups: Cgroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With CAP_SYS_PTRACE hidepid=4 hides nothing; without it the collector is down and says why;
    and what is hidden from a loader at work is counted, again and again.
    """
    (tmp_path / "proc").mkdir()
    options = ("--collectors", "interface,filesystem", "--proc", f"{tmp_path}/proc")
    script = PROCFS.format(proc=tmp_path / "proc")
    receiver, sender = (
        Worker(cgroups.child(f"docker-{i:064x}.scope"), code)
        for i, code in enumerate((RECEIVER, SENDER))
    )
    connect(sender.pid, receiver.pid)

    monkeypatch.setenv("HIDEPID", "hidepid=4")
    with loader(tmpfs, *options, prefix=mounted(script)) as running:
        assert read_errors(running.shows("both interfaces", both_shown)) == 0
    with loader(tmpfs, *options, prefix=(*mounted(script), *NO_PTRACE)) as running:
        pass
    for name in ("interface", "filesystem"):
        (down,) = (line for line in running.log if f"collector {name}: down" in line)
        assert "hidepid" in down
        assert "CAP_SYS_PTRACE" in down

    monkeypatch.setenv("HIDEPID", "hidepid=0")
    with loader(tmpfs, *options, prefix=(*mounted(script), *NO_PTRACE)) as running:
        running.shows("both interfaces", both_shown)
        inside = ("nsenter", "--mount", "--target", str(running.process.pid))
        remount = ("mount", "-o", "remount,hidepid=4", f"{tmp_path}/proc")
        subprocess.run([*inside, *remount], check=True)
        errors = read_errors(running.fresh())
        running.shows("more errors in each pass", lambda dump: read_errors(dump) > errors + 2)

"""A guest: one of Debian's kernels in QEMU, on this machine's files, that runs one command.

The guest sees the host's root and the worktree through virtiofs, read-only, so that it runs the
same programs and tests. It has two CPUs, a pure cgroup v2 hierarchy, and two disks: /dev/vda, which
takes its results home, and /dev/vdb, empty, for tests.

Its CPUs take turns in one thread: with a thread for each, QEMU 7.2 now and then runs a breakpoint
that the other CPU has patched away already, and the kernel dies of it. They have all that QEMU
emulates but page tables of five levels, which take longer to walk, and mwait, which
returns at once when there are two.
"""

import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.live import ROOT, wait_for
from tests.vm.kernels import UnavailableError, kernel, release, run

VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
DISK = 512 << 20  # bytes of /dev/vdb

# From tsc on for speed: QEMU's clock needs no check, and code that is mapped elsewhere each time
# would be translated each time.
BOOT = "console=ttyS0 quiet panic=-1 tsc=reliable clocksource=tsc norandmaps mitigations=off "

# Niced, as every open of a file in the guest waits for it.
SHARE = r"""
mount --bind / "$1" && mount --bind "$2" "$1/$2" || exit
mount -o remount,bind,ro "$1" && mount -o remount,bind,ro "$1/$2" || exit
exec nice -n -15 "$3" --socket-path="$4" --rlimit-nofile=0 \
	-o "source=$1,cache=always,sandbox=chroot"
"""


def missing() -> str:
    """Why no guest can run here, or an empty string."""
    if os.getuid():
        return "needs root"
    if platform.machine() != "x86_64":
        return "the guests are x86_64"
    for program in ("qemu-system-x86_64", "busybox", VIRTIOFSD, "modprobe", "xz"):
        if not shutil.which(program):
            return f"{program} is not installed (make setup-vm)"
    return ""


def initramfs(directory: Path, command: str, work: Path) -> Path:
    """With what it takes to mount the host's files."""
    top = work / "initramfs"
    for name in ("bin", "modules", "root", "tree"):
        (top / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox
    shutil.copy(busybox, top / "bin/busybox")
    shutil.copy(Path(__file__).parent / "init", top / "init")
    (top / "command").write_text(command)
    order = []
    for module in ("virtio_pci", "virtiofs"):
        arguments = ("-d", str(directory), "-S", release(directory), "--show-depends", module)
        for line in run("modprobe", *arguments).splitlines():
            kind, path, *_ = line.split()
            if kind == "insmod" and Path(path).name not in order:
                shutil.copy(path, top / "modules")
                order.append(Path(path).name)
    (top / "modules/order").write_text("\n".join(order))
    image = work / "initramfs.cpio"
    run("sh", "-c", f"find . | busybox cpio -o -H newc >{image}", cwd=top)
    return image


@contextmanager
def share(work: Path) -> Iterator[Path]:
    """A socket that serves the host's files: a mount namespace of its own has them read-only."""
    socket, mount = work / "virtiofs", work / "root"
    mount.mkdir()
    command = ("unshare", "--mount", "sh", "-c", SHARE, "share")
    with (work / "virtiofsd.log").open("w") as log:
        server = subprocess.Popen(
            [*command, str(mount), str(ROOT), VIRTIOFSD, str(socket)], stdout=log, stderr=log
        )
    try:
        wait_for("virtiofsd", lambda: socket.exists() or server.poll() is not None)
        if server.poll() is not None:
            raise UnavailableError(f"virtiofsd: {(work / 'virtiofsd.log').read_text()}")
        yield socket
    finally:
        server.kill()
        server.wait()


def run_guest(
    name: str, command: str, results: Path, timeout: float, console: IO[bytes] | None = None
) -> int:
    """Runs a shell command on a kernel, in the worktree, and returns its exit status. Its output
    goes to `console` or to ours, files that it leaves in $RESULTS to the directory `results`.
    Raises UnavailableError, or subprocess.TimeoutExpired."""
    if why := missing():
        raise UnavailableError(why)
    directory = kernel(name)
    environment = f"KPOD_GUEST={name} KPOD_TREE={ROOT} KPOD_MODULES={directory}"
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm", prefix="kpod-test-") as made,
        share(work := Path(made)) as socket,
    ):
        for disk, size in (("vda", 64 << 20), ("vdb", DISK)):
            with (work / disk).open("wb") as file:
                file.truncate(size)
        subprocess.run(
            [
                *("qemu-system-x86_64", "-accel", "tcg,thread=single", "-smp", "2"),
                *("-cpu", "max,-la57,-monitor", "-m", "1536", "-nodefaults"),
                *("-machine", "q35,memory-backend=memory"),
                *("-object", "memory-backend-memfd,id=memory,size=1536M,share=on"),
                *("-kernel", str(directory / "vmlinuz"), "-append", BOOT + environment),
                *("-initrd", str(initramfs(directory, command, work))),
                *("-chardev", f"socket,id=root,path={socket}"),
                *("-device", "vhost-user-fs-pci,chardev=root,tag=root"),
                *("-drive", f"file={work}/vda,format=raw,if=virtio"),
                *("-drive", f"file={work}/vdb,format=raw,if=virtio,discard=unmap"),
                *("-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            timeout=timeout,
            check=True,
        )
        with tarfile.open(work / "vda") as tar:
            tar.extractall(results)
    return int((results / "status").read_text())

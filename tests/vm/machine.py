"""A guest: one of Debian's kernels in QEMU, on this machine's files, that runs one command.

The guest sees the host's root and the worktree through virtiofs, read-only, so that it runs the
same programs and tests. A guest of another architecture sees Debian's root of it instead (`make
cross`), with the worktree at the same place, and in that as build/ what was built for it. A guest
has two CPUs, a pure cgroup v2 hierarchy, and two disks: /dev/vda, which takes its results home, and
/dev/vdb, empty, for tests.

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
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.live import ROOT, wait_for
from tests.vm.kernels import UnavailableError, architecture, kernel, release, run, variant

# Of Debian 13, and of Debian 12, where it is QEMU's own.
VIRTIOFSD = next(
    (path for path in ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd") if Path(path).exists()),
    "virtiofsd",
)
DISK = 512 << 20  # bytes of /dev/vdb
WITH_NVME = bool(os.environ.get("KPOD_NVME"))
NVME = 64 << 20  # of NVMe disks that a test may take away and bring back: see nvme()
MOUNT_POINTS = ("dev", "proc", "root", "run", "sys", "tmp")  # packages do not bring them all

# norandmaps: code that is mapped elsewhere each time would be translated each time.
BOOT = "quiet panic=-1 norandmaps mitigations=off "
MEMORY = 1536  # MiB


@dataclass(frozen=True)
class Machine:
    """What QEMU emulates, and what the guest's kernel is told of it."""

    program: str
    options: tuple[str, ...]
    boot: str


MACHINES = {
    "amd64": Machine(
        "qemu-system-x86_64",
        ("-machine", "q35,memory-backend=memory", "-cpu", "max,-la57,-monitor"),
        # For speed: QEMU's clock needs no check.
        "console=ttyS0 tsc=reliable clocksource=tsc ",
    ),
    "arm64": Machine(
        "qemu-system-aarch64",
        # Pointer authentication by QEMU's own algorithm: the architecture's takes half of the time.
        ("-machine", "virt,memory-backend=memory", "-cpu", "max,pauth-impdef=on"),
        "console=ttyAMA0 ",
    ),
}

# Niced, as every open of a file in the guest waits for it.
SHARE = r"""
top=$1 tree=$2 virtiofsd=$3 socket=$4 root=$5 build=$6
mount --bind "$root" "$top" && mount --bind "$tree" "$top/$tree" || exit
mount -o remount,bind,ro "$top" && mount -o remount,bind,ro "$top/$tree" || exit
[ "$build" = build ] || mount --bind -o ro "$tree/$build" "$top/$tree/build" || exit
exec nice -n -15 "$virtiofsd" --socket-path="$socket" --rlimit-nofile=0 \
	-o "source=$top,cache=always,sandbox=chroot"
"""


def missing(name: str) -> str:
    """Why this guest cannot run here, or an empty string."""
    if os.getuid():
        return "needs root"
    if platform.machine() != "x86_64":
        return "the guests are x86_64"
    machine = MACHINES[architecture(name)].program
    if foreign(name) and not (root(name) / "ready").exists():
        return f"there is no root of {architecture(name)} (make cross)"
    for program in (machine, "busybox", VIRTIOFSD, "modprobe", "xz"):
        if not shutil.which(program):
            return f"{program} is not installed (make setup-vm)"
    return ""


def foreign(name: str) -> bool:
    return architecture(name) != "amd64"


def root(name: str) -> Path:
    """What the guest has for its root directory."""
    return ROOT / ".cache/root" / architecture(name) if foreign(name) else Path("/")


def build(name: str) -> Path:
    """What the guest has for build/."""
    return ROOT / "build" / (architecture(name) if foreign(name) else "")


def initramfs(name: str, directory: Path, command: str, work: Path) -> Path:
    """With what it takes to mount the host's files."""
    top = work / "initramfs"
    for folder in ("bin", "modules", "root", "tree"):
        (top / folder).mkdir(parents=True)
    busybox = shutil.which("busybox", path=f"{root(name)}/bin")
    assert busybox, f"no busybox in {root(name)}"
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
def share(name: str, work: Path) -> Iterator[Path]:
    """A socket that serves the host's files: a mount namespace of its own has them read-only."""
    socket, mount = work / "virtiofs", work / "root"
    mount.mkdir()
    if foreign(name):
        for directory in (str(ROOT), *MOUNT_POINTS):
            (root(name) / directory.lstrip("/")).mkdir(parents=True, exist_ok=True)
    places = (str(root(name)), str(build(name).relative_to(ROOT)))
    command = ("unshare", "--mount", "sh", "-c", SHARE, "share")
    with (work / "virtiofsd.log").open("w") as log:
        server = subprocess.Popen(
            [*command, str(mount), str(ROOT), VIRTIOFSD, str(socket), *places],
            stdout=log,
            stderr=log,
        )
    try:
        wait_for("virtiofsd", lambda: socket.exists() or server.poll() is not None)
        if server.poll() is not None:
            raise UnavailableError(f"virtiofsd: {(work / 'virtiofsd.log').read_text()}")
        yield socket
    finally:
        server.kill()
        server.wait()


def nvme(work: Path) -> Iterator[str]:
    """Disks by serial number: A and B, and M, which is shared and so has native multipath. The
    guest has no driver for them until a test loads it. Only where they are asked for: to take
    them away and bring them back takes minutes of a guest that is emulated."""
    if not WITH_NVME:
        return
    for serial in "AB":
        yield from ("-drive", f"file={work}/{serial},format=raw,if=none,id={serial}")
        yield from ("-device", f"nvme,serial={serial},drive={serial}")
    yield from ("-drive", f"file={work}/M,format=raw,if=none,id=M")
    yield from ("-device", "nvme-subsys,id=shared", "-device", "nvme,serial=M,subsys=shared")
    yield from ("-device", "nvme-ns,drive=M,nsid=1,shared=on")


def run_guest(
    name: str, command: str, results: Path, timeout: float, console: IO[bytes] | None = None
) -> int:
    """Runs a shell command on a kernel, in the worktree, and returns its exit status. Its output
    goes to `console` or to ours, files that it leaves in $RESULTS to the directory `results`.
    Raises UnavailableError, or subprocess.TimeoutExpired."""
    if why := missing(name):
        raise UnavailableError(why)
    directory, machine = kernel(name), MACHINES[architecture(name)]
    environment = f"KPOD_GUEST={name} KPOD_TREE={ROOT} KPOD_MODULES={directory}"
    environment += " KPOD_NVME=1" if WITH_NVME else ""
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm", prefix="kpod-test-") as made,
        share(name, work := Path(made)) as socket,
    ):
        for disk, size in (
            ("vda", 64 << 20),
            ("vdb", DISK),
            *((d, NVME) for d in "ABM" if WITH_NVME),
        ):
            with (work / disk).open("wb") as file:
                file.truncate(size)
        subprocess.run(
            [
                *(machine.program, *machine.options, "-accel", "tcg,thread=single", "-smp", "2"),
                *("-m", str(MEMORY), "-nodefaults", "-object"),
                f"memory-backend-memfd,id=memory,size={MEMORY}M,share=on",
                *("-kernel", str(directory / "vmlinuz")),
                *("-append", machine.boot + BOOT + variant(name) + environment),
                *("-initrd", str(initramfs(name, directory, command, work))),
                *("-chardev", f"socket,id=root,path={socket}"),
                *("-device", "vhost-user-fs-pci,chardev=root,tag=root"),
                *("-drive", f"file={work}/vda,format=raw,if=virtio"),
                *("-drive", f"file={work}/vdb,format=raw,if=virtio,discard=unmap"),
                *nvme(work),
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

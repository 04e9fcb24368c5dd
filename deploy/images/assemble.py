"""The root file system of the aggregator's image: what it needs, copied from a build stage.

    python3 assemble.py VENV ROOTFS

An interpreter, its standard library, the packages of VENV, every shared library that these are
linked with, and certificates. All Python is byte-compiled; of what is not ours, only that is kept.
"""

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

# Of the standard library: what no program needs that neither builds nor tests nor draws.
NOT_STANDARD = {
    *("test", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "distutils", "venv"),
    *("pydoc_data", "unittest", "__pycache__", "dist-packages", "sitecustomize.py"),
}
# Of packages: a client of Kubernetes for asyncio beside the one that is used.
NOT_PACKAGES = ("kubernetes/aio", "_cffi_backend.pyi")
OURS = "aggregator"


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def libraries(root: Path) -> set[Path]:
    """That the programs below root are linked with, at the paths where they are looked for."""
    found = set()
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink() and is_elf(path):
            said = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
            assert "not found" not in said, f"{path}: {said}"
            found |= {Path(name) for name in re.findall(r"(/\S+) \(0x", said)}
    return {path for path in found if not str(path).startswith(str(root))}


def copy_file(source: Path, rootfs: Path) -> None:
    to = rootfs / source.relative_to("/")
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source.resolve(), to)


def byte_compile(directory: Path, *, keep_source: bool) -> None:
    """The interpreter never looks at the source again: its time differs from build to build."""
    compileall.compile_dir(
        directory,
        quiet=1,
        legacy=not keep_source,
        workers=os.cpu_count() or 1,
        stripdir=str(directory),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    if not keep_source:
        for path in directory.rglob("*.py"):
            path.unlink()


def main() -> None:
    venv, rootfs = Path(sys.argv[1]), Path(sys.argv[2])
    standard = Path(sysconfig.get_path("stdlib"))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = rootfs / f"usr/local/lib/{version}/dist-packages"
    copied = rootfs / standard.relative_to("/")

    copy_file(Path(sys.executable).resolve(), rootfs)
    (rootfs / "usr/bin/python3").symlink_to(version)
    ignored = shutil.ignore_patterns(*NOT_STANDARD, "config-*")
    shutil.copytree(standard, copied, ignore=ignored, symlinks=True)
    ignored = shutil.ignore_patterns("__pycache__", "tests", "RECORD", "direct_url.json", "*.[ch]")
    (site,) = venv.glob("lib/python3*/site-packages")
    shutil.copytree(site, packages, ignore=ignored)
    for name in NOT_PACKAGES:
        path = packages / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    ours = shutil.move(packages / OURS, rootfs / OURS)
    for directory in (copied, packages):
        byte_compile(directory, keep_source=False)
    shutil.move(ours, packages / OURS)
    byte_compile(packages / OURS, keep_source=True)

    for library in libraries(rootfs):
        copy_file(library, rootfs)
    for path in sorted(rootfs.rglob("*")):
        if path.is_file() and not path.is_symlink() and is_elf(path):
            subprocess.run(["strip", "--strip-unneeded", path], check=True)

    etc = rootfs / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0::/:/\nnobody:x:65534:65534::/nonexistent:/\n")
    (etc / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (etc / "nsswitch.conf").write_text("hosts: files dns\n")
    copy_file(Path("/etc/ssl/certs/ca-certificates.crt"), rootfs)
    (rootfs / "tmp").mkdir(mode=0o1777)
    for path in (rootfs, *rootfs.rglob("*")):
        os.utime(path, (0, 0), follow_symlinks=False)


if __name__ == "__main__":
    main()

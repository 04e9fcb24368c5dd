"""Debian's kernels, unpacked below .cache/kernels: NAME/vmlinuz and NAME/lib/modules.

A kernel's name is its version, followed by its architecture if that is not amd64: 6.1-arm64. Or it
is a variant of that version: the same kernel, told something else at its boot.

The apt state is our own; where packages come from is the machine's.
"""

import re
import shutil
import subprocess
import threading
from collections import defaultdict
from pathlib import Path

from tests.live import ROOT

CACHE = ROOT / ".cache/kernels"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITES = {
    "5.10": "bullseye-security",
    "6.1": "bookworm",
    "6.1-arm64": "bookworm",
    "6.12": "trixie",
    "6.12-arm64": "trixie",
    "6.12-full": "trixie",
    "7.2": "sid",
    "7.2-arm64": "sid",
}
VARIANTS = {"full": "preempt=full "}  # and the command line that makes it one


def variant(name: str) -> str:
    """Its command line, or an empty string."""
    return VARIANTS.get(name.partition("-")[2], "")


def architecture(name: str) -> str:
    return "amd64" if variant(name) else name.partition("-")[2] or "amd64"


def version(name: str) -> str:
    return name.partition("-")[0]


fetching: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)  # by kernel


class UnavailableError(Exception):
    """Why there is no guest to be had here."""


def run(*command: str, cwd: Path | None = None) -> str:
    try:
        return subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=cwd, timeout=600
        ).stdout
    except FileNotFoundError as error:
        raise UnavailableError(f"{command[0]} is not installed (make setup-vm)") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"exit status {error.returncode}"]
        raise UnavailableError(f"{command[0]}: {said[-1]}") from error


def mirror(suite: str) -> str:
    """The machine's own mirror, of security updates if it is their suite."""
    said = run("apt-get", "indextargets", "--format", "$(SITE) $(LABEL)", "Created-By: Packages")
    wanted = "Debian-Security" if suite.endswith("-security") else "Debian"
    for line in said.splitlines():
        site, label = line.split(maxsplit=1)
        if label == wanted:
            return site
    raise UnavailableError(f"apt has no source that could have {suite}")


def dependencies(apt: list[str], package: str, pattern: str) -> list[str]:
    said = run("apt-cache", *apt, "depends", package)
    return re.findall(rf"Depends: ({pattern}.*)", said)


def fetch(name: str, directory: Path) -> None:
    suite, downloads = SUITES[name], directory / "apt"
    for path in ("state/lists/partial", "cache/archives/partial"):
        (downloads / path).mkdir(parents=True)
    (downloads / "status").touch()
    source = f"deb [signed-by={KEYRING}] {mirror(suite)} {suite} main\n"
    (downloads / "sources.list").write_text(source)
    settings = {
        "APT::Architecture": architecture(name),
        "APT::Architectures": architecture(name),
        "Acquire::Retries": "3",
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
        "Dir::Cache": f"{downloads}/cache",
        "Dir::Etc::SourceList": f"{downloads}/sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": f"{downloads}/state",
        "Dir::State::status": f"{downloads}/status",
    }
    apt = [f"-o{key}={value}" for key, value in settings.items()]
    run("apt-get", *apt, "-qq", "update")
    images = dependencies(
        apt, f"linux-image-cloud-{architecture(name)}", f"linux-image-{re.escape(version(name))}[.]"
    )
    if len(images) != 1:
        raise UnavailableError(f"{suite} has no kernel {name} any more")
    # In newer suites the image is an empty package.
    parts = dependencies(
        apt, images[0], f"linux-(?:base|binary|modules)-{re.escape(version(name))}[.]"
    )
    run("apt-get", *apt, "-qq", "download", *images, *parts, cwd=downloads)
    unpacked = downloads / "unpacked"
    for package in downloads.glob("*.deb"):
        run("dpkg-deb", "-x", str(package), str(unpacked))

    (kernel,) = unpacked.rglob("vmlinuz*")
    kernel.rename(directory / "vmlinuz")
    (modules,) = (path for path in unpacked.rglob("lib/modules/*") if path.is_dir())
    (directory / "lib/modules").mkdir(parents=True)
    modules.rename(directory / "lib/modules" / modules.name)
    if packed := [str(path) for path in directory.rglob("*.ko.xz")]:
        run("xz", "--decompress", "--", *packed)
    run("depmod", "--basedir", str(directory), modules.name)
    shutil.rmtree(downloads)


def kernel(name: str) -> Path:
    """The directory of a kernel, fetched if it is not there yet."""
    if variant(name):
        return kernel(version(name))
    directory = CACHE / name
    with fetching[name]:  # it and its variants may be asked for at once
        if not (directory / "vmlinuz").exists():
            unfinished = CACHE / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            fetch(name, unfinished)
            shutil.rmtree(directory, ignore_errors=True)
            unfinished.rename(directory)
    return directory


def release(directory: Path) -> str:
    (modules,) = (directory / "lib/modules").iterdir()
    return modules.name

import functools
import signal
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests import live
from tests.all import UNSTEADY
from tests.live import GUEST, LOADER, Cgroup, cgroup_tree, collectors, missing

LAZY = "lazy_itable_init=0,lazy_journal_init=0"  # or the kernel would write of its own accord

# nohup and a shell's background have them ignored, which programs inherit: what a closed terminal
# and Ctrl-C do could not be tested.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

collect_ignore = [] if GUEST else ["vm/guest"]


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """A guest does not import what it would not run: it is slow, and some needs the host's code."""
    if not GUEST or collection_path.suffix != ".py":
        return None
    return None if "mark.guest" in collection_path.read_text() else True


@functools.cache
def of_this_kernel() -> dict[str, tuple[bool, str]]:
    command = [str(LOADER), "doctor", "--json", "--profile", "comprehensive"]
    return collectors(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


# Not in guests: it has parts in the host's machine code.
if not GUEST:
    from hypothesis import settings

    # A loaded machine is no failure.
    settings.register_profile("kpod", deadline=None)
    settings.load_profile("kpod")


@pytest.fixture(autouse=True)
def _needs_kernel(request: pytest.FixtureRequest) -> None:
    """Tests in kernel/, guest/, e2e/ and faults/ skip, and say why, where no loader can run."""
    if request.path.parent.name in ("kernel", "guest", "e2e", "faults") and (reason := missing()):
        pytest.skip(reason)
    # What a guest's kernel may lack is for tests/vm/test_vm.py to know.
    marker = request.node.get_closest_marker("guest")
    live.needed = marker.args if marker else ()
    for name in live.needed if GUEST else ():
        up, text = of_this_kernel()[name]
        if not up:
            pytest.skip(f"collector {name}: {text}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test said that failed and is run again (--reruns) is kept with its last report."""
    report = yield
    if report.failed and getattr(item, "execution_count", 1) <= (
        item.config.getoption("reruns", 0) or 0
    ):
        item.user_properties.append((UNSTEADY, f"{item.nodeid}\n{report.longreprtext}"))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    said = [
        str(text)
        for report in terminalreporter.getreports("passed")
        for name, text in report.user_properties
        if name == UNSTEADY
    ]
    if not said:
        return
    terminalreporter.section("tests that failed, and passed when they were run again")
    for text in said:
        terminalreporter.line(text)
    for text in said:
        terminalreporter.line(f"{UNSTEADY} {text.splitlines()[0]}")


@pytest.fixture
def tmpfs() -> Iterator[Path]:
    """A directory on tmpfs that others may enter, as the segment's is."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="kpod-test-") as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


@pytest.fixture
def cgroups() -> Iterator[Cgroup]:
    with cgroup_tree() as top:
        yield top


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory on a disk: in a guest on a file system of its own, /dev/vdb."""
    with tempfile.TemporaryDirectory(prefix="kpod-test-", dir="/tmp" if GUEST else None) as made:
        path = Path(made)
        if not GUEST:
            yield path
            return
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", LAZY, "/dev/vdb"], check=True)
        subprocess.run(["mount", "/dev/vdb", path], check=True)
        try:
            yield path
        finally:
            subprocess.run(["umount", path], check=True)

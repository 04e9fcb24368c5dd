"""The tests that are marked for it, on every kernel; and which programs and collectors it has."""

import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.all import UNSTEADY
from tests.vm import record
from tests.vm.kernels import SUITES, UnavailableError, variant
from tests.vm.machine import foreign, run_guest

AT_ONCE = os.cpu_count() or 1  # a guest keeps one of them busy; slower ones miss what they wait for

COMMAND = """
build/kpod-loader-test verify >$RESULTS/verified
.venv/bin/python -m pytest -p no:cacheprovider -p pytest_rerunfailures --reruns {reruns} -m guest \
    -ra --durations=0 -o junit_family=xunit1 --junitxml=$RESULTS/junit.xml {tests}
"""
# The last of the tests locks the kernel down.
TESTS = "tests/kernel tests/vm/guest/test_{machine,controllers,pod,walk,lockdown}.py"
# On another architecture, where programs meet the machine: what else there is reads the same files
# of the same kernel, and was seen to pass, but takes as long again.
FOREIGN = (
    "tests/kernel/test_{cpu,exec,memory,slots,syscall,tcp,udp}.py tests/vm/guest/test_machine.py"
)
# What a variant of a kernel is for.
PREEMPTION = "tests/kernel/test_preemption.py"


def wanted_tests(name: str) -> str:
    return PREEMPTION if variant(name) else FOREIGN if foreign(name) else TESTS


def run(name: str, reruns: int) -> Path:
    results = record.RESULTS / name
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    with (results / "console").open("wb") as console:
        command = COMMAND.format(reruns=reruns, tests=wanted_tests(name))
        run_guest(name, command, results, timeout=1800, console=console)
    return results


@pytest.fixture(scope="module")
def guests(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Path]]]:
    """The results of the kernels that are asked for, as they come."""
    wanted = [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path
    ]
    pool = ThreadPoolExecutor(AT_ONCE)
    # The newest take longest: they have all collectors.
    reruns = request.config.getoption("reruns") or 0
    yield {name: pool.submit(run, name, reruns) for name in reversed(wanted)}
    pool.shutdown(cancel_futures=True)


def properties(cases: list[ElementTree.Element], name: str) -> list[str]:
    """What tests have said by record_property(NAME, …)."""
    return [
        item.get("value", "")
        for case in cases
        for item in case.iter("property")
        if item.get("name") == name
    ]


def lacking(cases: list[ElementTree.Element]) -> list[tuple[str, str]]:
    """What tests have found lacking in collectors."""
    found = (text.partition(": ") for text in properties(cases, "lacks"))
    return [(collector, lack) for collector, _, lack in found]


@pytest.mark.flaky(reruns=0)  # the guest has run again what failed
@pytest.mark.parametrize("name", SUITES)
def test_kernel(
    name: str,
    guests: dict[str, Future[Path]],
    subtests: pytest.Subtests,
    record_property: Callable[[str, str], None],
) -> None:
    try:
        results = guests[name].result()
    except UnavailableError as error:
        pytest.skip(str(error))
    except Exception as error:
        said = (record.RESULTS / name / "console").read_text(errors="replace")
        pytest.fail(f"the guest died: {error}\n{said[-4000:]}")

    cases = list(ElementTree.parse(results / "junit.xml").iter("testcase"))
    assert cases, "no test ran"
    verified = (results / "verified").read_text().splitlines()
    assert verified, "kpod-loader-test verify said nothing: see the console"
    for text in dict.fromkeys(properties(cases, UNSTEADY)):  # each attempt is a case
        record_property(UNSTEADY, f"{name}: {text}")
    found = record.summary(verified, lacking(cases))
    (results / record.FOUND).write_text(json.dumps(found))
    with subtests.test("as recorded"):
        accepted = record.read().get(name, {"collectors": {}, "programs": {}})
        changes = record.changes(accepted, found)
        assert not changes, "\n".join(changes)
    for case in cases:
        with subtests.test(f"{case.get('file')}::{case.get('name')}"):
            for outcome in case:
                if outcome.tag == "skipped":
                    pytest.skip(outcome.get("message") or "")
                if outcome.tag in ("failure", "error"):
                    pytest.fail(outcome.text or "")

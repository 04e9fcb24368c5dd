"""The tests that are marked for it, run on every kernel; and which collectors each kernel has."""

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.live import ROOT, collectors
from tests.vm.kernels import SUITES, UnavailableError
from tests.vm.machine import run_guest

RESULTS = ROOT / "build/vm"
AT_ONCE = 2  # a guest keeps one of our CPUs busy

COMMAND = """
build/kpod-loader doctor --profile comprehensive >$RESULTS/doctor
.venv/bin/python -m pytest -p no:cacheprovider -m guest -ra --durations=0 -o junit_family=xunit1 \
    --junitxml=$RESULTS/junit.xml tests/kernel tests/vm/guest
"""

# What a kernel lacks, by what the reason it gives must name; all else must be up.
DOWN = {
    "5.10": {
        "cpu": "cpu_tasks",  # task storage in tracing programs: 5.11
        "memory": "kpod_memory_flush",  # bpf_get_current_task_btf(): 5.11
        "tcp": "kpod_tcp_state",  # socket storage in tracing programs: 5.11
        "tcpdrop": "kpod_tcpdrop_free",  # kfree_skb has a reason: 5.17
        "softirqs": "kpod_softirqs_exit",  # as memory
        "hardirqs": "kpod_hardirqs_exit",
        "syscall": "syscall_tasks",
    },
}


def run(name: str) -> Path:
    results = RESULTS / name
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    with (results / "console").open("wb") as console:
        run_guest(name, COMMAND, results, timeout=1800, console=console)
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
    yield {name: pool.submit(run, name) for name in wanted}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", SUITES)
def test_kernel(name: str, guests: dict[str, Future[Path]], subtests: pytest.Subtests) -> None:
    try:
        results = guests[name].result()
    except UnavailableError as error:
        pytest.skip(str(error))
    except Exception as error:
        said = (RESULTS / name / "console").read_text(errors="replace")
        pytest.fail(f"the guest died: {error}\n{said[-4000:]}")

    found = collectors((results / "doctor").read_text())
    (results / "collectors.json").write_text(json.dumps(found, indent=1))
    with subtests.test("collectors"):
        down = {name: text for name, (up, text) in found.items() if not up}
        assert set(down) == set(DOWN.get(name, {})), down
        for collector, reason in DOWN.get(name, {}).items():
            assert re.search(reason, down[collector])
    cases = list(ElementTree.parse(results / "junit.xml").iter("testcase"))
    assert cases, "no test ran"
    for case in cases:
        with subtests.test(f"{case.get('file')}::{case.get('name')}"):
            for outcome in case:
                if outcome.tag == "skipped":
                    pytest.skip(outcome.get("message") or "")
                if outcome.tag in ("failure", "error"):
                    pytest.fail(outcome.text or "")

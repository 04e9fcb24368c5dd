"""The table at the end of `make test`: what counts as passed, failed and skipped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.all import Result, count
from tests.live import ROOT

SKIP = "SKIPPED [1] tests/kernel/test_a.py:10: needs root"
FAIL = "FAILED tests/kernel/test_b.py::test_c - assert 1 == 2"
SUBFAIL = "SUBFAILED[7.2: test_x] tests/vm/test_vm.py::test_kernel[7.2] - Failed: no"
AGAIN = "UNSTEADY tests/kernel/test_d.py::test_e"
PYTEST = (
    f"{AGAIN}\n{SKIP}\n{FAIL}\n{SUBFAIL}\n"
    "=== 2 failed, 31 passed, 1 skipped, 4 errors, 9 subtests passed, 1 rerun "
    "in 61.02s (0:01:01) ===\n"
)
CMOCKA = """== build/c/plain/test_units
[==========] tests: Running 3 test(s).
[ RUN      ] test_one
[       OK ] test_one
[  FAILED  ] test_two
[==========] tests: 3 test(s) run.
[  PASSED  ] 2 test(s).
[  FAILED  ] tests: 1 test(s), listed below:
[  FAILED  ] test_two
"""


@pytest.mark.parametrize(
    ("log", "status", "expected"),
    [
        (PYTEST, 1, Result(40, 6, 1, 1, (AGAIN, SKIP, FAIL, SUBFAIL))),
        ("== fuzz parse\n== fuzz reader\n", 0, Result(2, 0, 0)),
        ("== fuzz parse\n== fuzz reader\nSUMMARY: overflow\n", 2, Result(1, 1, 0)),
        ("All checks passed!\n", 0, Result(1, 0, 0)),
        ("error: it does not build\n", 2, Result(0, 1, 0)),
        ("=== 5 passed in 0.10s ===\nmake: *** Killed\n", 2, Result(5, 1, 0)),
    ],
)
def test_a_part_is_counted(log: str, status: int, expected: Result) -> None:
    assert count(log, status) == expected


def test_cmocka_is_counted() -> None:
    found = count(CMOCKA, 1)
    assert (found.passed, found.failed) == (2, 1)
    assert set(found.lines) == {"[  FAILED  ] test_two"}


def test_a_failing_part_hides_no_other(tmp_path: Path) -> None:
    """All run in turn; the last line has the sums, and the status is not zero."""
    makefile = (
        "first:\n\t@echo '=== 3 passed, 1 skipped in 0.10s ==='\n"
        "broken:\n\t@false\n"
        "last:\n\t@echo '== fuzz a'\n"
    )
    (tmp_path / "Makefile").write_text(makefile)
    command = [sys.executable, "-m", "tests.all", "first", "broken", "last"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | {"MAKE": "make", "MAKEFLAGS": ""}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[-1] == "4 passed, 1 failed, 1 skipped, 0 unsteady"
    table = [line.split()[:2] for line in lines[-4:-1]]
    assert table == [["first", "passed"], ["broken", "FAILED"], ["last", "passed"]]

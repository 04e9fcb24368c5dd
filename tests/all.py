"""python -m tests.all PART...: runs parts of `make test`, all of them even if one fails.

At the end it lists what failed, what was skipped and why, and what passed only when it was run
again, a line each, and then one table.
"""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

LOGS = Path("build/test")
# Begins the line about a test that failed, and passed when it was run again; and the name of the
# property that its report has, with what it said.
UNSTEADY = "UNSTEADY"
# What closes a run of pytest, and what it says of single tests (-ra).
CLOSING = re.compile(r"(?m)^=+ (.*\d+ \w+.*) in [\d.]+s.*=+$")
SAID = re.compile(rf"(?m)^(?:SUB)?(FAILED|ERROR|SKIPPED|{UNSTEADY})\b.*$")
# What cmocka says of a program's tests, and what the makefile says before each fuzzer.
CMOCKA = re.compile(r"\[  (PASSED|FAILED|SKIPPED)\s+\] (\d+) test")
FUZZER = re.compile(r"(?m)^== fuzz ")
FAULT = re.compile(r"(?m)^\[  FAILED  \] [a-z]\w*$")


@dataclass(frozen=True)
class Result:
    """Of a part: what was counted, and the lines about what failed or was skipped.

    Unsteady tests are among the passed: they failed, and were run again.
    """

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    unsteady: int = 0
    lines: tuple[str, ...] = ()


def count(log: str, status: int) -> Result:
    """From what a part has printed, and its exit status. One that counts nothing is one test."""
    found = {"passed": 0, "failed": 0, "skipped": 0}
    for closing in CLOSING.findall(log):
        for number, what in re.findall(r"(\d+) (?:subtests )?(\w+)", closing):
            kind = "failed" if what in ("error", "errors") else what
            if kind in found:
                found[kind] += int(number)
    for what, number in CMOCKA.findall(log):
        found[what.lower()] += int(number)
    fuzzers = len(FUZZER.findall(log))
    found["passed"] += fuzzers - (1 if fuzzers and status else 0)
    if status and not found["failed"]:
        found["failed"] = 1
    if not any(found.values()):
        found["passed"] = 1
    lines = [m[0] for pattern in (SAID, FAULT) for m in pattern.finditer(log)]
    unsteady = sum(line.startswith(UNSTEADY) for line in lines)
    return Result(**found, unsteady=unsteady, lines=tuple(lines))


def run(part: str) -> tuple[Result, float]:
    """Runs a part; its output goes where ours goes, and to a file."""
    start, log = time.monotonic(), []
    command = [os.environ.get("MAKE", "make"), "--no-print-directory", part]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout
    with (LOGS / part).open("wb") as file:
        for line in process.stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            file.write(line)
            log.append(line.decode(errors="replace"))
    return count("".join(log), process.wait()), time.monotonic() - start


def main(parts: list[str]) -> int:
    LOGS.mkdir(parents=True, exist_ok=True)
    results = {part: run(part) for part in parts}
    print()
    for part, (result, _) in results.items():
        for line in result.lines:
            print(f"{part}: {line}")
    columns = ("passed", "failed", "skipped", "unsteady")
    titles = "".join(f"{name:>10}" for name in columns)
    print(f"\n{'part':<14}{'result':<8}{'seconds':>8}{titles}")
    for part, (result, seconds) in results.items():
        verdict = "FAILED" if result.failed else "passed"
        counts = "".join(f"{getattr(result, name):>10}" for name in columns)
        print(f"{part:<14}{verdict:<8}{seconds:>8.0f}{counts}")
    sums = {name: sum(getattr(r, name) for r, _ in results.values()) for name in columns}
    print(", ".join(f"{number} {name}" for name, number in sums.items()))
    return 1 if sums["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

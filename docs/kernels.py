"""docs/kernels.md from what each kernel gave: `python3 docs/kernels.py tests/vm/kernels.json`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEAD = """# Kernels

Made by `make docs` from [the record](../tests/vm/kernels.json): do not edit. In the record is what
`make test-vm` found on Debian's kernels in QEMU, and `make test` on the machine it ran on (native).
On each kernel every program and every attachment was loaded, and known workloads were measured.
The word after the colon is how the collector is attached: see [metrics.md](metrics.md).
6.12-full is 6.12 with `preempt=full` on its command line. It may preempt programs of functions, and
7.2 those of tracepoints, too: what that costs where, and why not here, says
[a decision](decisions/0013-preemption.md).

## Collectors
"""

PROGRAMS = """
## Programs
How many instructions each kernel's verifier looked at; it gives up at 1,000,000. Kernel 5.10 only
says that it is content: *ok*. For some programs that do not load others stand in, as above.
`make test` and `make test-vm` fail when a number has grown by over a quarter, until `make accept`
has recorded it.
"""


class Notes:
    """What is said below a table, each but once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"

    def lines(self) -> Iterator[str]:
        yield ""
        for number, text in enumerate(self.texts, 1):
            yield f"{number}. {text}"


def table(names: list[str], head: str, kernels: list[str], cell: Any) -> Iterator[str]:
    yield f"| {head} | {' | '.join(kernels)} |"
    yield "|---|" + "---|" * len(kernels)
    for name in names:
        yield f"| {name} | {' | '.join(cell(name, kernel) for kernel in kernels)} |"


def render(record: dict[str, Any]) -> Iterator[str]:
    kernels = list(record)
    notes = Notes()

    def state(name: str, kernel: str) -> str:
        collector = record[kernel]["collectors"][name]
        marks = " ".join(notes.mark(text) for text in collector["lacks"])
        if not collector["attachment"]:
            return f"unavailable {marks}"
        return f"{'degraded' if marks else 'full'}: {collector['attachment']} {marks}".strip()

    def instructions(name: str, kernel: str) -> str:
        found = record[kernel]["programs"].get(name, "not tried")
        return notes.mark(found) if isinstance(found, str) else f"{found:,}" if found else "ok"

    yield HEAD
    yield from table(list(record[kernels[0]]["collectors"]), "collector", kernels, state)
    yield from notes.lines()
    notes = Notes()
    yield PROGRAMS
    yield from table(list(record[kernels[0]]["programs"]), "program", kernels, instructions)
    yield from notes.lines()


if __name__ == "__main__":
    print("\n".join(render(json.loads(Path(sys.argv[1]).read_text()))))

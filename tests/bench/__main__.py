"""All benchmarks: `make bench`. The exit status says whether the figures are as wanted."""

import os
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path

from tests.bench import before, collectors, files, http, loader, page, pods, render

PARTS: tuple[Callable[[], bool], ...] = (
    collectors.main,
    render.main,
    page.main,
    http.main,
    loader.main,
    before.main,
    pods.main,
    files.main,
)

sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a file or a pipe
model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
print(
    "# Performance\n\nMade by `make bench`; the next run overwrites it. "
    f"{os.cpu_count()} CPUs{f' ({model[1]})' if model else ''}, kernel {platform.release()}."
)
missed = 0
for part in PARTS:
    fence = "" if part is collectors.main else "```"
    print(f"\n{fence}")
    missed += not part()
    print(fence)
sys.exit(missed > 0)

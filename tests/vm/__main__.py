"""python -m tests.vm KERNEL COMMAND...: runs a command on another kernel, in this worktree."""

import sys
import tempfile
from pathlib import Path

from tests.vm.kernels import SUITES, UnavailableError
from tests.vm.machine import run_guest

if len(sys.argv) < 3 or sys.argv[1] not in SUITES:
    sys.exit(f"usage: python -m tests.vm {{{','.join(SUITES)}}} COMMAND...")
try:
    with tempfile.TemporaryDirectory() as results:
        sys.exit(run_guest(sys.argv[1], " ".join(sys.argv[2:]), Path(results), timeout=3600))
except UnavailableError as error:
    sys.exit(f"tests.vm: {error}")

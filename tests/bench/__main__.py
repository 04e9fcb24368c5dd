"""All benchmarks: `make bench`. The exit status says whether the figures are as wanted."""

import sys
from pathlib import Path

from tests.bench import files, loader, render, sched

good = [sched.main(Path("build")), render.main(), loader.main(), files.main()]
sys.exit(not all(good))

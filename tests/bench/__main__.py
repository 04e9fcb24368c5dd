"""All benchmarks: `make bench`. The exit status says whether the figures are as wanted."""

import sys
from pathlib import Path

from tests.bench import loader, pods, render, sched

good = [sched.main(Path("build")), render.main(), loader.main(), pods.main()]
sys.exit(not all(good))

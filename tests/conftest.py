import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.live import Cgroup, cgroup_tree, missing

# A loaded machine is no failure.
settings.register_profile("kpod", deadline=None)
settings.load_profile("kpod")


@pytest.fixture(autouse=True)
def _needs_kernel(request: pytest.FixtureRequest) -> None:
    """Tests in kernel/ and e2e/ skip, and say why, where no loader can run."""
    if request.path.parent.name in ("kernel", "e2e") and (reason := missing()):
        pytest.skip(reason)


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

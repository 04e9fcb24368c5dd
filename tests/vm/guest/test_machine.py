"""The guest is what its tests take it for."""

import pytest

from tests.live import GUEST, cgroup2

pytestmark = pytest.mark.guest


def test_pure_cgroup2_with_controllers() -> None:
    assert GUEST
    enabled = (cgroup2() / "cgroup.subtree_control").read_text().split()
    assert {"cpu", "memory", "io", "pids"} <= set(enabled)

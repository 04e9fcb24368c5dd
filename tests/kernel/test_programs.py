"""Every program of every object, and every attachment, as this kernel's verifier sees them."""

import json

import pytest

from tests.vm import record


@pytest.fixture(scope="module")
def verified() -> list[str]:
    return record.verified().splitlines()


def test_each_program_is_of_some_attachment(verified: list[str]) -> None:
    items = [json.loads(line) for line in verified]
    assert len({item["program"] for item in items if "program" in item}) > 40
    assert [item for item in items if item["reason"] == "no step has it"] == []


def test_programs_are_as_recorded(verified: list[str]) -> None:
    """None has grown by a quarter, until `make accept`. For other kernels: make test-vm."""
    name, records = record.native(), record.read()
    if name not in records:
        pytest.skip(f"kernel {name} is not in {record.RECORD.name}: has {', '.join(records)}")
    bad = record.bad_programs(records[name], record.summary(verified, []))
    assert not bad, "\n".join(bad)

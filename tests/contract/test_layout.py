"""shared/README.md, abi.h and reader.h say the same."""

import ctypes
import re
from pathlib import Path

import pytest

from aggregator import _native
from aggregator.segment.store import STATES
from tests.segment import FIELDS, HEADER_SIZE, README, crc32c, layout_digest

SHARED = Path(README).parent


C = ctypes.CDLL(_native.__file__)  # all of shared/ is in it


class Field(ctypes.Structure):
    """struct kpod_abi_field."""

    _fields_ = (
        ("record", ctypes.c_char_p),
        ("field", ctypes.c_char_p),
        ("offset", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
    )


def compiled() -> dict[str, tuple[int, int]]:
    count = ctypes.c_size_t.in_dll(C, "kpod_abi_field_count").value
    fields = (Field * count).in_dll(C, "kpod_abi_fields")
    return {f"{f.record.decode()}.{f.field.decode()}": (f.offset, f.size) for f in fields}


def test_tables_of_the_specification_are_the_structs() -> None:
    assert list(FIELDS.items()) == list(compiled().items())
    assert len(FIELDS) > 30


def test_digest_of_the_specification_is_the_compiled_one() -> None:
    C.kpod_layout_digest.restype = ctypes.c_uint64
    assert layout_digest() == C.kpod_layout_digest()


def test_checksums_agree() -> None:
    C.kpod_crc32c.restype = ctypes.c_uint32
    C.kpod_crc32c.argtypes = (ctypes.c_uint32, ctypes.c_char_p, ctypes.c_size_t)
    data = bytes(range(256)) * 3
    for size in (0, 1, 7, 8, 9, 255, 768):
        assert crc32c(data[:size]) == C.kpod_crc32c(0, data[:size], size)


@pytest.mark.parametrize(
    ("name", "value"), [("HEADER_SIZE", HEADER_SIZE), ("PATH_MAX", 512), ("TABLES_MAX", 64)]
)
def test_limits_of_the_specification(name: str, value: int) -> None:
    found = re.search(rf"#define KPOD_{name} (\d+)", (SHARED / "abi.h").read_text())
    assert found
    assert int(found[1]) == value


def test_states_are_named_in_order() -> None:
    assert tuple(re.findall(r"X\([A-Z]+, \"(\w+)\"", (SHARED / "reader.h").read_text())) == STATES
    listed = re.search(r"### Reader states\n(.+\n)", README.read_text())
    assert listed
    assert set(STATES) <= set(re.findall(r"`(\w+)`", listed[1]))

"""Protobuf's wire format, as much as io.prometheus.client needs; for texts, not for values."""

import struct
from functools import cache

VARINT, FIXED64, LENGTH = 0, 1, 2

SHORT = [bytes([value]) for value in range(0x80)]


def varint(value: int) -> bytes:
    """A number >= 0."""
    if value < 0x80:  # nearly all there are
        return SHORT[value]
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@cache
def tag(field: int, kind: int) -> bytes:
    return varint(field << 3 | kind)


def number(field: int, value: int) -> bytes:
    return tag(field, VARINT) + varint(value)


def double(field: int, value: float) -> bytes:
    return tag(field, FIXED64) + struct.pack("<d", value)


def message(field: int, content: bytes) -> bytes:
    return tag(field, LENGTH) + varint(len(content)) + content


def labels(data: bytes) -> list[tuple[str, str]]:
    """What exposition.protobuf_labels() made."""
    found = []
    at = 0

    def size() -> int:
        nonlocal at
        at += 1  # the tag
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def piece() -> str:
        nonlocal at
        length = size()
        at += length
        return data[at - length : at].decode()

    while at < len(data):
        size()
        found.append((piece(), piece()))
    return found


def text(field: int, value: str) -> bytes:
    return message(field, value.encode())

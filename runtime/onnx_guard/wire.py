"""Protocol Buffers' wire format, stricter than a parser: every message has one form, so that it has one meaning."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping

Data = mmap.mmap | bytes


class Malformed(Exception):
    """A file must not be read further; the text says why."""


def fields(data: Data, pos: int, end: int, known: Mapping[int, bool]) -> Iterator[tuple[int, int, int]]:
    """(tag, start, end) of the fields between two places; of a varint (tag, value, end).

    `known`: tag -> whether the field may come more than once. Raises Malformed on any other tag, on a second
    field where protobuf would merge the two, and on what does not end where it should; IndexError at the end
    of the data.
    """
    once = set()
    while pos < end:
        tag = data[pos]
        pos += 1
        if tag > 0x7F:
            tag, pos = varint(data, pos - 1)
        if not known.get(tag):
            if tag not in known or tag in once:
                raise Malformed(f"field {tag >> 3} of kind {tag & 7} is unknown there, or appears twice")
            once.add(tag)
        kind = tag & 7
        if kind in (1, 5):
            value, pos = pos, pos + (8 if kind == 1 else 4)
            yield tag, value, pos
            continue
        value = data[pos]
        pos += 1
        if value > 0x7F:
            value, pos = varint(data, pos - 1)
        if kind == 0:
            yield tag, value, pos
        else:
            start, pos = pos, pos + value
            if pos > end:
                break
            yield tag, start, pos
    if pos != end:
        raise Malformed("a field is longer than what holds it")


def varint(data: Data, pos: int) -> tuple[int, int]:
    """The number at a place, 0 to 2**64 - 1, and the place after it; Malformed when it is not in shortest form."""
    value = data[pos]
    if value < 0x80:
        return value, pos + 1
    value &= 0x7F
    for i in range(1, 10):
        byte = data[pos + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            if byte == 0 or value >> 64:
                break
            return value, pos + i + 1
    raise Malformed("a number is not in its shortest form")


def signed(value: int) -> int:
    """A varint as the int64 that it stands for."""
    return value - (1 << 64) if value >> 63 else value


def packed(data: Data, start: int, end: int) -> list[int]:
    """The int64 values of a packed field."""
    values, pos = [], start
    while pos < end:
        value, pos = varint(data, pos)
        values.append(signed(value))
    if pos != end:
        raise Malformed("a list of numbers is cut off")
    return values


def text(data: Data, start: int, end: int, most: int) -> str:
    """UTF-8 of at most `most` bytes that can be printed."""
    if end - start > most:
        raise Malformed(f"a name has {end - start} bytes")
    try:
        value = data[start:end].decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed("a name is not UTF-8") from error
    if not value.isprintable():
        raise Malformed("a name holds characters that cannot be printed")
    return value

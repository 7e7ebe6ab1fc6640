"""What is in a model.onnx, read without its weights, and refused where it is more than a picture model needs.

ONNX Runtime opens whatever ONNX can say: operators from libraries, files elsewhere, endless loops, arrays
without bounds. Source: onnx.proto3 of ONNX 1.23.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

from runtime.onnx_guard.operators import ALLOWED, BROADCAST, RESHAPED, SAME
from runtime.onnx_guard.wire import Data, Malformed, fields, packed, signed, text, varint

Shape = tuple[int, ...]

MOST_NODES, MOST_TENSORS = 50_000, 50_000
MOST_GROWN = 8  # nodes that make something larger of stored values alone; exporters store the result instead
MOST_RANK, MOST_ELEMENTS = 8, 2**34
MOST_INTEGER, MOST_SPATIAL = 2**24, 4096  # of any attribute; of a kernel, a stride, a border
MOST_TEXT = 1000
_SMALL = 4096
LEAST_IR, MOST_IR, MOST_OPSET = 3, 14, 30
# Bits of an element, by TensorProto.DataType; strings, complex numbers and the 8-bit floats are not read.
BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 21: 4, 22: 4}

_SPATIAL = {b"pads", b"strides", b"kernel_shape", b"dilations", b"output_padding", b"output_shape", b"blocksize"}
_TO_THE_END = {b"starts", b"ends"}  # of Slice, where the largest int64 stands for the last element
# tag (field << 3 | wire kind) -> whether it may come more than once
_MODEL = {
    0x08: False, 0x12: False, 0x1A: False, 0x22: False, 0x28: False, 0x32: False, 0x3A: False, 0x42: True,
    0x72: True,
}  # fmt: skip
_GRAPH = {0x0A: True, 0x12: False, 0x2A: True, 0x52: False, 0x5A: True, 0x62: True, 0x6A: True, 0x82: True}
_VALUES = (0x22, 0x2A, 0x3A, 0x4A, 0x52, 0x5A)  # of a tensor: float, int32, int64, raw, double, uint64 data
_ATTRIBUTE = {
    0x0A: False, 0x15: False, 0x18: False, 0x22: False, 0x2A: False, 0x3A: False, 0x3D: True, 0x40: True,
    0x42: False, 0x4A: True, 0x6A: False, 0xA0: False,
}  # fmt: skip
_ENTRY = {0x0A: False, 0x12: False}
_PORT = {0x0A: False, 0x12: False, 0x1A: False, 0x22: True}
_TYPE = {0x0A: False, 0x32: False}
_ARRAY = {0x08: False, 0x12: False}
_SHAPE = {0x0A: True}
_SIZE = {0x08: False, 0x12: False, 0x1A: False}


@dataclass(frozen=True)
class External:
    """Where a tensor's bytes are."""

    location: str  # a path from the model's folder
    offset: int
    length: int


@dataclass
class Contents:
    """What the rest of the program has to know of a model.onnx."""

    inputs: dict[str, tuple[int | None, ...]] = field(default_factory=dict)  # sizes, None where any is taken
    outputs: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    external: list[External] = field(default_factory=list)
    stored: dict[bytes, Shape | None] = field(default_factory=dict)  # what no input changes; None: of unknown size
    weights: int = 0  # bytes of the tensors, wherever they are
    made: int = 0  # elements that nodes make of stored values alone, which ONNX Runtime keeps from the start
    grown: int = 0  # such nodes for which they cannot be counted
    nodes: list[tuple[int, int]] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)  # attributes found valid: the same few dozen kinds recur


def inspect(data: Data) -> Contents:
    """What a model holds; Malformed, with the reason, when ONNX Runtime must not read it."""
    found = Contents()
    try:
        _model(data, found)
        for start, end in found.nodes:  # after all tensors, which may stand behind the nodes
            _node(data[start:end], found)
    except IndexError as error:
        raise Malformed("it is cut off") from error
    if found.made > 16 * found.weights + 2**20:
        raise Malformed(f"it makes {found.made} numbers of {found.weights} stored bytes before it has any input")
    return found


def outputs(data: Data) -> dict[str, tuple[int | None, ...]]:
    """The sizes that a graph declares for what it gives, by name: all that is read."""
    found = {}
    for tag, start, end in fields(data, 0, len(data), _MODEL):
        if tag == 0x3A:
            places = [(begin, stop) for kind, begin, stop in fields(data, start, end, _GRAPH) if kind == 0x62]
            found = dict(_port(data, begin, stop) for begin, stop in places)
    return found


def _model(data: Data, found: Contents) -> None:
    version, domains, graphs = 0, [], []
    for tag, start, end in fields(data, 0, len(data), _MODEL):
        if tag == 0x08:
            version = start
        elif tag == 0x3A:
            graphs.append((start, end))
        elif tag == 0x42:
            domains.append(_opset(data, start, end))
    if not LEAST_IR <= version <= MOST_IR or not graphs or not domains:
        raise Malformed(f"it holds no graph, no opset, or an IR version other than {LEAST_IR} to {MOST_IR}")
    _graph(data, *graphs[0], found)


def _opset(data: Data, start: int, end: int) -> str:
    domain, version = "", 0
    for tag, begin, stop in fields(data, start, end, {0x0A: False, 0x10: False}):
        if tag == 0x0A:
            domain = text(data, begin, stop, MOST_TEXT)
        else:
            version = begin
    if domain.encode() in ALLOWED and not 1 <= version <= MOST_OPSET:
        raise Malformed(f"version {version} of the opset {domain!r} is unknown")
    return domain


def _graph(data: Data, start: int, end: int, found: Contents) -> None:
    for tag, begin, stop in fields(data, start, end, _GRAPH):
        if tag == 0x0A:
            found.nodes.append((begin, stop))
        elif tag == 0x2A:
            if stop - begin < _SMALL:  # a copy is faster to walk than the file
                name, shape = _tensor(data[begin:stop], 0, stop - begin, found)
            else:
                name, shape = _tensor(data, begin, stop, found)
            if name in found.stored:
                raise Malformed("two tensors have one name")
            found.stored[name] = shape
        elif tag in (0x5A, 0x62, 0x6A):
            port, sizes = _port(data, begin, stop)
            if tag != 0x6A:
                ports = found.inputs if tag == 0x5A else found.outputs
                ports[port] = sizes
    if len(found.nodes) > MOST_NODES or len(found.stored) > MOST_TENSORS:
        raise Malformed(f"{len(found.nodes)} nodes and {len(found.stored)} tensors are too many")


def _tensor(data: Data, start: int, end: int, found: Contents) -> tuple[bytes, Shape]:
    """A tensor's name and shape, once its bytes are as many as its shape says, here or in another file.

    Written out, as `_node` is: there are a thousand of them.
    """
    dims: list[int] = []
    held: list[tuple[int, int, int]] = []
    entries: list[tuple[int, int]] = []
    kind, away, name, pos = 0, 0, b"", start
    while pos < end:
        tag, value = data[pos], data[pos + 1]
        pos += 2
        if tag == 0x82 and value == 1:  # field 16, metadata
            value, pos = varint(data, pos)
        elif value > 0x7F:
            value, pos = varint(data, pos - 1)
        if tag == 0x08:
            dims.append(value)
        elif tag == 0x10 and not kind:
            kind = value
        elif tag == 0x70 and not away:
            away = value
        else:
            begin, pos = pos, pos + value
            if tag == 0x42 and not name:
                name = data[begin:pos]
            elif tag in _VALUES:
                held.append((tag, begin, pos))
            elif tag == 0x6A:
                entries.append((begin, pos))
            elif tag == 0x0A and not dims and pos <= end:
                dims = packed(data, begin, pos)
            elif tag not in (0x62, 0x82):
                raise Malformed(f"a tensor has a field {tag >> 3} of kind {tag & 7}, or has it twice")
    if pos != end or away > 1 or bool(entries) != (away == 1) or len(held) + bool(entries) > 1:
        raise Malformed("a tensor is cut off, or its bytes are in no place or in two")
    shape = tuple(dims)
    size = _bytes(shape, kind)
    found.weights += size
    if entries:
        found.external.append(_external(data, entries, size))
    elif len(held) != 1 or held[0][0] != 0x4A or held[0][2] - held[0][1] != size:
        _check_held(data, held, kind, size, math.prod(dims))
    return name, shape


@lru_cache(maxsize=1024)
def _bytes(shape: Shape, kind: int) -> int:
    """The bytes that a tensor of this shape has."""
    if kind not in BITS:
        raise Malformed(f"a tensor has the data type {kind}")
    count = math.prod(shape)
    if len(shape) > MOST_RANK or max(*shape, count, 0) > MOST_ELEMENTS or any(size < 0 for size in shape):
        raise Malformed(f"a tensor has the shape {str(shape)[:80]}")
    return -(-count * BITS[kind] // 8)


def _check_held(data: Data, held: list[tuple[int, int, int]], kind: int, size: int, count: int) -> None:
    """Whether the one field with a tensor's values has as many as its shape says."""
    tag, start, end = held[0] if held else (0x4A, 0, 0)
    if tag == 0x4A:
        right = end - start == size
    elif tag in (0x22, 0x52):  # float_data, double_data
        right = kind == (1 if tag == 0x22 else 11) and end - start == size
    else:  # int32_data holds everything of 32 bits and less but floats, int64_data and uint64_data their own
        kinds = {0x2A: {2, 3, 4, 5, 6, 9, 10, 16, 21, 22}, 0x3A: {7}, 0x5A: {12, 13}}[tag]
        values = packed(data, start, end) if end - start <= 10 * size + 10 else []
        right = kind in kinds and len(values) == (-(-count // 2) if BITS[kind] == 4 else count)
    if not right:
        raise Malformed(f"a tensor's values are not the {count} that its shape says")


def _external(data: Data, entries: list[tuple[int, int]], size: int) -> External:
    """Where a tensor's bytes are; its `length` must be what its shape says."""
    facts: dict[str, str] = {}
    for start, end in entries:
        parts = {tag: text(data, begin, stop, MOST_TEXT) for tag, begin, stop in fields(data, start, end, _ENTRY)}
        key = parts.get(0x0A, "")
        if key in facts or key not in ("location", "offset", "length", "checksum"):
            raise Malformed(f"a tensor's place is given by {key[:40]!r}")
        facts[key] = parts.get(0x12, "")
    numbers = [facts.get("offset", "0"), facts.get("length", str(size))]
    if not all(value.isascii() and value.isdigit() and len(value) <= 15 for value in numbers):
        raise Malformed("a tensor's offset or length is not a number")
    offset, length = map(int, numbers)
    if length != size:
        raise Malformed(f"a tensor of {size} bytes has {length} in another file")
    return External(facts.get("location", ""), offset, length)


def _port(data: Data, start: int, end: int) -> tuple[str, tuple[int | None, ...]]:
    """The name and the sizes of an input, an output or a value between nodes."""
    name = ""
    sizes: tuple[int | None, ...] = ()
    for tag, begin, stop in fields(data, start, end, _PORT):
        if tag == 0x0A:
            name = text(data, begin, stop, MOST_TEXT)
        elif tag == 0x12:
            for _, inner, last in fields(data, begin, stop, _TYPE):
                sizes = _sizes(data, inner, last)
    return name, sizes


def _sizes(data: Data, start: int, end: int) -> tuple[int | None, ...]:
    sizes: list[int | None] = []
    for tag, begin, stop in fields(data, start, end, _ARRAY):
        if tag == 0x08:
            if begin not in BITS:
                raise Malformed(f"an array has the data type {begin}")
            continue
        for _, inner, last in fields(data, begin, stop, _SHAPE):
            sizes.append(_size(data, inner, last))
    known = [size for size in sizes if size is not None]
    if len(sizes) > MOST_RANK or min(known, default=0) < 0 or math.prod(known) > MOST_ELEMENTS:
        raise Malformed(f"an array has the shape {str(sizes)[:80]}")
    return tuple(sizes)


def _size(data: Data, start: int, end: int) -> int | None:
    """A dimension: its size, or None where it has a name or nothing."""
    size = None
    for tag, begin, stop in fields(data, start, end, _SIZE):
        if tag == 0x08:
            size = signed(begin)
        else:
            text(data, begin, stop, MOST_TEXT)  # ONNX Runtime passes names on; one that is not text makes it raise
    return size


def _node(node: bytes, found: Contents) -> None:
    """One operation: a known operator with attributes in bounds. Nearly all of a graph's fields pass here."""
    inputs, outputs, attributes, operator, domain = [], [], [], b"", b""
    pos, end = 0, len(node)
    while pos < end:
        tag, size = node[pos], node[pos + 1]
        pos += 2
        if size > 0x7F:
            size, pos = varint(node, pos - 1)
        part = node[pos : pos + size]
        pos += size
        if tag == 0x0A:
            inputs.append(part)
        elif tag == 0x12:
            outputs.append(part)
        elif tag == 0x2A:
            attributes.append(part)
        elif tag == 0x22 and not operator:
            operator = part
        elif tag == 0x3A and not domain:
            domain = part
        elif tag not in (0x1A, 0x32, 0x4A):
            raise Malformed(f"a node has a field {tag >> 3}")
    if pos != end:
        raise Malformed("a node is cut off")
    if operator not in ALLOWED.get(domain, ()):
        name = b".".join(filter(None, (domain, operator))).decode("utf-8", "replace")[:80]
        raise Malformed(f"it uses the operator {name}, which no picture model needs")
    shape = None
    for attribute in attributes:
        if attribute not in found.seen:
            shape = _attribute(attribute, found)
    stored = found.stored
    if not inputs or inputs[0] in stored or not inputs[0]:
        known = [stored[name] for name in inputs if name in stored]
        if len(known) == len(inputs) - inputs.count(b""):
            shape = _shape_of(operator, known, shape, found)
            stored.update(dict.fromkeys(outputs, shape))


def _shape_of(operator: bytes, inputs: list[Shape | None], value: Shape | None, found: Contents) -> Shape | None:
    """The shape of what a node makes of stored values alone; None where it is not known."""
    if operator == b"Constant":
        return value
    shape: Shape | None = None
    if None not in inputs:
        shapes = [one for one in inputs if one is not None]
        if operator in SAME and shapes:
            shape = shapes[0]
        elif operator in RESHAPED and shapes:
            shape = (math.prod(shapes[0]),)
        elif operator in BROADCAST:
            shape = _broadcast(shapes)
    if shape is None:
        found.grown += 1
        if found.grown > MOST_GROWN:
            raise Malformed(f"it makes more than {MOST_GROWN} large arrays of stored values, which could be stored")
    else:
        found.made += math.prod(shape)
    return shape


def _broadcast(shapes: list[Shape]) -> Shape:
    """The shape of an elementwise result, or a larger one."""
    rank = max(map(len, shapes))
    columns = zip(*[(1,) * (rank - len(shape)) + shape for shape in shapes], strict=True)
    return tuple(map(max, columns))


def _attribute(attribute: bytes, found: Contents) -> Shape | None:
    """Whether an attribute's numbers are in bounds; the shape of the tensor that it holds, () for a number."""
    name, integers, shape = b"", [], None
    for tag, start, end in fields(attribute, 0, len(attribute), _ATTRIBUTE):
        if tag == 0x0A:
            name = attribute[start:end]
        elif tag in (0x18, 0x40):
            integers.append(signed(start))
        elif tag == 0x42:
            integers += packed(attribute, start, end)
        elif tag == 0x2A:
            _, shape = _tensor(attribute, start, end, found)
        elif tag in (0x22, 0x4A) and end - start > MOST_TEXT:
            raise Malformed(f"a text of {end - start} bytes is too long")
    most = MOST_SPATIAL if name in _SPATIAL else MOST_INTEGER if name not in _TO_THE_END else 2**63
    if any(not -most <= value <= most for value in integers):
        raise Malformed(f"the attribute {str(name[:40])[1:]} is {str(integers)[:80]}: {most} at most is allowed")
    if shape is None:
        found.seen.add(attribute)
        return (len(integers),)
    return shape

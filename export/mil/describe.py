"""What a package contains, without running it: inputs, outputs, operations, weights, and what is not supported."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from export.mil.ops import CONSTANTS
from export.mil.package import MilError, Package, Port, kind_of, port_of, shape_of
from export.mil.plan import make_plan, unknown_operations

MEGABYTE = 1e6


@dataclass
class Weights:
    """The weights of one kind: how many tensors, how many numbers they represent, and their bytes in the package."""

    tensors: int = 0
    parameters: int = 0
    bytes: int = 0


def describe(package: Package) -> dict[str, Any]:
    """A package's facts, ready for JSON; "unknown" and "refused" say why it would not run."""
    operations = Counter(op.type for op in package.block.operations if op.type != "const")
    facts = {
        "package": str(package.path),
        "function": package.function_name,
        "functions": sorted(package.spec.mlProgram.functions),
        "opset": package.function.opset,
        "inputs": [port_facts(port) | image_facts(package, port.name) for port in package.inputs],
        "outputs": [port_facts(port) for port in output_ports(package)],
        "operations": dict(operations.most_common()),
        "weights": {kind: asdict(item) for kind, item in weights(package).items()},
        "unknown": unknown_operations(package),
        "refused": "",
        "metadata": dict(package.spec.description.metadata.userDefined),
    }
    try:
        make_plan(package)
    except MilError as error:
        facts["refused"] = str(error)
    return facts


def port_facts(port: Port) -> dict[str, Any]:
    """Name, type and shape; None for an axis of any length."""
    return {"name": port.name, "dtype": port.kind.name, "shape": list(port.shape)}


def image_facts(package: Package, name: str) -> dict[str, Any]:
    """Colour space and size, if the input is described as a picture."""
    for item in package.description.input:
        if item.name == name and item.type.WhichOneof("Type") == "imageType":
            image = item.type.imageType
            return {"image": f"{image.ColorSpace.Name(image.colorSpace)} {image.width}x{image.height}, 0..255"}
    return {}


def output_ports(package: Package) -> list[Port]:
    """The outputs as the operations declare them."""
    named = {item.name: item for op in package.block.operations for item in op.outputs}
    inputs = {port.name: port for port in package.inputs}
    missing = [name for name in package.block.outputs if name not in inputs and name not in named]
    if missing:
        raise MilError(f"{package.path} is damaged: nothing gives its output {missing[0]!r}")
    return [inputs[name] if name in inputs else port_of(named[name]) for name in package.block.outputs]


def weights(package: Package) -> dict[str, Weights]:
    """Kind of storage -> what is stored that way; small values within the program itself are not counted."""
    made = {item.name: op for op in package.block.operations if op.type in CONSTANTS for item in op.outputs}
    inner = {name for op in made.values() for name in named_parts(op)}
    found: dict[str, Weights] = {}
    for op in package.block.operations:
        if op.type == "const" and op.attributes["val"].WhichOneof("value") == "blobFileValue":
            tensor_type = op.attributes["val"].type.tensorType
            count(found, kind_of(tensor_type, op.outputs[0].name).name, op, stored_bytes(op.attributes["val"]))
        elif op.type in CONSTANTS and not any(item.name in inner for item in op.outputs):
            count(found, kind_of_expression(op, made), op, expression_bytes(op, made))
    return found


def count(found: dict[str, Weights], kind: str, op: Any, size: int) -> None:
    """Add one weight."""
    item = found.setdefault(kind, Weights())
    item.tensors += 1
    item.parameters += math.prod(length or 1 for length in shape_of(op.outputs[-1].type.tensorType))
    item.bytes += size


def values_of(op: Any) -> Iterator[tuple[str, Any]]:
    """The parameters of a constexpr operation that are written inline."""
    yield from ((name, value) for name, value in op.attributes.items() if name != "name")
    for name, argument in op.inputs.items():
        if argument.arguments[0].WhichOneof("binding") == "value":
            yield name, argument.arguments[0].value


def named_parts(op: Any) -> set[str]:
    """The names of the values that an operation takes from others."""
    return {item.name for argument in op.inputs.values() for item in argument.arguments if item.name}


def stored_bytes(value: Any) -> int:
    """Bytes of a value in the package."""
    kind = kind_of(value.type.tensorType, "a weight")
    return -(-math.prod(length or 1 for length in shape_of(value.type.tensorType)) * kind.bits // 8)


def expression_bytes(op: Any, made: dict[str, Any]) -> int:
    """Bytes of everything that a constexpr operation is computed from."""
    own = sum(stored_bytes(value) for name, value in values_of(op) if name not in ("axis", "shape", "output_dtype"))
    sources = {id(made[name]): made[name] for name in named_parts(op) if name in made}
    return own + sum(expression_bytes(part, made) for part in sources.values())


def kind_of_expression(op: Any, made: dict[str, Any]) -> str:
    """How a weight is compressed, in words."""
    values = dict(values_of(op))
    sources = {id(made[name]): made[name] for name in named_parts(op) if name in made}
    below: str = "".join(f"{kind_of_expression(part, made)}, " for part in sources.values())
    if "lut" in values:
        return below + palette_words(values["lut"], shape_of(op.outputs[-1].type.tensorType))
    if "sparse_to_dense" in op.type:
        return below + "sparse"
    data = values.get("quantized_data") or values.get("data") or values.get("nonzero_data")
    if "scale" in values and data is not None:
        name = kind_of(data.type.tensorType, op.outputs[-1].name).name
        return below + f"linear {name} per {granularity(values['scale'], op)}"
    return below + str(op.type).removeprefix("constexpr_")


def palette_words(lut: Any, shape: tuple[int | None, ...]) -> str:
    """The bits per index, and what has its own table."""
    sizes = [length or 1 for length in shape_of(lut.type.tensorType)]
    entries, groups = (sizes[0], 1) if len(sizes) == 1 else (sizes[-2], math.prod(sizes[:-2]))
    vectors = f", vectors of {sizes[-1]}" if len(sizes) > 1 and sizes[-1] > 1 else ""
    return f"palettized {int(math.log2(entries))}-bit" + (" grouped" if groups > 1 else "") + vectors


def granularity(scale: Any, op: Any) -> str:
    """What has its own scale: the tensor, a channel, or a block."""
    sizes = [length or 1 for length in shape_of(scale.type.tensorType)]
    if math.prod(sizes) == 1:
        return "tensor"
    return "channel" if sum(size > 1 for size in sizes) == 1 else "block"


def text(facts: dict[str, Any]) -> str:
    """The facts as text."""
    lines = [f"{facts['package']}: function {facts['function']}, opset {facts['opset']}"]
    for title in ("inputs", "outputs"):
        lines += [f"{title}:"] + [f"  {port_words(port)}" for port in facts[title]]
    total = sum(facts["operations"].values())
    lines += [f"{total} operations: " + ", ".join(f"{name} {n}" for name, n in facts["operations"].items())]
    lines += ["weights:"] + [
        f"  {kind}: {item['tensors']} tensors, {item['parameters']:,} parameters, {item['bytes'] / MEGABYTE:.2f} MB"
        for kind, item in facts["weights"].items()
    ]
    return "\n".join([*lines, f"cannot run: {facts['refused']}" if facts["refused"] else "every operation is known"])


def port_words(port: dict[str, Any]) -> str:
    """One input or output."""
    shape = "x".join("?" if size is None else str(size) for size in port["shape"]) or "a number"
    return f"{port['name']}: {port['dtype']} {shape}" + (f" ({port['image']})" if "image" in port else "")

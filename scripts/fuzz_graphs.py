"""Ways to corrupt a model.onnx so that the file stays well-formed enough to be read: a table of named mutators."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from scripts.fuzz_files import Mutator, models, outside

EXTREME = [-(2**63), -(2**31), -1, 0, 1, 7, 255, 2**16, 2**24, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1]
OPERATORS = [
    ("", "Loop"),
    ("", "If"),
    ("", "Scan"),
    ("", "RandomNormal"),
    ("", "NonExistent"),
    ("", "StringNormalizer"),
    ("", "SequenceEmpty"),
    ("com.microsoft", "EPContext"),
    ("com.microsoft", "Tokenizer"),
    ("com.microsoft", "PythonOp"),
    ("evil", "Load"),
    ("ai.onnx.ml", "Scaler"),
    ("com.microsoft.nchwc", "Conv"),
    ("ai.onnx.training", "Adam"),
    ("", "Gather"),
    ("", "Conv"),
    ("", "MatMul"),
    ("", "Resize"),
    ("", "DepthToSpace"),
    ("", "Concat"),
    ("", "Reshape"),
    ("", "Transpose"),
    ("", "Einsum"),
    ("", "ConvTranspose"),
    ("", "MaxPool"),
    ("com.microsoft", "MatMulNBits"),
    ("com.microsoft", "MultiHeadAttention"),
    ("com.microsoft", "GroupNorm"),
    ("", "TopK"),
]
LOCATIONS = [
    "../../outside/canary",
    "../outside/canary",
    "/etc/passwd",
    "/dev/zero",
    "/proc/self/mem",
    "*/_ORT_MEM_ADDR_/*",
    "",
    ".",
    "..",
    "model.onnx",
    "model.onnx_data\x00",
    "../unet/model.onnx_data",
    "sub/model.onnx_data",
    "link",
    "C:\\x",
    "\\\\host\\x",
    "~",
    "config.json",
    "x" * 5000,
    "file:///etc/passwd",
    "./model.onnx_data",
    "pipe",
]


def opened(random: Random, folder: Path) -> tuple[Path, Any]:
    """One of the models, parsed."""
    path = random.choice(models(folder))
    return path, onnx.load(path, load_external_data=False)


def saved(path: Path, model: Any) -> None:
    path.write_bytes(model.SerializeToString())


def external_place(random: Random, folder: Path) -> None:
    """Weights that are said to be in a file elsewhere, a device, a pipe, or this program's own memory."""
    path, model = opened(random, folder)
    tensor = random.choice(list(model.graph.initializer)) if model.graph.initializer else model.graph.initializer.add()
    canary = outside(folder) / "canary"
    (path.parent / "link").symlink_to(canary)
    location = random.choice([*LOCATIONS, str(canary)])
    _put(tensor, location, "0", str(len(tensor.raw_data)) if random.random() < 0.8 else None)
    saved(path, model)


def external_range(random: Random, folder: Path) -> None:
    """Weights at absurd places of the right file."""
    path, model = opened(random, folder)
    tensor = random.choice(list(model.graph.initializer))
    size = len(tensor.raw_data)
    (path.parent / "model.onnx_data").write_bytes(random.randbytes(random.choice([0, size, size + 4096])))
    numbers = [str(value) for value in EXTREME] + [
        "",
        "x",
        "1e3",
        " 0",
        "0x10",
        "９",
        "9" * 400,
        "-0",
        "+1",
        "0" * 30,
        str(size),
    ]
    _put(tensor, "model.onnx_data", random.choice(numbers), random.choice([None, str(size), random.choice(numbers)]))
    saved(path, model)


def _put(tensor: Any, location: str, offset: str, length: str | None) -> None:
    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=value)


def tensor_spoilt(random: Random, folder: Path) -> None:
    """A tensor whose shape, type and bytes do not fit, or fit an absurd shape."""
    path, model = opened(random, folder)
    tensor = random.choice(list(model.graph.initializer))
    choice = random.randrange(6)
    if choice == 0 and tensor.dims:
        tensor.dims[random.randrange(len(tensor.dims))] = random.choice(EXTREME)
    elif choice == 1:
        tensor.dims.extend(random.choices([*EXTREME, 1, 1, 1], k=random.choice([1, 2, 9, 100])))
    elif choice == 2:
        tensor.data_type = random.choice([*range(-1, 30), 2**31 - 1])
    elif choice == 3:
        tensor.raw_data = tensor.raw_data[: random.randrange(len(tensor.raw_data) + 1)] + random.randbytes(
            random.randrange(9)
        )
    elif choice == 4:
        del tensor.dims[:]
    else:
        tensor.float_data.extend([1.0] * random.choice([1, 1000]))
    saved(path, model)


def weights_spoilt(random: Random, folder: Path) -> None:
    """Weights of the right size that are not numbers, huge, or noise: a valid bundle."""
    path, model = opened(random, folder)
    for tensor in random.sample(list(model.graph.initializer), 1):
        size = len(tensor.raw_data)
        noise = random.randbytes(size)
        pattern = random.choice(
            [
                noise,
                b"\xff" * size,
                b"\x00" * size,
                (b"\x00\x00\x80\x7f" * size)[:size],
                (b"\xff\xff\x7f\x7f" * size)[:size],
            ]
        )
        if size:
            tensor.raw_data = pattern
    saved(path, model)


def operator_changed(random: Random, folder: Path) -> None:
    """A node of another operator, perhaps of one that loads, loops or draws."""
    path, model = opened(random, folder)
    node = random.choice(list(model.graph.node))
    node.domain, node.op_type = random.choice(OPERATORS)
    if random.random() < 0.8:
        model.opset_import.add(domain=node.domain or "ai.onnx", version=1 if node.domain else 17)
    if node.op_type == "EPContext":
        node.attribute.extend(
            [helper.make_attribute("ep_cache_context", "../../outside/canary"), helper.make_attribute("embed_mode", 0)]
        )
    saved(path, model)


def subgraph_added(random: Random, folder: Path) -> None:
    """A loop of 2**62 iterations, a branch, or nested branches."""
    path, model = opened(random, folder)
    value, node = helper.make_tensor_value_info, helper.make_node
    model.graph.initializer.append(numpy_helper.from_array(np.array(2**62, np.int64), "turns"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    out = model.graph.output[0].name
    last = next(one for one in model.graph.node if out in one.output)
    last.output[list(last.output).index(out)] = "before"
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Identity", ["x"], ["y"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, None)],
        [value("on", TensorProto.BOOL, []), value("y", TensorProto.FLOAT, None)],
    )
    branch = helper.make_graph(
        [node("Identity", ["before"], ["z"])], "branch", [], [value("z", TensorProto.FLOAT, None)]
    )
    last_branch = branch
    if random.random() < 0.5:
        model.graph.node.append(node("Loop", ["turns", "yes", "before"], [out], body=body))
    else:
        for i in range(random.choice([1, 20])):
            inner = node("If", ["yes"], ["z"], then_branch=branch, else_branch=last_branch)
            branch = helper.make_graph([inner], f"branch{i}", [], [value("z", TensorProto.FLOAT, None)])
        model.graph.node.append(node("If", ["yes"], [out], then_branch=branch, else_branch=branch))
    saved(path, model)


def functions_added(random: Random, folder: Path) -> None:
    """Functions that call each other twice each: a "billion laughs" attack."""
    path, model = opened(random, folder)
    depth = random.choice([1, 30])
    for i in range(depth):
        inner = f"f{i + 1}" if i + 1 < depth else "Identity"
        domain = "local" if i + 1 < depth else ""
        nodes = [
            helper.make_node(inner, ["x"], ["m"], domain=domain),
            helper.make_node(inner, ["m"], ["y"], domain=domain),
        ]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
        model.functions.append(helper.make_function("local", f"f{i}", ["x"], ["y"], nodes, imports))
    model.opset_import.add(domain="local", version=1)
    node = random.choice(list(model.graph.node))
    if random.random() < 0.8:
        node.op_type, node.domain = "f0", "local"
    saved(path, model)


def attribute_spoilt(random: Random, folder: Path) -> None:
    """An attribute with extreme numbers, another type, or a name of another operator's."""
    path, model = opened(random, folder)
    nodes = [node for node in model.graph.node if node.attribute]
    if not nodes or random.random() < 0.3:
        node = random.choice(list(model.graph.node))
        name = random.choice(["axis", "perm", "pads", "to", "group", "num_heads", "blocksize", "keepdims", "equation"])
        values = [random.choice(EXTREME), random.choices(EXTREME, k=4), "a" * 10_000, 1e38, "ij,jk->ik", np.nan]
        node.attribute.append(helper.make_attribute(name, random.choice(values)))
    else:
        one = random.choice(list(random.choice(nodes).attribute))
        if one.type == onnx.AttributeProto.INT:
            one.i = random.choice(EXTREME)
        elif one.type == onnx.AttributeProto.INTS and one.ints:
            one.ints[random.randrange(len(one.ints))] = random.choice(EXTREME)
        else:
            one.type = random.randrange(15)
    saved(path, model)


def memory_grown(random: Random, folder: Path) -> None:
    """Arrays of up to 10**15 numbers from a few: shapes that are stored or computed, products, doublings."""
    path, model = opened(random, folder)
    graph, node = model.graph, helper.make_node
    count = random.choice([10**4, 10**6, 10**8, 4 * 10**8, 10**9, 10**12, 10**15, 2**62])
    root = min(int(count**0.5), 30_000)
    arrays = {
        "g_n": np.array([count], np.int64),
        "g_one": np.array([1.0], np.float32),
        "g_root": np.array([[root]], np.int64),
        "g_col": np.ones((root, 1), np.float32),
        "g_row": np.ones((1, root), np.float32),
        "g_scale": np.array([float(count)], np.float32),
        "g_pads": np.array([0, count], np.int64),
        "g_start": np.array(0, np.int64),
        "g_stop": np.array(count, np.int64),
        "g_step": np.array(1, np.int64),
        "g_zero": np.array(0, np.float32),
        "g_two": np.array([2], np.int64),
        "g_half": np.array([max(1, count // 2)], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in arrays.items())
    out = graph.output[0].name
    last = next(one for one in graph.node if out in one.output)
    last.output[list(last.output).index(out)] = "g_before"
    dynamic = random.random() < 0.5
    seed = "g_one"
    if dynamic:  # depends on the input, so that nothing can be made of it beforehand
        graph.node.append(node("ReduceMax", ["g_before"], ["g_flat"], keepdims=0))
        graph.node.append(node("Reshape", ["g_flat", "g_step1"], ["g_live"]))
        graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "g_step1"))
        seed = "g_live"
    doublings = min(62, max(1, count.bit_length() - 1))
    ways = {
        "ConstantOfShape": [node("ConstantOfShape", ["g_n"], ["g_big"])],
        "Computed": [node("Mul", ["g_half", "g_two"], ["g_m"]), node("Expand", [seed, "g_m"], ["g_big"])],
        "Expand": [node("Expand", [seed, "g_n"], ["g_big"])],
        "Tile": [node("Tile", [seed, "g_n"], ["g_big"])],
        "Range": [node("Range", ["g_start", "g_stop", "g_step"], ["g_r"]), node("Cast", ["g_r"], ["g_big"], to=1)],
        "Pad": [node("Pad", [seed, "g_pads"], ["g_big"])],
        "Resize": [node("Resize", [seed, "", "g_scale"], ["g_big"])],
        "MatMul": [node("Mul", ["g_col", seed], ["g_c"]), node("MatMul", ["g_c", "g_row"], ["g_big"])],
        "Outer": [node("Mul", ["g_col", seed], ["g_c"]), node("Add", ["g_c", "g_row"], ["g_big"])],
        "Einsum": [
            node("Mul", ["g_col", seed], ["g_c"]),
            node("Einsum", ["g_c", "g_row"], ["g_big"], equation="ab,cd->abcd"),
        ],
        "Concat": [node("Concat", [seed, seed], ["g_k0"], axis=0)]
        + [node("Concat", [f"g_k{i}"] * 2, [f"g_k{i + 1}"], axis=0) for i in range(doublings - 1)]
        + [node("Identity", [f"g_k{doublings - 1}"], ["g_big"])],
        "Gather": [
            node("ConstantOfShape", ["g_n"], ["g_i"], value=numpy_helper.from_array(np.array([0], np.int64))),
            node("Gather", [seed, "g_i"], ["g_big"]),
        ],
    }
    graph.node.extend(ways[random.choice(list(ways))])
    graph.node.extend(
        [
            node("ReduceMax", ["g_big"], ["g_sum"], keepdims=0),
            node("Mul", ["g_sum", "g_zero"], ["g_nothing"]),
            node("Add", ["g_before", "g_nothing"], [out]),
        ]
    )
    saved(path, model)


def ports_spoilt(random: Random, folder: Path) -> None:
    """An input or output of another name, type or shape."""
    path, model = opened(random, folder)
    port = random.choice([*model.graph.input, *model.graph.output])
    shape = port.type.tensor_type.shape
    choice = random.randrange(6)
    if choice == 0:
        port.name = random.choice(["", "x", "sample", "\x00", "a" * 10_000, model.graph.output[0].name])
    elif choice == 1:
        port.type.tensor_type.elem_type = random.choice([*range(24), 10**6])
    elif choice == 2 and shape.dim:
        shape.dim[random.randrange(len(shape.dim))].dim_value = random.choice(EXTREME)
    elif choice == 3:
        del shape.dim[:]
    elif choice == 4:
        shape.dim.add().dim_value = random.choice(EXTREME)
    else:
        port.type.sequence_type.elem_type.tensor_type.elem_type = 1
    saved(path, model)


def edges_spoilt(random: Random, folder: Path) -> None:
    """Nodes that read what is not there, or each other in a circle, or write one name twice."""
    path, model = opened(random, folder)
    nodes = list(model.graph.node)
    one, other = random.choice(nodes), random.choice(nodes)
    choice = random.randrange(5)
    if choice == 0 and one.input:
        one.input[random.randrange(len(one.input))] = random.choice(["", "nowhere", *other.output, *one.output])
    elif choice == 1:
        one.output[0] = other.output[0]
    elif choice == 2:
        model.graph.node.remove(one)
    elif choice == 3:
        one.input.extend(random.choice([["nowhere"], list(other.output), [""] * 50]))
    else:
        model.graph.initializer.add().CopyFrom(random.choice(list(model.graph.initializer)))
    saved(path, model)


def versions_spoilt(random: Random, folder: Path) -> None:
    """Versions of the format and of the operators that do not exist."""
    path, model = opened(random, folder)
    if random.random() < 0.5:
        model.ir_version = random.choice(EXTREME)
    else:
        model.opset_import[0].version = random.choice([*EXTREME, *range(5, 30)])
    saved(path, model)


def nodes_multiplied(random: Random, folder: Path) -> None:
    """Tens of thousands of chained nodes, or of tensors."""
    path, model = opened(random, folder)
    count = random.choice([1000, 60_000, 100_000])
    if random.random() < 0.3:
        model.graph.initializer.extend(numpy_helper.from_array(np.zeros(1, np.float32), f"w{i}") for i in range(count))
    else:
        first = model.graph.output[0].name
        model.graph.node.extend(
            helper.make_node("Relu", [f"r{i - 1}" if i else first], [f"r{i}"]) for i in range(count)
        )
    saved(path, model)


def wire_spoilt(random: Random, folder: Path) -> None:
    """Protobuf that parsers read differently: merged messages, long numbers, groups, endless nesting."""
    path = random.choice(models(folder))
    data = path.read_bytes()
    deep = b""
    for _ in range(random.choice([50, 300])):
        deep = b"\x0a" + _varint(len(deep)) + deep
    choice = random.randrange(7)
    if choice == 0:
        data = data + data
    elif choice == 1:
        data = data + random.choice(
            [
                b"\x08\x88\x80\x80\x00",
                b"\x0b\x0c",
                b"\xfa\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
                b"\x3a\xff\xff\xff\xff\x0f",
                b"\x3b",
            ]
        )
    elif choice == 2:
        data = b"\x08\x08\x3a" + _varint(len(deep)) + deep
    elif choice == 3:  # a graph after the graph, to be merged with it: an initializer that points outside
        entry = b"\x0a\x08location\x12\x14../../outside/canary"
        tensor = b"\x08\x01\x10\x01\x42\x01w\x6a" + _varint(len(entry)) + entry + b"\x70\x01"
        graph = b"\x2a" + _varint(len(tensor)) + tensor
        data = data + b"\x3a" + _varint(len(graph)) + graph
    elif choice == 4:
        place = random.randrange(len(data))
        data = (
            data[:place]
            + random.choice([b"\xff" * 10, b"\x80" * 20, b"\x00", b"\x3a\x02\x0a\x00", deep])
            + data[place:]
        )
    elif choice == 5:
        start, size = sorted(random.choices(range(len(data)), k=2))
        data = data[:start] + data[size:]
    else:
        data = b"\x3a" + _varint(2 ** random.choice([31, 32, 40, 62])) + data
    path.write_bytes(data)


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


GRAPHS: dict[str, Mutator] = {
    one.__name__: one
    for one in (
        external_place,
        external_range,
        tensor_spoilt,
        weights_spoilt,
        operator_changed,
        subgraph_added,
        functions_added,
        attribute_spoilt,
        memory_grown,
        ports_spoilt,
        edges_spoilt,
        versions_spoilt,
        nodes_multiplied,
        wire_spoilt,
    )
}

"""From a traced module to a Core ML package: fp16 with a few float operations, palettized weights, chunks."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export.coreml_graphs import Part
from export.facts import as_metadata
from train.errors import UserError

TARGETS = ("iOS16", "iOS17", "iOS18")
COMPUTE_UNITS = ("ALL", "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY")
NBITS = (4, 6, 8)
GROUP = 16  # output channels that share a table, where the target allows more than one table a weight
ITERATIONS = 40  # of k-means, at most
MATRIX_OPS = ("conv", "conv_transpose", "einsum", "linear", "matmul")
VERSION_KEY = "com.github.apple.ml-stable-diffusion.version"

Array = npt.NDArray[Any]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the converter's progress bars and advice off stderr."""
    import tqdm.std  # type: ignore[import-untyped]

    logging.getLogger("coremltools").setLevel(logging.ERROR)
    init = tqdm.std.tqdm.__init__

    def disabled(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **(kwargs | {"disable": True}))

    tqdm.std.tqdm.__init__ = disabled
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        tqdm.std.tqdm.__init__ = init


def convert(part: Part, target: str) -> Any:
    """An MLModel (ML program) of one module in fp16 for a deployment target, not loaded.

    Raises UserError with coremltools' own reason when it cannot.
    """
    try:
        return converted(part, target)
    except Exception as error:  # coremltools and torch.export raise whatever they meet
        raise UserError(f"coremltools cannot convert the {part.name}: {error}") from error


def converted(part: Part, target: str) -> Any:
    """What `convert` gives."""
    with quiet(), torch.no_grad():
        import coremltools as ct

        examples = tuple(example for _, example, _ in part.inputs)
        program = torch.export.export(part.module.eval(), examples).run_decompositions({})
        precision = ct.transform.FP16ComputePrecision(op_selector=half_precision(part))
        return ct.convert(
            program,
            convert_to="mlprogram",
            inputs=[ct.TensorType(name=name, shape=x.shape, dtype=dtype) for name, x, dtype in part.inputs],
            outputs=[ct.TensorType(name=name, dtype=np.float32) for name in part.outputs],
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=precision,
            skip_model_load=True,
        )


def half_precision(part: Part) -> Callable[[Any], bool]:
    """The operations that compute in fp16: all but the U-Net's sinusoids and its way from v to epsilon.

    999 times a frequency needs more than fp16's 11 bits; a loader divides epsilon's error by alpha = 0.068.
    """
    kept: set[str] = set()

    def select(op: Any) -> bool:
        if not kept:
            kept.add("")
            kept.update(float_operations(op.enclosing_block) if part.name == "unet" else ())
        return op.name not in kept

    return select


def float_operations(block: Any) -> set[str]:
    """Names of the operations before a sine or cosine, and after the last matrix product."""
    waves = [op for op in block.operations if op.op_type in ("sin", "cos")]
    return before(waves) | before([output.op for output in block.outputs])


def before(ops: list[Any]) -> set[str]:
    """Names of `ops` and of what leads to them, back to inputs, constants and matrix products."""
    names: set[str] = set()
    waiting = [op for op in ops if op is not None]
    while waiting:
        op = waiting.pop()
        if op.name in names or op.op_type in (*MATRIX_OPS, "const"):
            continue
        names.add(op.name)
        for value in op.inputs.values():
            parts = value if isinstance(value, list | tuple) else [value]
            waiting += [part.op for part in parts if getattr(part, "op", None) is not None]
    return names


def palettize(model: Any, nbits: int, target: str) -> Any:
    """The model with its weights as `nbits`-bit indices into tables of 2**nbits values.

    One table a weight; from iOS18 on one for each GROUP of output channels. The first and last convolution,
    the time embedding, and what is added rather than multiplied stay fp16.
    """
    with quiet():
        import coremltools.optimize.coreml as cto

        def table(weight: Array) -> tuple[Array, Array]:
            return kmeans(weight, 2**nbits)

        whole = cto.OpPalettizerConfig(mode="custom", lut_function=table)
        grouped = cto.OpPalettizerConfig(
            mode="custom", lut_function=table, granularity="per_grouped_channel", group_size=GROUP
        )
        config = cto.OptimizationConfig(
            global_config=grouped if target == "iOS18" else whole,
            op_type_configs={"add": None, "gather": whole},
            op_name_configs=dict.fromkeys(spared(model)),
        )
        return cto.palettize_weights(model, config)


def spared(model: Any) -> list[str]:
    """Names of the weights that stay fp16."""
    function = model.get_spec().mlProgram.functions["main"]
    operations = function.block_specializations[function.opset].operations
    convs = [op.inputs["weight"].arguments[0].name for op in operations if op.type == "conv"]
    embedding = [op.outputs[0].name for op in operations if "time_embedding" in op.outputs[0].name]
    return [*convs[:1], *convs[-1:], *(name for name in embedding if "weight" in name)]


def kmeans(weight: Array, count: int) -> tuple[Array, Array]:
    """(table of `count` values, uint8 index of each weight): k-means in one dimension.

    It runs on the distinct values with their counts: fp16 has 65,536 at most.
    """
    values, inverse, counts = np.unique(weight.reshape(-1), return_inverse=True, return_counts=True)
    points = values.astype(np.float64)
    centres = points if len(points) <= count else lloyd(points, counts, companded(points, counts, count))
    table = np.zeros(count, weight.dtype)
    table[: len(centres)] = centres
    return table, nearest(points, centres)[inverse.reshape(-1)].astype(np.uint8)


def companded(points: Array, counts: Array, count: int) -> Array:
    """`count` starting centres, as dense as the cube root of the points' density (Panter and Dite 1951)."""
    gaps = np.gradient(points)
    mass = np.cumsum(np.cbrt(counts) * np.cbrt(gaps) ** 2)
    ranks = (np.arange(count) + 0.5) / count * mass[-1]
    return np.asarray(np.interp(ranks, mass, points))


def lloyd(points: Array, counts: Array, centres: Array) -> Array:
    """Move each centre (sorted) to the mean of its points until none moves."""
    for _ in range(ITERATIONS):
        owner = nearest(points, centres)
        weights = np.bincount(owner, counts, len(centres))
        sums = np.bincount(owner, counts * points, len(centres))
        moved = np.sort(np.where(weights > 0, sums / np.maximum(weights, 1), centres))
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def nearest(points: Array, centres: Array) -> Array:
    """Index of the centre (sorted) next to each point (sorted)."""
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, points)


def describe(model: Any, part: Part, facts: dict[str, Any]) -> None:
    """Write the package's metadata; drop the date, so that the same model gives the same file."""
    metadata = model._spec.description.metadata  # get_spec() would give a copy
    metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
    metadata.shortDescription = f"{part.name} of {facts['name']}, a one-step text-to-image model"
    metadata.versionString = facts["name"]
    for key, value in as_metadata(facts).items():
        metadata.userDefined[key] = value
    if part.name == "unet":
        metadata.userDefined[VERSION_KEY] = facts["apple_version"]


def save(model: Any, path: Path) -> None:
    """Write an .mlpackage."""
    with quiet():
        model.save(str(path))
    for stray in path.glob("*debug_handle*.json"):  # the converter's notes, of no use to a loader
        stray.unlink()


def chunk(path: Path) -> tuple[Path, Path]:
    """Split a saved package into two of about the same size beside it, NAME_chunk1 and NAME_chunk2."""
    with quiet():
        from coremltools.models.utils import bisect_model

        bisect_model(str(path), str(path.parent), check_output_correctness=False)
    names = (f"{path.stem}_chunk{n}.mlpackage" for n in (1, 2))
    first, second = (path.with_name(name) for name in names)
    return first, second

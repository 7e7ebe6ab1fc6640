"""int8 weights and int8 activations, which Core ML's engines compute in int8 from iOS17 on.

coremltools' own passes insert the pairs of quantize and dequantize; the ranges of the activations, which they would
measure on a Mac, come from the reference evaluator (export.mil) on the pipeline's own inputs.
Source: coremltools, linear_quantize_activations and linear_quantize_weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from export.calibrate import BINS, Seen, best_clip
from export.coreml.convert import quiet
from export.coreml.package import load_program, save_program
from export.coreml.palettize import Layer, large_weights, run_pass
from export.coreml.run import unet_feed
from export.layers import calibration, draw
from export.mil.program import Program
from export.source import Source
from export.text import Text, told

OPERATIONS = ("conv", "linear")  # whose inputs, weights and results are int8
PROMPTS, LARGE_PROMPTS = 8, 2  # pictures whose activations are measured
MORE_STEPS = 4  # every other picture also runs the later timesteps

Array = npt.NDArray[Any]
Feed = dict[str, Array]


def unet_feeds(source: Source) -> Iterator[Feed]:
    """The U-Net's inputs for calibration prompts in one step, and for every other prompt in four."""
    asked: list[tuple[Any, ...]] = []
    hook = source.pipe.unet.register_forward_pre_hook(
        lambda _, inputs, text: asked.append((*inputs, text)), with_kwargs=True
    )
    count = LARGE_PROMPTS if source.large else PROMPTS
    try:
        for i, (ids, noise) in enumerate(calibration(source, count, batch=1)):
            with torch.no_grad():
                draw(source, ids, noise, MORE_STEPS if i % 2 and not source.large else 1)
            while asked:
                sample, timestep, given = asked.pop()
                added = given.get("added_cond_kwargs") or {}
                text = Text((given["encoder_hidden_states"],), added.get("text_embeds"))
                yield unet_feed(sample.numpy(), float(timestep), text.each(Tensor.numpy), told(source).sizes(sample))
    finally:
        hook.remove()


def quantize(package: Path, feeds: Iterable[Feed], out: Path) -> None:
    """Write an fp16 package anew with convolutions and linear layers that compute in int8.

    feeds: inputs on which the ranges of the activations are measured.
    """
    with quiet():
        program = load_program(package)
        layers = [layer for layer in large_weights(program) if layer.operation.op_type in OPERATIONS]
        names = {var.name for layer in layers for var in (layer.operation.x, *layer.operation.outputs)}
        insert_pairs(program, layers, limits_of(package, names, feeds))
        shrink_weights(program, layers)
        save_program(program, package, out, same_ports=True)


def limits_of(package: Path, names: set[str], feeds: Iterable[Feed]) -> dict[str, dict[str, Any]]:
    """Value's name -> the range over which it is quantized, as coremltools expects it."""
    program = Program(package)
    seen = {name: Seen() for name in names}

    def note(name: str, value: Tensor) -> None:
        if name in seen:
            seen[name].add(value.float().abs())

    for feed in feeds:
        program.run(feed, observe=note)
    return {name: {"rmin": -limit(values), "rmax": limit(values)} for name, values in seen.items()}


def limit(seen: Seen) -> np.float32:
    """The magnitude whose symmetric 8-bit code reproduces the observed magnitudes with the least squared error."""
    magnitudes = np.concatenate(seen.values)
    both = np.concatenate([magnitudes, -magnitudes])
    counts = np.histogram(both, BINS, (-seen.high, seen.high))[0].astype(np.float64)
    return np.float32(best_clip(counts, -seen.high, seen.high)[1])


def insert_pairs(program: Any, layers: list[Layer], limits: dict[str, dict[str, Any]]) -> None:
    """Quantize and dequantize the layers' inputs and outputs."""
    config = configuration(layer.operation.name for layer in layers)
    for name in ("insert_prefix_quantize_dequantize_pair", "insert_suffix_quantize_dequantize_pair"):
        run_pass(f"compression::{name}", program, config=config, activation_stats=limits)
    run_pass("common::dequantize_quantize_pair_elimination", program)


def shrink_weights(program: Any, layers: list[Layer]) -> None:
    """Store the layers' weights in int8, one scale per output channel."""
    run_pass("compression::linear_quantize_weights", program, config=configuration(layer.name for layer in layers))


def configuration(names: Iterable[str]) -> Any:
    """Symmetric int8 for the operations or weights of these names, and for no others."""
    import coremltools.optimize.coreml as cto

    symmetric = cto.OpLinearQuantizerConfig(mode="linear_symmetric", dtype=np.int8, weight_threshold=0)
    return cto.OptimizationConfig(op_name_configs=dict.fromkeys(names, symmetric))

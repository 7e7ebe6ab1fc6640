"""Estimates the sizes of an export's parts from the names and shapes of the checkpoint's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from train.families import KINDS
from train.folders import pipeline_kind, read_json
from train.weights.files import Weight, stored_weights

VAE_PREFIXES = {"vae_decoder": ("decoder.", "post_quant_conv."), "vae_encoder": ("encoder.", "quant_conv.")}


@dataclass(frozen=True)
class Widths:
    """Bits per stored number: in matrices, in convolution kernels, in everything else.

    row, table: extra bytes per output channel (a scale) and per weight (a table of values).
    """

    matrix: float
    kernel: float
    rest: int
    row: int = 0
    table: int = 0


# What the exporters store, see their modules (onnx.half, onnx.quantize.qdq, coreml.convert, openvino.export).
WIDTHS = {
    ("onnx", "fp32"): Widths(32, 32, 32),
    ("onnx", "fp16"): Widths(16, 16, 16),
    ("onnx", "int8"): Widths(8, 8, 32, row=5),
    ("onnx", "int8-weights"): Widths(8, 8, 32, row=4),
    ("onnx", "int4-weights"): Widths(4 + 32 / 32, 8, 32, row=4),  # an fp32 scale per 32 codes of a row
    ("coreml", "fp16"): Widths(16, 16, 16),
    ("coreml", "palettized-8bit"): Widths(8, 8, 16, table=2 * 2**8),
    ("coreml", "palettized-6bit"): Widths(6, 6, 16, table=2 * 2**6),
    ("coreml", "palettized-4bit"): Widths(4, 4, 16, table=2 * 2**4),
    ("coreml", "w8a8"): Widths(8, 8, 16, row=3),
    ("openvino", "fp32"): Widths(32, 32, 32),
    ("openvino", "fp16"): Widths(16, 16, 16),
    ("openvino", "int8"): Widths(8, 8, 16, row=3),
}
# Layers that every exporter leaves unquantized: the first and last convolution and the time embedding.
FULL_PARTS = ("time_embedding.", "conv_in.", "conv_out.")
SINGLE = ("onnx", "coreml")  # formats whose half precision spares an autoencoder that asks for single
FULL_COMPONENTS = {"onnx": ("vae_encoder",), "openvino": ("vae_encoder",)}


@dataclass(frozen=True)
class Component:
    """One part of an export."""

    name: str
    parameters: int
    checkpoint_bytes: int
    export_bytes: int


def parts_of(folder: Path) -> tuple[str, ...]:
    """The parts that every exporter writes of a checkpoint."""
    return (*pipeline_kind(folder, KINDS).encoders, "unet", *VAE_PREFIXES)


def part_weights(folder: Path, part: str, variant: str | None = None) -> dict[str, Weight]:
    """The weights of one part; an autoencoder's are divided up by their names."""
    if part not in VAE_PREFIXES:
        return stored_weights(folder / part, variant)
    stored = stored_weights(folder / "vae", variant)
    return {name: weight for name, weight in stored.items() if name.startswith(VAE_PREFIXES[part])}


def in_single(folder: Path, part: str) -> bool:
    """Whether a part is kept in single precision where an export computes in half: SDXL's autoencoder asks for it."""
    second_text = pipeline_kind(folder, KINDS).second_text
    return second_text and part in VAE_PREFIXES and bool(read_json(folder / "vae" / "config.json").get("force_upcast"))


def widths_of(format: str, part: str, widths: Widths, single: bool = False) -> Widths:
    """The widths of one part: some are not quantized. single: see `in_single`."""
    if single and format in SINGLE and widths == Widths(16, 16, 16):
        return Widths(32, 32, 32)
    spared = part in FULL_COMPONENTS.get(format, ())
    return Widths(widths.rest, widths.rest, widths.rest) if spared else widths


def component(name: str, weights: Mapping[str, Weight], widths: Widths, times: int) -> Component:
    """The sums over a part's weights."""
    return Component(
        name,
        parameters=sum(weight.count for weight in weights.values()),
        checkpoint_bytes=sum(weight.count * weight.bits // 8 for weight in weights.values()),
        export_bytes=times * sum(exported_bytes(label, weight, widths) for label, weight in weights.items()),
    )


def exported_bytes(name: str, weight: Weight, widths: Widths) -> int:
    """Bytes of one weight in the export."""
    if len(weight.shape) < 2 or any(part in name for part in FULL_PARTS):
        return weight.count * widths.rest // 8
    bits = widths.matrix if len(weight.shape) == 2 else widths.kernel
    return int(weight.count * bits / 8) + widths.row * weight.shape[0] + widths.table

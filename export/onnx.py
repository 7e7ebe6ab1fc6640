"""`python -m export.onnx CHECKPOINT --out DIR`: an ONNX bundle, written once its pictures are PyTorch's."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import onnx
import torch

from export.folder import check_free, size_mb, whole_folder
from export.graphs import (
    DecoderGraph,
    EncoderGraph,
    PlainAttention,
    TextEncoderGraph,
    UNetGraph,
    attention_as,
)
from export.half import to_fp16
from export.measure import THRESHOLDS_DB, Parity, Reference, refuse_below
from export.onnx_bundle import finish_bundle, write_bundle
from export.onnx_graph import Port, trace
from export.onnx_run import Graphs, network_of
from export.quantize import quantize
from export.report import table
from export.source import Source, open_source
from runtime.manifest import MANIFEST
from train.errors import UserError, run_command
from train.progress import progress

PRECISIONS = ("fp32", "fp16", "int8")

EXAMPLES = """examples:
  python -m export.onnx sticker-128 --out out/sticker-onnx
  python -m export.onnx path/to/checkpoint --out out/bundle --precision int8
  python -m export.onnx path/to/checkpoint --out out/bundle --overwrite --json"""


def trace_all(source: Source) -> dict[str, onnx.ModelProto]:
    """The four fp32 graphs of a checkpoint, by component; UserError with PyTorch's reason when it cannot."""
    try:
        return traced(source)
    except Exception as error:  # torch.export and its translation raise whatever they meet
        raise UserError(f"PyTorch cannot export {source.name} to ONNX: {error}") from error


def traced(source: Source) -> dict[str, onnx.ModelProto]:
    """What `trace_all` gives."""
    pipe = source.pipe
    ids = torch.from_numpy(source.encode(["a", "b"]))
    hidden = pipe.text_encoder.config.hidden_size
    latents, states = torch.zeros(2, *source.latent_shape), torch.zeros(2, ids.shape[1], hidden)
    sample, timestep = Port("sample", latents), Port("timestep", torch.tensor(999.0), batched=False)
    with attention_as(pipe.unet, PlainAttention()):
        unet_inputs = [sample, timestep, Port("encoder_hidden_states", states)]
        unet = trace(UNetGraph(pipe.unet), unet_inputs, ["out_sample"])
    text_outputs = ["last_hidden_state", "pooler_output"]
    picture = torch.zeros(2, 3, *source.image_size)
    return {
        "text_encoder": trace(TextEncoderGraph(pipe.text_encoder), [Port("input_ids", ids)], text_outputs),
        "unet": unet,
        "vae_decoder": trace(DecoderGraph(pipe.vae), [Port("latent_sample", latents)], ["sample"]),
        "vae_encoder": trace(EncoderGraph(pipe.vae), [Port("sample", picture)], ["latent_sample"]),
    }


def at_precision(graphs: Graphs, precision: str, reference: Reference) -> tuple[Graphs, dict[str, Any]]:
    """The graphs in the precision asked for, and notes for the manifest."""
    if precision == "int8":
        return quantize(graphs, reference)
    return (graphs if precision == "fp32" else {name: to_fp16(model) for name, model in graphs.items()}), {}


def export_onnx(
    source: Source,
    out: Path,
    precision: str = "fp32",
    min_psnr_db: float | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the bundle `out` of a checkpoint and return its report.

    Raises UserError, and writes nothing, when `out` is taken or a picture is below the threshold.
    """
    started = time.perf_counter()
    check_free(out, MANIFEST, overwrite)
    threshold = THRESHOLDS_DB[precision] if min_psnr_db is None else min_psnr_db
    bar = progress(f"export to ONNX {precision}", total=4)
    with bar as advance, whole_folder(out, MANIFEST, overwrite) as folder:
        reference = Reference(source)
        advance(1)
        traced = trace_all(source)
        advance(1)
        graphs, notes = at_precision(traced, precision, reference)
        write_bundle(folder, source, graphs, precision)
        advance(1)
        parity = reference.compare(network_of(folder), threshold)
        parity.notes = notes
        refuse_below(parity, f"ONNX {precision} of {source.name}")
        finish_bundle(folder, source, precision, parity)
        advance(1)
    return report(out, precision, parity, time.perf_counter() - started)


def report(out: Path, precision: str, parity: Parity, seconds: float) -> dict[str, Any]:
    """What the command prints."""
    facts = {"path": str(out), "format": "onnx", "precision": precision, "size_mb": round(size_mb(out), 2)}
    return facts | {"export_s": round(seconds, 1)} | parity.to_json()


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "python -m export.onnx", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", help="a diffusers pipeline folder, or the name of a shipped one")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle; must not exist")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--min-psnr-db", type=float, help="least PSNR of a picture; default 50, 35, 28")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export at --out")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    check_free(args.out, MANIFEST, args.overwrite)
    source = open_source(args.checkpoint)
    facts = export_onnx(source, args.out, args.precision, args.min_psnr_db, args.overwrite)
    print(json.dumps(facts, indent=2) if args.json else table(facts))


if __name__ == "__main__":
    run_command(main)

"""`python -m export.coreml CHECKPOINT --out DIR`: Core ML packages for Apple's loaders, verified anywhere.

Without a Mac the packages are computed by a reference evaluator of their programs (export.mil) and refused
when their pictures are not PyTorch's; on macOS Core ML itself predicts as well.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from export import coreml_convert
from export.coreml_convert import COMPUTE_UNITS, NBITS, TARGETS
from export.coreml_graphs import parts
from export.coreml_run import NEEDS_MACOS, evaluated, on_macos, predicted
from export.facts import model_facts
from export.folder import check_free, size_mb, whole_folder
from export.graphs import PlainAttention, attention_as
from export.measure import THRESHOLDS_DB, Measure, Parity, Reference, not_run, refuse_below
from export.onnx_bundle import write_tokenizer
from export.report import line, table
from export.source import Source, open_source
from export.split_einsum import split_einsum
from runtime.bundle import describe_files
from train.errors import run_command
from train.progress import progress

MARKER = "export.json"
APPLE_VERSION = "1.1.0"  # of ml-stable-diffusion, whose conventions the packages follow
SWIFT_NAMES = {
    "text_encoder": "TextEncoder", "unet": "Unet", "unet_chunk1": "UnetChunk1", "unet_chunk2": "UnetChunk2",
    "vae_decoder": "VAEDecoder",
}

EXAMPLES = """examples:
  python -m export.coreml sticker-128 --out out/sticker-coreml --quantize-nbits 6
  python -m export.coreml path/to/checkpoint --out out/ane --attention-implementation SPLIT_EINSUM
  python -m export.coreml path/to/checkpoint --out out/swift --bundle-resources-for-swift-cli"""


def package_name(model: str, part: str) -> str:
    """The file name that Apple's Python pipeline looks for."""
    return f"Stable_Diffusion_version_{model}_{part}.mlpackage".replace("/", "_")


def write_packages(folder: Path, source: Source, args: argparse.Namespace) -> dict[str, Path]:
    """Convert every part into `folder`; the packages by part."""
    split = args.attention_implementation == "SPLIT_EINSUM"
    unet = source.pipe.unet
    found: dict[str, Path] = {}
    with split_einsum(unet) if split else attention_as(unet, PlainAttention()):
        for part in parts(source):
            model = coreml_convert.convert(part, args.min_deployment_target)
            if args.quantize_nbits:
                model = coreml_convert.palettize(model, args.quantize_nbits, args.min_deployment_target)
            coreml_convert.describe(model, part, facts_of(source, args))
            found[part.name] = folder / package_name(source.name, part.name)
            coreml_convert.save(model, found[part.name])
    if args.chunk_unet:
        found["unet_chunk1"], found["unet_chunk2"] = coreml_convert.chunk(found["unet"])
    return found


def facts_of(source: Source, args: argparse.Namespace) -> dict[str, Any]:
    """The facts of an ONNX bundle's manifest, and how the packages were made."""
    return model_facts(source, precision(args)) | {
        "attention_implementation": args.attention_implementation,
        "min_deployment_target": args.min_deployment_target,
        "compute_unit": args.compute_unit,
        "unet_output": "epsilon",
        "apple_version": APPLE_VERSION,
    }


def precision(args: argparse.Namespace) -> str:
    """fp16, or the bits of a palettized weight."""
    return f"palettized-{args.quantize_nbits}bit" if args.quantize_nbits else "fp16"


def verify(source: Source, packages: dict[str, Path], args: argparse.Namespace) -> Parity:
    """Compare every package and the whole picture with PyTorch; UserError below the threshold."""
    threshold = THRESHOLDS_DB[precision(args)] if args.min_psnr_db is None else args.min_psnr_db
    reference = Reference(source)
    what = f"Core ML {precision(args)} of {source.name}"
    parity = reference.compare(evaluated(packages, source.scaling_factor), threshold)
    refuse_below(parity, what)
    real: Measure = not_run(NEEDS_MACOS)
    if on_macos():
        device = reference.compare(predicted(packages, source.scaling_factor, args.compute_unit), threshold)
        refuse_below(device, f"{what}, predicted by Core ML,")
        real = device.picture
    parity.notes = {"computed_by": "reference evaluator (export.mil)", "real_prediction": real}
    return parity


def write_resources(folder: Path, source: Source, packages: dict[str, Path]) -> list[str]:
    """Resources/ for Apple's Swift package: tokenizer and packages; the commands that compile them."""
    resources = folder / "Resources"
    write_tokenizer(resources, source)
    for path in resources.iterdir():
        if path.name not in ("vocab.json", "merges.txt"):
            path.unlink()
    for part, path in packages.items():
        shutil.copytree(path, resources / f"{SWIFT_NAMES[part]}.mlpackage")
    return [f"xcrun coremlcompiler compile {SWIFT_NAMES[part]}.mlpackage ." for part in packages]


def export_coreml(source: Source, args: argparse.Namespace) -> dict[str, Any]:
    """Write the folder `args.out` and return its report.

    Raises UserError, and writes nothing, when the folder is taken or a picture is below the threshold.
    """
    facts = facts_of(source, args) | {"format": "coreml"}
    bar = progress("export to Core ML", 3)
    with bar as advance, whole_folder(args.out, MARKER, args.overwrite) as folder:
        packages = write_packages(folder, source, args)
        advance(1)
        facts |= verify(source, packages, args).to_json()
        advance(1)
        if args.bundle_resources_for_swift_cli:
            facts["compile"] = write_resources(folder, source, packages)
        marker = facts | source.facts() | {"files": describe_files(folder)}
        (folder / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
        advance(1)
    return {"path": str(args.out), "size_mb": round(size_mb(args.out), 2)} | facts


def parser() -> argparse.ArgumentParser:
    """The command line, its options named as Apple's converter names them."""
    made = argparse.ArgumentParser(
        "python -m export.coreml", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("checkpoint", help="a diffusers pipeline folder, or the name of a shipped one")
    made.add_argument("--out", type=Path, required=True, help="folder of the packages; must not exist")
    made.add_argument("--quantize-nbits", type=int, choices=NBITS, help="palettize weights; default: fp16")
    made.add_argument(
        "--attention-implementation", choices=("ORIGINAL", "SPLIT_EINSUM"), default="ORIGINAL",
        help="ORIGINAL for the GPU, SPLIT_EINSUM for the Neural Engine",
    )
    made.add_argument("--compute-unit", choices=COMPUTE_UNITS, default="ALL", help="for predictions on macOS")
    made.add_argument("--min-deployment-target", choices=TARGETS, default="iOS16")
    made.add_argument("--chunk-unet", action="store_true", help="also write the U-Net in two halves")
    made.add_argument(
        "--bundle-resources-for-swift-cli", action="store_true",
        help="also write Resources/ for Apple's Swift package",
    )
    made.add_argument(
        "--check-output-correctness", action="store_true",
        help="report the comparison on a device as well, run or not run",
    )
    made.add_argument(
        "--min-psnr-db", type=float, help="least PSNR of a picture; default 35, palettized 28, 20, 12"
    )
    made.add_argument("--overwrite", action="store_true", help="replace an earlier export at --out")
    made.add_argument("--json", action="store_true", help="print the report as JSON")
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return made


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    check_free(args.out, MARKER, args.overwrite)
    facts = export_coreml(open_source(args.checkpoint), args)
    if args.json:
        print(json.dumps(facts, indent=2))
        return
    print(table(facts))
    if args.check_output_correctness:
        print(line("on device", facts["real_prediction"]))
    if "compile" in facts:
        state = "run on this Mac" if on_macos() else f"not run: {NEEDS_MACOS}"
        print(f"compile ({state}):", f"cd {args.out / 'Resources'}", *facts["compile"], sep="\n  ")


if __name__ == "__main__":
    run_command(main)

"""Checkpoints as people bring them, exported and drawn by the runtime, beside diffusers' own pipeline.

`python -m scripts.matrix sd-turbo sdxs-512-0.9 --out DIR` builds models of scripts/zoo.py, exports each to ONNX, draws
in 1, 2 and 4 steps from prompts and seeds alone, and prints how far the pictures are from diffusers', in dB of PSNR.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import runtime
from runtime.command import Parser, command_parser, print_result, run_command, tell
from runtime.errors import UserError

PROMPTS = ("a red fox", "a photograph of an old lighthouse at dusk, oil on canvas")
STEPS = (1, 2, 4)
PRECISIONS = ("fp32", "int8")
LEAST_DB = {"fp32": 60.0, "int8": 35.0}
EXAMPLES = """examples:
  python -m scripts.matrix sd-turbo lcm-dreamshaper --out /tmp/matrix
  python -m scripts.matrix sd-turbo --out /tmp/matrix --precision fp32"""


def by_diffusers(pipe: Any, steps: int) -> npt.NDArray[np.float32]:
    """Pictures f32[N,H,W,3] in [0,1] by the checkpoint's own pipeline, without guidance of two evaluations."""
    import torch

    options: dict[str, Any] = {} if "LatentConsistency" in type(pipe).__name__ else {"guidance_scale": 0.0}
    made = [
        pipe(
            prompt,
            num_inference_steps=steps,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
            **options,
        ).images
        for seed, prompt in enumerate(PROMPTS)
    ]
    return np.concatenate(made)


def by_runtime(pipe: runtime.Pipeline, steps: int) -> npt.NDArray[np.float32]:
    """The same by the bundle's pipeline."""
    drawn = pipe(list(PROMPTS), seed=list(range(len(PROMPTS))), num_inference_steps=steps, output_type="np")
    return np.asarray(drawn, np.float32)


def compared(folder: Path, bundle: Path) -> dict[int, float]:
    """Number of steps -> dB of the worst picture."""
    from diffusers import DiffusionPipeline

    from export.checks.measure import psnr_db

    judge = DiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    judge.set_progress_bar_config(disable=True)
    ours, found = runtime.load(bundle, "cpu"), {}
    for steps in STEPS:
        pairs = zip(by_diffusers(judge, steps), by_runtime(ours, steps), strict=True)
        found[steps] = min(psnr_db(theirs, mine, peak=1.0) for theirs, mine in pairs)
    return found


def exported(folder: Path, out: Path, precision: str) -> Path:
    """The bundle of a checkpoint, exported as its user would."""
    from export.onnx.__main__ import main as export

    arguments = [str(folder), "--out", str(out), "--precision", precision, "--overwrite", "--no-room-check"]
    if code := export(arguments):
        raise UserError(f"export of {folder.name} in {precision} ended with {code}")
    return out


def row(name: str, out: Path, precision: str) -> dict[int, float]:
    """Builds, exports and compares one model."""
    from scripts.zoo import main as zoo

    folder = out / "zoo" / name
    if not folder.is_dir() and zoo([name, "--out", str(out / "zoo")]):
        raise UserError(f"the zoo cannot build {name}")
    return compared(folder, exported(folder, out / f"{name}-{precision}", precision))


def parser() -> Parser:
    """The command line."""
    made = command_parser("scripts.matrix", __doc__, EXAMPLES, json=False)
    made.add_argument("names", nargs="+", metavar="NAME", help="models of scripts/zoo.py that are pipeline folders")
    made.add_argument("--out", type=Path, required=True, help="folder for models and bundles")
    made.add_argument("--precision", choices=PRECISIONS, action="append", help="default: each of them")
    return made


def work(args: argparse.Namespace) -> int:
    """Print a line for each model and precision; 1 when one is below its limit."""
    warnings.simplefilter("ignore")
    below = 0
    for name in args.names:
        for precision in args.precision or PRECISIONS:
            tell(f"{name}, {precision}")
            found = row(name, args.out, precision)
            below += min(found.values()) < LEAST_DB[precision]
            cells = " | ".join(f"{found[steps]:.1f}" for steps in STEPS)
            print_result(f"| {name} | ONNX {precision} | {cells} |")
    return int(below > 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())

"""What the exporters' commands have in common."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from export.checkpoint.changes import add_change_options, brought
from export.picture_size import Size, several
from export.plan import check_room, plan, show_plan
from runtime.command import print_result


def add_export_options(parser: argparse.ArgumentParser, makes: str) -> None:
    """Add the options that every exporter has.

    They are checkpoint, --out, those of `add_checkpoint_options`, --prompts, --overwrite, --dry-run, --no-room-check.
    makes: what the --out folder will hold, for --help.
    """
    parser.add_argument(
        "checkpoint",
        help="a pipeline folder, a .safetensors file, a hub id in the local cache, or a shipped one's name",
    )
    parser.add_argument("--out", type=Path, required=True, help=f"folder of {makes}; must not exist")
    add_checkpoint_options(parser)
    add_prompts_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export at --out")
    parser.add_argument(
        "--dry-run", action="store_true", help="print sizes and the disk space and memory needed, and write nothing"
    )
    add_room_option(parser)


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which checkpoint is meant: --variant and those of `add_change_options`."""
    add_variant_option(parser)
    add_change_options(parser)


def add_variant_option(parser: argparse.ArgumentParser) -> None:
    """Add --variant NAME."""
    parser.add_argument(
        "--variant",
        metavar="NAME",
        help="weight files to open, such as fp16 for unet/diffusion_pytorch_model.fp16.safetensors (default: the files "
        "without such a name, or the only ones)",
    )


def add_prompts_option(parser: argparse.ArgumentParser) -> None:
    """Add --prompts FILE."""
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="prompts to calibrate and compare with, like those the model was trained on, one per line; the first four "
        "are compared (default: the checkpoint's own prompts.txt, else everyday sentences)",
    )


def add_room_option(parser: argparse.ArgumentParser) -> None:
    """Add --no-room-check."""
    parser.add_argument(
        "--no-room-check", action="store_true", help="start even if disk space or memory seem insufficient"
    )


def only_planned(
    args: argparse.Namespace,
    format: str,
    precision: str,
    times: Mapping[str, int] | None = None,
    others: Sequence[Size] = (),
) -> bool:
    """With --dry-run print the plan (JSON with --json) and say True; else check the room and say False.

    args.checkpoint becomes the folder with the options' changes made. args: with checkpoint, those of
    add_checkpoint_options, out, dry_run, no_room_check and json. others: sizes of pictures besides the checkpoint's.
    Raises UserError.
    """
    named, args.checkpoint = Path(args.checkpoint), brought(args)
    pixels = max((height * width for height, width in several(args.checkpoint, others)), default=0)
    made = plan(args.checkpoint, format, precision, times, args.variant, pixels)
    if args.dry_run:
        shown = replace(made, checkpoint=named)
        print_result(json.dumps(shown.to_json(), indent=2) if args.json else show_plan(shown))
    elif not args.no_room_check:
        check_room(made, args.out)
    return bool(args.dry_run)

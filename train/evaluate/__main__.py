"""`python -m train.evaluate CHECKPOINT|BUNDLE`: figures of a student beside its teacher, and contact sheets."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from runtime.errors import UserError
from runtime.files import write_text
from train.checkpoint import load_pipeline
from train.errors import run_command
from train.evaluate.evaluation import (
    make_evaluation,
    print_table,
    report,
    sheet_prompts,
    write_comparison,
    write_sheet,
)
from train.evaluate.feature_sets import FEATURE_SETS, refuse_own_features
from train.evaluate.generators import bundle_generator, checkpoint_generator, find_subject, require_device
from train.run.telemetry import say
from train.student import count_parameters


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  python -m train.evaluate sticker-128 --data data/stickers\n"
        "  python -m train.evaluate sticker-128 --data data/stickers --n 64 --compare compare.png --out figures.json\n"
        "  python -m train.evaluate sticker-128 --sheet-only --sheet sheet.png",
    )
    add = parser.add_argument
    add("subject", metavar="CHECKPOINT|BUNDLE", help="a student's pipeline folder, bundle, or name")
    add("--teacher", default="sticker-128-teacher", help="its teacher's pipeline folder or name")
    add("--data", type=Path, default=Path("data/stickers"), help="folder made by train.data")
    add("--n", type=int, default=500, help="pictures a split (default 500)")
    add("--steps", type=int, nargs="+", default=[1, 2, 4], help="the student's numbers of steps")
    add("--teacher-steps", type=int, default=50, help="the teacher's number of steps (default 50)")
    add("--guidance", type=float, default=2.0, help="of the teacher")
    add("--within", type=int, default=16, help="prompts a split with 8 seeds each, for diversity (default 16, 0: none)")
    add("--features", choices=FEATURE_SETS, default="lite0", help="network of the figures (default lite0)")
    add("--features-path", default="facebook/dinov2-small", metavar="FOLDER", help="of --features dinov2")
    add("--allow-discriminator-features", action="store_true", help="also if the discriminator used the same")
    add("--text-embedder", choices=("minilm", "words"), default="minilm", help="of the alignment; words: no download")
    add("--inception", type=Path, metavar="FILE", help="TorchScript Inception (inception-2015-12-05.pt): FID as well")
    add("--clip", type=Path, metavar="FOLDER", help="a transformers CLIPModel: CLIP score as well")
    add("--sheet", type=Path, metavar="PNG", help="also write the student's pictures for up to 32 prompts")
    add("--prompts", type=Path, metavar="FILE", help="of the sheets, one on each line (default: captions of the data)")
    add("--compare", type=Path, metavar="PNG", help="also write teacher and student side by side")
    add("--sheet-only", action="store_true", help="no figures")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda (default: what there is)")
    add("--out", type=Path, metavar="FILE", help="also write the figures there (JSON)")
    add("--json", action="store_true", help="print the figures as JSON")
    return parser


def main(argv: list[str]) -> None:
    args = _parser().parse_args(argv)
    _check(args)
    folder, bundled = find_subject(args.subject)
    if not args.sheet_only and (line := refuse_own_features(args.features, folder, args.allow_discriminator_features)):
        say(line)
    pipeline = None if bundled else load_pipeline(folder).to(args.device)
    student = bundle_generator(folder) if pipeline is None else checkpoint_generator(pipeline, 1.0)
    prompts = sheet_prompts(args.prompts, args.data, folder) if args.sheet or args.compare else ()
    if args.sheet:
        write_sheet(args.sheet, student, prompts)
    if args.sheet_only and not args.compare:
        return
    teacher_pipeline = load_pipeline(args.teacher).to(args.device)
    teacher = checkpoint_generator(teacher_pipeline, args.guidance)
    if args.compare:
        write_comparison(args.compare, student, teacher, args.steps, args.teacher_steps, prompts)
    if args.sheet_only:
        return
    figures = report(make_evaluation(args), student, teacher, args.steps, args.teacher_steps, args.within)
    student_size = count_parameters(pipeline.unet) if pipeline else None  # a bundle's graphs do not tell
    figures["params"] = {"student": student_size, "teacher": count_parameters(teacher_pipeline.unet)}
    figures |= {"features": args.features, "text_embedder": args.text_embedder, "guidance": args.guidance}
    if args.out:
        write_text(args.out, json.dumps(figures, indent=2) + "\n")
    if args.json:
        print(json.dumps(figures))
    else:
        print_table(figures)


def _check(args: argparse.Namespace) -> None:
    """Raises UserError on numbers out of range, and when --sheet-only has nothing to do."""
    if args.sheet_only and not (args.sheet or args.compare):
        raise UserError("--sheet-only needs --sheet PNG or --compare PNG")
    if not all(1 <= count <= 1000 for count in (*args.steps, args.teacher_steps)):
        raise UserError("--steps and --teacher-steps must be 1 to 1000")
    if args.within < 0:
        raise UserError(f"--within {args.within}: 0 or more prompts")
    require_device(args.device)


if __name__ == "__main__":
    run_command(main)

"""`python -m train.sticker.release`: a stage of the release model's training, for so many minutes, from where it was.

Each stage is one of the training commands with the recipe's settings. What a stage leaves in OUT/STAGE is where the
next call goes on, on a CPU or on a GPU.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from runtime.command import Parser, command_parser, print_result, run_command
from runtime.errors import UserError
from runtime.files import check_folder, whole_folder
from train.config import DEVICES, PRECISIONS
from train.folders import read_json
from train.opening.resolve import resolve_checkpoint
from train.run.engine import choose_device
from train.run.options import ABOVE_NONE, DRAWING_RANGES, MOST, PRECISION_HELP, RUN_RANGES, add_number, check_ranges
from train.world.source import is_world
from train.world.stream import POOL

EXAMPLES = """examples:
  python -m train.sticker.release --stage practice --minutes 60
  python -m train.sticker.release --stage teacher --minutes 10 --device cuda --workers 14 --window 8
  python -m train.sticker.release --pieces out/pieces                # what another machine needs, to be copied there
OUT/STAGE/pipeline (of autoencoder: OUT/autoencoder/vae) is what a stage has made so far."""
STUDENT, TEACHER = "sticker-128", "sticker-128-teacher"  # where the first call of a stage begins
ENDLESS = 10**8  # steps: the minutes end a call
ATTENTION = 1  # the stage of the U-Nets, at 8 x 8, in which attention to the text is added
PIECE_MIB = 60


@dataclass(frozen=True)
class Call:
    """What the command line says of a stage."""

    data: Path
    out: Path
    minutes: float
    device: str
    precision: str
    batch: int  # 0: the recipe's
    threads: int
    workers: int
    window: int
    reuse: int
    pool: int
    save_every: int
    ema: float  # 0: the recipe's

    def folder(self, stage: str) -> Path:
        """The run folder of a stage."""
        return self.out / stage

    def result(self, stage: str, name: str = "pipeline") -> Path | None:
        """What a stage has made so far; None before its first call ended."""
        folder = self.folder(stage) / name
        return folder if folder.is_dir() else None

    def size(self, cpu: int, cuda: int) -> int:
        """The batch: as asked for, or the recipe's on this device."""
        return self.batch or (cuda if choose_device(self.device) == "cuda" else cpu)


def autoencoder(call: Call) -> list[str]:
    """The decoder is refitted to the world's pictures; the encoder, and so every latent, stays."""
    start = call.result("autoencoder", "vae") or resolve_checkpoint(TEACHER) / "vae"
    fixed = ["--start", str(start), "--max-steps", "20000", "--pictures", str(2 * call.pool)]
    return [*_shared(call, "autoencoder", call.size(16, 256)), *fixed]


def practice(call: Call) -> list[str]:
    """The student learns to draw in one step from words that say everything, and its text encoder learns with it."""
    start = call.result("practice", "start") or resolve_checkpoint(STUDENT)
    return [
        *_shared(call, "practice", call.size(48, 1024)),
        *_diffusion(call, start, start, general=0.1, partial=0.15),
        *("--student", "full", "--train-text", "--drop-text", "0.02", "--last", "0.9", "--power", "0.8"),
        *("--lr", "6e-4", "--ema", str(call.ema or 0.998), "--max-steps", str(ENDLESS)),
    ]


def teacher(call: Call) -> list[str]:
    """The teacher learns to denoise, with the practised text encoder."""
    text = call.result("practice")
    if text is None:
        raise UserError(
            f"--stage teacher needs the text encoder of {call.folder('practice')}: run --stage practice first"
        )
    start = call.result("teacher", "start") or resolve_checkpoint(TEACHER)
    return [
        *_shared(call, "teacher", call.size(32, 512)),
        *_diffusion(call, start, text, general=0.25, partial=0.3),
        *("--shared", "0", "--last", "0.1", "--power", "0.8", "--lr", "3e-4", "--ema", str(call.ema or 0.999)),
        *("--max-steps", str(ENDLESS)),
    ]


def distillation(call: Call) -> list[str]:
    """ADD: the practised student against the discriminator, guided by the teacher."""
    guide, start = call.result("teacher"), call.result("distillation", "start") or call.result("practice")
    if guide is None or start is None:
        raise UserError("--stage distillation needs what --stage practice and --stage teacher make: run those first")
    batch = call.size(24, 256)
    settings = {
        "teacher": guide,
        "init": start,
        "data": call.data,
        "run_dir": call.folder("distillation"),
        "student": "full",
        "compositions": 0,
        "general": 0.1,
        "partial": 0.15,
        "max_steps": ENDLESS,
        "minutes": call.minutes,
        "batch": batch,
        "adversarial_batch": batch,
        "save_every": call.save_every,
        "reuse": call.reuse,
        "window": call.window,
        "workers": call.workers,
        "pool": call.pool,
        "device": call.device,
        "precision": call.precision,
        "threads": call.threads,
        "decay_from": 1,
    }
    if call.ema:
        settings["ema"] = call.ema
    return ["--preset", "sticker", *(f"{name}={value}" for name, value in settings.items())]


def _shared(call: Call, stage: str, batch: int) -> list[str]:
    """The flags of every command but ADD's."""
    said = {
        "data": call.data,
        "out": call.folder(stage),
        "minutes": call.minutes,
        "device": call.device,
        "precision": call.precision,
        "threads": call.threads,
        "batch": batch,
        "save-every": call.save_every,
    }
    return [part for name, value in said.items() for part in (f"--{name}", str(value))]


def _diffusion(call: Call, start: Path, text: Path, *, general: float, partial: float) -> list[str]:
    """The flags of train.teacher: what it begins with, and how the world is drawn. Raises UserError."""
    vae = call.result("autoencoder", "vae") or resolve_checkpoint(TEACHER) / "vae"
    said = {
        "start": start,
        "text": text,
        "vae": vae,
        "general": general,
        "partial": partial,
        "reuse": call.reuse,
        "window": call.window,
        "workers": call.workers,
        "pool": call.pool,
        "decay-from": 1,
    }
    if not attends(start):
        said["attention"] = ATTENTION
    return [part for name, value in said.items() for part in (f"--{name}", str(value))]


def attends(checkpoint: Path) -> bool:
    """Whether the U-Net of a pipeline folder attends to the text at 8 x 8 already. Raises UserError."""
    kinds = read_json(checkpoint / "unet" / "config.json").get("down_block_types") or []
    return len(kinds) > ATTENTION and kinds[ATTENTION] == "CrossAttnDownBlock2D"


STAGES: dict[str, tuple[str, Callable[[Call], list[str]]]] = {
    "autoencoder": ("train.autoencoder", autoencoder),
    "practice": ("train.teacher", practice),
    "teacher": ("train.teacher", teacher),
    "distillation": ("train", distillation),
}


def run_stage(stage: str, call: Call) -> int:
    """Run a stage's command in this process; returns its exit code. Raises UserError."""
    from train.__main__ import main as distil
    from train.autoencoder import main as fit_decoder
    from train.teacher import main as train_unet

    mains = {"train.autoencoder": fit_decoder, "train.teacher": train_unet, "train": distil}
    module, arguments = STAGES[stage]
    return mains[module](arguments(call))


# ---- what travels ------------------------------------------------------------------------------------------------


def travelling(call: Call) -> list[Path]:
    """The files that another machine needs to go on: the data, and what the stages have made so far."""
    folders = [call.data, *(call.folder(stage) / name for stage in STAGES for name in ("pipeline", "vae"))]
    return [path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*")) if path.is_file()]


def pieces_of(files: Sequence[Path], most: int) -> list[list[Path]]:
    """The files in order, in as few groups of at most `most` bytes as that takes. Raises UserError at a larger file."""
    pieces: list[list[Path]] = []
    room = 0
    for path in files:
        size = path.stat().st_size
        if size > most:
            raise UserError(f"{path} has {size / 2**20:.1f} MiB, a piece {most / 2**20:.1f}")
        if size > room or not pieces:
            pieces.append([])
            room = most
        pieces[-1].append(path)
        room -= size
    return pieces


def write_pieces(call: Call, target: Path, most: int) -> list[int]:
    """Fill target/piece-N with copies of the files, at their places below the working folder; returns bytes of each.

    A stage's pipeline travels as OUT/STAGE/start, where its first call on the other machine begins. Raises UserError.
    """
    files = travelling(call)
    if not files:
        raise UserError(f"nothing to take along: neither {call.data} nor {call.out} holds a file")
    pieces, here = pieces_of(files, most), Path.cwd()
    with whole_folder(target) as folder:
        for number, piece in enumerate(pieces):
            for path in piece:
                if not path.resolve().is_relative_to(here):
                    raise UserError(
                        f"{path} lies outside the working folder: start the command where data and runs are"
                    )
                place = path.resolve().relative_to(here)
                parts = ["start" if part == "pipeline" else part for part in place.parts]
                place_there = folder / f"piece-{number}" / Path(*parts)
                place_there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place_there)
    return [sum(path.stat().st_size for path in piece) for piece in pieces]


# ---- the command -------------------------------------------------------------------------------------------------


def parser() -> Parser:
    """The command line."""
    made = command_parser("train.sticker.release", __doc__, EXAMPLES, json=False)
    which = made.add_mutually_exclusive_group(required=True)
    which.add_argument("--stage", choices=tuple(STAGES))
    which.add_argument("--pieces", type=Path, metavar="DIR", help=f"write what travels there, {PIECE_MIB} MiB a folder")
    add_number(made, "--minutes", 15.0, "how long, from the call's first step on")
    made.add_argument("--data", type=Path, default=Path("data/world"), help="made by train.data world")
    made.add_argument("--out", type=Path, default=Path("runs/release"), help="the stages' run folders")
    add_number(made, "--batch", 0, "0: the recipe's for this device")
    add_number(made, "--ema", 0.0, "decay of the averaged weights, which are what is kept; 0: the recipe's")
    add_number(made, "--save-every", 500, "steps between checkpoints")
    add_number(made, "--workers", 0, "processes that draw pictures ahead; on a GPU all cores but two")
    add_number(made, "--window", 1, "pools of 4,096 pictures in use at once; on a GPU 8")
    add_number(made, "--reuse", 8, "how often a picture is given, with other captions")
    add_number(made, "--pool", POOL, "pictures drawn at a time")
    add_number(made, "--threads", 0, "torch threads; 0 keeps torch's default")
    made.add_argument("--device", choices=DEVICES, default="auto", help="auto (default): the GPU where there is one")
    made.add_argument("--precision", choices=PRECISIONS, default="auto", help=PRECISION_HELP)
    return made


def work(args: argparse.Namespace) -> None:
    """Run the stage, or write the pieces."""
    check_ranges(
        args,
        RUN_RANGES | DRAWING_RANGES | {"minutes": (ABOVE_NONE, MOST), "batch": (0, MOST), "ema": (0, 1)},
    )
    said = vars(args)
    call = Call(**{name: said[name] for name in Call.__dataclass_fields__})
    if args.pieces:
        check_folder(args.pieces)
        sizes = write_pieces(call, args.pieces, PIECE_MIB * 2**20)
        print_result("\n".join(f"{args.pieces}/piece-{n}: {size / 2**20:.1f} MiB" for n, size in enumerate(sizes)))
        return
    if not is_world(args.data):
        raise UserError(f"{args.data} holds no world: make it with `python -m train.data world --out {args.data}`")
    torch.set_float32_matmul_precision("high")
    if code := run_stage(args.stage, call):
        sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())

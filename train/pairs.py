"""`python -m train.pairs`: noise and the pictures that a teacher makes of it, for the regression of a distillation."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.command import Parser, command_parser, print_result, run_command, whole
from runtime.errors import UserError
from runtime.files import check_folder, write_text
from train.checkpoint import load_pipeline
from train.data.encoders import encode_captions
from train.data.pairs import PART, part_path, write_part
from train.data.shards import read_records
from train.diffusion import NoiseLevels, computes_in_bf16, sample
from train.families import KINDS
from train.opening.resolve import resolve_checkpoint
from train.progress import progress
from train.world.source import is_world
from train.world.stream import Painter

SIDE = 128  # of a world's pictures, none of which is drawn here
FIRST_SEED = 1_000_000  # of the pairs: no seed that samples and figures use
EXAMPLES = """examples:
  python -m train.pairs --teacher runs/teacher/pipeline --data data/mine --out runs/pairs
  python -m train.pairs --teacher sticker-128-teacher --data data/stickers --n 20000 --steps 20 --out runs/pairs
Then: python -m train teacher=... pairs=runs/pairs pair_batch=16"""


def parser() -> Parser:
    """The command line."""
    made = command_parser("train.pairs", __doc__, EXAMPLES, json=False)
    add = made.add_argument
    add("--teacher", required=True, metavar="CHECKPOINT", help="pipeline folder, file or name")
    add("--data", type=Path, required=True, help="folder made by train.data, whose captions are drawn")
    add("--out", type=Path, required=True, metavar="DIR")
    add("--n", type=whole(1), default=10_000, help="pairs (default 10,000)")
    add("--steps", type=whole(1, 1000), default=25, help="of the teacher (default 25)")
    add("--guidance", type=float, default=2.0, help="of the teacher (default 2)")
    add("--batch", type=whole(1), default=50, help="pictures at once (default 50)")
    add("--seed", type=int, default=0, help="of the captions (default 0)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=whole(0), default=0, help="torch threads; 0 keeps torch's default")
    return made


def work(args: argparse.Namespace) -> None:
    """Make the pairs that are not there, and print the folder."""
    print_result(str(make(args)))


def make(args: argparse.Namespace) -> Path:
    """The folder, with `args.n` pairs in it; files that are there are kept. Raises UserError."""
    check_folder(args.out)
    if args.threads:
        torch.set_num_threads(args.threads)
    captions = drawn_captions(args.data, args.n, args.seed)
    pipeline = load_pipeline(resolve_checkpoint(args.teacher), kinds=KINDS[:1])
    numbers = {key: getattr(args, key) for key in ("n", "steps", "guidance", "seed")}
    claim(args.out, {"teacher": str(args.teacher), "data": str(args.data), **numbers})
    teacher = Teacher(pipeline, args)
    with progress("pairs", args.n, "pairs") as advance:
        for part, start in enumerate(range(0, args.n, PART)):
            chosen = captions[start : start + PART]
            if not part_path(args.out, part).is_file():
                seeds = range(FIRST_SEED + start, FIRST_SEED + start + len(chosen))
                write_part(args.out, part, teacher.pictures(chosen, seeds, advance), seeds, chosen)
            else:
                advance(len(chosen))
    return Path(args.out)


class Teacher:
    """A pipeline's network and its texts, on a device."""

    def __init__(self, pipeline: Any, args: argparse.Namespace) -> None:
        self.pipeline, self.args = pipeline, args
        self.levels = NoiseLevels.of(pipeline.scheduler, args.device)
        self.unet = pipeline.unet.eval().to(args.device)
        pipeline.text_encoder.to(args.device)
        self.bf16 = computes_in_bf16(args.device)

    def pictures(self, captions: Sequence[str], seeds: Sequence[int], advance: Any) -> Tensor:
        """Latents f32[N, C, h, w], on the CPU, by guided DDIM steps from the seeds' noise."""
        args, parts = self.args, []
        texts = sorted({*captions, ""})
        states = encode_captions(self.pipeline.text_encoder, self.pipeline.tokenizer, texts)[0].float()
        rows = {text: row for row, text in enumerate(texts)}
        for start in range(0, len(captions), args.batch):
            text = states[[rows[caption] for caption in captions[start : start + args.batch]]]
            own = seeds[start : start + args.batch]
            made = sample(self.unet, text, states[rows[""]], own, args.steps, args.guidance, self.levels, self.bf16)
            parts.append(made.cpu())
            advance(len(made))
        return torch.cat(parts)


def drawn_captions(data: Path, count: int, seed: int) -> list[str]:
    """Captions as training draws them: pictures by weight, one of each picture's captions; of a world, its prompts."""
    if is_world(data):
        painter = Painter(data, SIDE, seed)
        return [painter.numbered(number).prompt for number in range(count)]
    rng, records = random.Random(seed), [record for record, _ in read_records(data, "train") if record.weight > 0]
    if not records:
        raise UserError(f"{data}: no picture of a weight above 0")
    chosen = rng.choices(records, [record.weight for record in records], k=count)
    return [rng.choice(record.captions) for record in chosen]


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Raises UserError where the folder holds pairs that were made otherwise."""
    path = out / "pairs.json"
    if path.is_file() and json.loads(path.read_text()) != settings:
        raise UserError(f"{out}: holds pairs of other settings ({path.read_text().strip()}); choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(settings) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())

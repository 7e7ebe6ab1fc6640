"""`python -m train.teacher`: a text-to-latents diffusion U-Net, v-prediction, classifier-free guidance.

With --student it trains a teacher's student instead, the way it will be used, as the start of its distillation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizerFast

from runtime.command import Parser, command_parser, print_result, run_command, tell
from runtime.errors import UserError
from train.checkpoint import as_stored, load_part, load_pipeline
from train.data.corpus import load_corpus
from train.data.encoders import Encoders
from train.data.examples import DataSource
from train.data.sources import MemorySource
from train.opening.resolve import resolve_checkpoint
from train.prompts import read_prompts, repeated, sample_prompts
from train.run.engine import Engine
from train.run.loop import run_task
from train.run.options import (
    ABOVE_NONE,
    DRAWING_RANGES,
    MOST,
    RUN_RANGES,
    add_number,
    add_run_options,
    check_ranges,
    flag,
    settings_of,
)
from train.student import STUDENTS, blocks_of, build_student, count_parameters, prune, with_attention
from train.teacher_task import Surroundings, TeacherSettings, TeacherTask
from train.weights.files import whole_file
from train.world.source import Drawing, is_world, open_world
from train.world.stream import POOL
from train.world.ways import WAYS

NAMED_STUDENTS = tuple(name for name in STUDENTS if name != "custom")  # which takes settings of its own
SHARED = 0.3  # of the steps, unless --shared says otherwise; none with --student
RANGES = (
    RUN_RANGES
    | DRAWING_RANGES
    | {
        "warmup": (0, MOST),
        "decay_from": (0, 1),
        "grad_clip": (ABOVE_NONE, MOST),
        "ema": (0, 1),
        "last": (0, 1),
        "power": (ABOVE_NONE, MOST),
        "drop_text": (0, 1),
        "shared": (0, 1),
        "compositions": (0, 0.99),
        "general": (0, 1),
        "partial": (0, 1),
        "guidance": (0, MOST),
        "sample_steps": (1, 1000),
    }
)
EXAMPLES = """examples:
  python -m train.teacher --data data/stickers --vae runs/autoencoder/vae --text runs/text_encoder --out runs/teacher
  python -m train.teacher --data data/mine --vae mine/vae --text mine/text --start sticker-128-teacher --out runs/mine
  python -m train.teacher --data data/stickers --vae runs/teacher/pipeline/vae --text runs/teacher/pipeline \\
      --start runs/teacher/pipeline --student tiny --out runs/tiny
OUT gets unet/ and pipeline/, the folder that teacher= (of --student: init=) of python -m train takes."""
IMAGE_SIZE = 128  # of a world's pictures, in pixels
SAMPLES = 16  # pictures of each kind on a sheet


def build_unet(
    latent_channels: int,
    latent_side: int,
    text_width: int,
    widths: tuple[int, ...] = (48, 96, 192, 256),
    layers: tuple[int, ...] = (1, 1, 2, 2),
    attention: tuple[bool, ...] = (False, False, True, True),
    time_width: int = 768,
) -> UNet2DConditionModel:
    """UNet2DConditionModel whose text attention sits at the low resolutions, where it is cheap.

    The text, pooled by attention, also joins the timestep embedding and so scales and shifts every residual block:
    far faster to learn than cross-attention alone.
    """
    down = tuple("CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in attention)
    up = tuple("CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(attention))
    return UNet2DConditionModel(
        sample_size=latent_side,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=widths,
        layers_per_block=layers,
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        time_embedding_dim=time_width,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def start_unet(
    checkpoint: str, no_attention: bool = False, student: str | None = None, attention: Sequence[int] = ()
) -> UNet2DConditionModel:
    """The U-Net of a checkpoint in float32, or its student of that name (train.student.STUDENTS).

    With `no_attention` only the middle block attends: the text that scales and shifts the residual blocks carries
    nearly all, and a step takes 0.6 of the time. attention: stages in which attention is added. Raises UserError.
    """
    folder = resolve_checkpoint(checkpoint)
    if whole_file(folder / "unet"):
        unet = load_pipeline(folder).unet
    else:
        unet = load_part(UNet2DConditionModel, folder / "unet", dtype=torch.float32)
    if student:
        unet = build_student(unet, student)
    layers = blocks_of(unet)
    if no_attention:
        unet = prune(unet, layers, attention=(False,) * len(layers))
    return with_attention(unet, attention) if attention else unet


def parser() -> Parser:
    """The command line."""
    made = command_parser("train.teacher", __doc__, EXAMPLES, json=False)
    number = partial(add_number, made)
    made.add_argument("--data", type=Path, required=True, help="folder made by train.data")
    made.add_argument("--vae", type=Path, required=True, help="folder of the AutoencoderTiny")
    made.add_argument("--text", type=Path, required=True, help="run folder of train.text_encoder, or a pipeline's")
    made.add_argument("--out", type=Path, required=True, help="run folder; the pipeline is in OUT/pipeline")
    made.add_argument(
        "--start", metavar="CHECKPOINT", help="begin with the U-Net of this pipeline folder, file or name"
    )
    made.add_argument("--no-attention", action="store_true", help="with --start: attention in the middle block only")
    made.add_argument(
        "--attention",
        type=int,
        nargs="+",
        default=[],
        metavar="STAGE",
        help="with --start: attention to the text is added in these stages (0: the outermost)",
    )
    made.add_argument(
        "--student",
        choices=NAMED_STUDENTS,
        help="with --start: train its student of that name instead, towards the clean latents, from "
        "noise alone where t = 999; OUT/pipeline is then the init= of a distillation",
    )
    add_run_options(made, "samples", max_steps=20_000, batch=24, log_every=100, save_every=1000)
    number("--lr", 5e-4)
    number("--warmup", 200, "steps in which lr rises to its value")
    number("--decay-from", 0.6, "share of the run after which lr falls to 0")
    number("--grad-clip", 0.2)
    number("--ema", 0.998, "decay of the averaged weights, which are what is kept")
    number("--last", 0.4, "share of pictures noised to t = 999")
    number("--power", 0.6, "of the others: t = 999 u^POWER; below 1 prefers high noise")
    number("--drop-text", 0.1, "share of captions dropped")
    made.add_argument(
        "--shared",
        type=float,
        metavar="NUMBER",
        help=f"share of steps through the student-to-be (default {SHARED}; 0 with --student)",
    )
    number("--compositions", 0.0, "share of pictures from DATA's composed split")
    made.add_argument(
        "--student-layers",
        type=int,
        nargs="+",
        default=[1, 1, 1, 1],
        metavar="NUMBER",
        help="with --shared: blocks of each stage of the student-to-be (default 1 1 1 1)",
    )
    made.add_argument(
        "--prompts", type=Path, metavar="FILE", help="of the samples, one per line (default: some of the captions)"
    )
    made.add_argument("--train-text", action="store_true", help="the text encoder learns too")
    number("--general", WAYS.general, "of a world: share of captions that do not name the thing itself")
    number("--partial", WAYS.partial, "of a world: share of captions that leave some words out")
    number("--workers", 0, "of a world: processes that draw pictures ahead")
    number("--reuse", 8, "of a world: how often a picture is given, with other captions, before others are drawn")
    number("--window", 1, "of a world: pools of pictures that are in use at once")
    number("--pool", POOL, "of a world: pictures drawn at a time")
    number("--guidance", 2.0, "of the samples")
    number("--sample-steps", 20)
    return made


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments, completed. Raises UserError where some exclude each other or a number is out of range."""
    for name in ("student", "no_attention", "attention"):
        if getattr(args, name) and not args.start:
            raise UserError(f"{flag(name)} needs --start: the teacher to begin with")
    if args.student and args.shared:
        raise UserError("--shared trains a teacher's student along with it; with --student leave it out")
    if args.shared is None:
        args.shared = 0.0 if args.student else SHARED
    check_ranges(args, RANGES)
    return args


def check_fit(unet: UNet2DConditionModel, vae: AutoencoderTiny, text_encoder: CLIPTextModel) -> None:
    """Raises UserError unless the U-Net reads what the other two give."""
    for what, ours, given in (
        ("latent channels", unet.config.in_channels, vae.config.latent_channels),
        ("text width", unet.config.cross_attention_dim, text_encoder.config.hidden_size),
    ):
        if ours != given:
            raise UserError(f"--start: its U-Net has {what} {ours}, and --vae and --text give {given}")


def work(args: argparse.Namespace) -> None:
    """Train, and write OUT/unet and OUT/pipeline."""
    print_result(str(trained(args)))


def trained(args: argparse.Namespace, unet: UNet2DConditionModel | None = None) -> Path:
    """Train as the command's arguments say; returns OUT/pipeline. Raises UserError.

    unet: to begin with, instead of the one that the arguments name.
    """
    args = checked(args)
    settings = settings_of(TeacherSettings, args)
    return run_task(partial(teacher_task, args, settings, unet=unet), settings)


def teacher_task(
    args: argparse.Namespace, settings: TeacherSettings, engine: Engine, unet: UNet2DConditionModel | None = None
) -> TeacherTask:
    """The networks and the data that the arguments name, on the engine's device. Raises UserError."""
    given = read_prompts(args.prompts) if args.prompts else ()
    torch.manual_seed(settings.seed)
    vae = as_stored(load_part(AutoencoderTiny, args.vae)).eval().to(engine.device)
    text_encoder = as_stored(load_part(CLIPTextModel, args.text / "text_encoder")).eval().to(engine.device)
    tokenizer = load_part(CLIPTokenizerFast, args.text / "tokenizer")
    if args.start:
        unet = start_unet(args.start, args.no_attention, args.student, args.attention)
    if unet is not None:
        check_fit(unet, vae, text_encoder)
    around = Surroundings(vae, text_encoder, tokenizer)
    source, captions = world_source(args, around) if is_world(args.data) else folder_source(args, around)
    around.captions = captions
    prompts = repeated(given or captions, SAMPLES)
    if unet is None:
        unet = build_unet(source.latent_shape[0], source.latent_shape[1], text_encoder.config.hidden_size)
    tell(f"{settings.student or 'teacher'}: {count_parameters(unet) / 1e6:.1f} M parameters")
    return TeacherTask(unet, source, around, prompts, settings, engine)


def folder_source(args: argparse.Namespace, around: Surroundings) -> tuple[DataSource, Sequence[str]]:
    """The pictures of a folder of shards in memory, and captions to try."""
    parts = (around.vae, around.text_encoder, around.tokenizer)
    cache = args.out / "cache"
    corpus = load_corpus(args.data, "train", *parts, cache=cache, compositions=args.compositions)
    captions = sample_prompts(caption for record in corpus.records for caption in record.captions)
    return MemorySource(corpus, around.vae.device), captions


def world_source(args: argparse.Namespace, around: Surroundings) -> tuple[DataSource, Sequence[str]]:
    """The world of a prepared folder, drawn as it is needed, and captions to try. Raises UserError."""
    if args.compositions:
        raise UserError("--compositions is for folders of shards: this world has pairs and counts of its own")
    encoders = Encoders(around.vae, around.text_encoder, around.tokenizer, IMAGE_SIZE, around.vae.device)
    source = open_world(args.data, encoders, Drawing.of(args), seed=args.seed, states=not args.train_text)
    return source, [source.painter.numbered(number).prompt for number in range(SAMPLES)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())

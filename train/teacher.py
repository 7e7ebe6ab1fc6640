"""`python -m train.teacher`: a text-to-latents diffusion U-Net, v-prediction, classifier-free guidance.

With --student it trains a teacher's student instead, as that will be used: what its distillation then starts from.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizerFast

from runtime.command import Parser, command_parser, print_result, run_command, tell
from runtime.errors import UserError
from runtime.files import whole_folder
from train.checkpoint import load_part, resolve_checkpoint, save_pipeline
from train.data.corpus import Corpus, load_corpus
from train.data.encoders import encode_texts
from train.diffusion import LAST_TIMESTEP, NoiseLevels, sample
from train.evaluate.grids import save_grid
from train.prompts import read_prompts, repeated, sample_prompts
from train.run.checkpoints import TrainingState
from train.run.ema import Ema
from train.run.learning_rate import learning_rate
from train.student import STUDENTS, blocks_of, build_student, count_parameters, prune

NAMED_STUDENTS = tuple(name for name in STUDENTS if name != "custom")  # which takes settings of its own
SHARED = 0.3  # of the steps, unless --shared says otherwise; none with --student
# What each number may be, the ends included.
ABOVE_NONE, MOST = 1e-12, 10**9
RANGES: dict[str, tuple[float, float]] = {
    "max_steps": (1, MOST),
    "batch": (1, MOST),
    "lr": (0, 1),
    "decay_from": (0, 1),
    "grad_clip": (ABOVE_NONE, MOST),
    "ema": (0, 1),
    "last": (0, 1),
    "power": (ABOVE_NONE, MOST),
    "drop_text": (0, 1),
    "shared": (0, 1),
    "compositions": (0, 0.99),
    "guidance": (0, MOST),
    "sample_steps": (1, 1000),
    "log_every": (1, MOST),
    "save_every": (1, MOST),
    "seed": (0, 2**31),
}
EXAMPLES = """examples:
  python -m train.teacher --data data/stickers --vae runs/autoencoder/vae --text runs/text_encoder --out runs/teacher
  python -m train.teacher --data data/mine --vae mine/vae --text mine/text --start sticker-128-teacher --out runs/mine
  python -m train.teacher --data data/stickers --vae runs/teacher/pipeline/vae --text runs/teacher/pipeline \\
      --start runs/teacher/pipeline --student tiny --out runs/tiny
OUT gets unet/ and pipeline/, the folder that teacher= (of --student: init=) of python -m train takes."""
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
    far quicker to learn than cross-attention alone.
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


def start_unet(checkpoint: str, no_attention: bool = False, student: str | None = None) -> UNet2DConditionModel:
    """The U-Net of a pipeline folder or name in float32, or its student of that name (train.student.STUDENTS).

    With `no_attention` only the middle block attends: the text that scales and shifts the residual blocks carries
    nearly all, and a step takes 0.6 of the time. Raises UserError.
    """
    unet = load_part(UNet2DConditionModel, resolve_checkpoint(checkpoint) / "unet", torch_dtype=torch.float32)
    if student:
        unet = build_student(unet, student)
    layers = blocks_of(unet)
    return prune(unet, layers, attention=(False,) * len(layers)) if no_attention else unet


def draw_timesteps(batch: int, rng: np.random.Generator, last: float, power: float) -> Tensor:
    """Timesteps i64[B]: exactly 999 with probability `last`, else 999 u^power of uniform u.

    power below 1 prefers high noise, where text alone must decide the picture: the part that one step needs.
    """
    timesteps = (LAST_TIMESTEP * rng.random(batch) ** power).astype(np.int64)
    timesteps[rng.random(batch) < last] = LAST_TIMESTEP
    return torch.from_numpy(timesteps)


def v_loss(unet: nn.Module, levels: NoiseLevels, x0: Tensor, eps: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
    """Mean squared error of the v prediction (Salimans & Ho 2022, appendix D)."""
    alpha, sigma = levels.at(timesteps)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = unet(levels.noised(x0, eps, timesteps), timesteps, text).sample
    return (predicted.float() - (alpha * eps - sigma * x0)).square().mean()


def x0_loss(unet: nn.Module, levels: NoiseLevels, x0: Tensor, eps: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
    """Mean squared error of the clean latents that a student sees in what it will generate from."""
    noisy = levels.generator_input(x0, eps, timesteps)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = unet(noisy, timesteps, text).sample
    return (levels.x0(noisy, predicted.float(), timesteps) - x0).square().mean()


def train_teacher(
    unet: UNet2DConditionModel, corpus: Corpus, vae: AutoencoderTiny, run_dir: Path, args: argparse.Namespace
) -> UNet2DConditionModel:
    """Run to `args.max_steps`, resuming from run_dir; returns the averaged network.

    unet: a teacher, or with `args.student` a student, which learns to give the clean latents at once. With
    probability `args.shared` a teacher's step runs through the student-to-be: the teacher's own modules without the
    blocks that pruning will remove. Both then work, and the student starts where a pruned network would need
    thousands of steps to recover. Raises UserError where run_dir holds the state of another network.
    """
    objective = x0_loss if args.student else v_loss
    compact = prune(unet, args.student_layers, share=True) if args.shared else unet
    optimizer = torch.optim.AdamW(unet.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = Ema(unet, args.ema)
    state = TrainingState(run_dir / "state", {"unet": unet, "ema": ema}, {"optimizer": optimizer})
    try:
        step, rows = state.load()
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{run_dir / 'state'}: not of this network; choose another --out, or remove it") from error
    rng, levels = np.random.default_rng([args.seed, step]), NoiseLevels()
    noise = torch.Generator().manual_seed(args.seed + step)
    started, total, count = time.monotonic(), 0.0, 0
    while step < args.max_steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.lr, args.max_steps, warmup=200, decay_from=args.decay_from)
        x0, text, _ = corpus.batch(corpus.draw(args.batch, rng), rng, drop_text=args.drop_text)
        eps = torch.randn(x0.shape, generator=noise)
        timesteps = draw_timesteps(args.batch, rng, args.last, args.power)
        network = compact if rng.random() < args.shared else unet
        loss = objective(network, levels, x0, eps, timesteps, text)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(unet.parameters(), args.grad_clip)
        optimizer.step()
        step += 1
        ema.update(unet, step)
        total, count = total + loss.item(), count + 1
        if step % args.log_every == 0 or step == args.max_steps:
            seconds = time.monotonic() - started
            rows.append(
                {
                    "step": step,
                    "loss": total / count,
                    "grad_norm": float(norm),
                    "pictures_per_s": count * args.batch / seconds,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
            started, total, count = time.monotonic(), 0.0, 0
        if step % args.save_every == 0 or step == args.max_steps:
            state.save(step, rows)
            with ema.applied(unet):
                draw_samples(unet, corpus, vae, run_dir / "samples" / f"step-{step:06d}.png", args)
    unet.load_state_dict(ema.weights)
    return unet.eval()


def draw_samples(
    unet: UNet2DConditionModel, corpus: Corpus, vae: AutoencoderTiny, path: Path, args: argparse.Namespace
) -> None:
    """A grid of the sample prompts at fixed seeds: one step above, guided steps below."""
    text, no_text = args.prompt_states, corpus.text_states[0].float()
    seeds = list(range(len(text)))
    rows = []
    for steps, guidance in ((1, 1.0), (args.sample_steps, args.guidance)):
        latents = sample(unet, text, no_text, seeds, steps, guidance)
        with torch.no_grad():
            rows.append(vae.decode(latents).sample)
    save_grid(torch.cat(rows), path, columns=8)


def parser() -> Parser:
    """The command line."""
    made = command_parser("train.teacher", __doc__, EXAMPLES, json=False)

    def number(flag: str, default: float, what: str = "") -> None:
        made.add_argument(
            flag, type=type(default), default=default, metavar="NUMBER", help=f"{what} (default {default:g})".strip()
        )

    made.add_argument("--data", type=Path, required=True, help="folder made by train.data")
    made.add_argument("--vae", type=Path, required=True, help="folder of the AutoencoderTiny")
    made.add_argument("--text", type=Path, required=True, help="run folder of train.text_encoder, or a pipeline's")
    made.add_argument("--out", type=Path, required=True, help="run folder; the pipeline is in OUT/pipeline")
    made.add_argument("--start", metavar="CHECKPOINT", help="begin with the U-Net of this pipeline folder or name")
    made.add_argument("--no-attention", action="store_true", help="with --start: attention in the middle block alone")
    made.add_argument(
        "--student",
        choices=NAMED_STUDENTS,
        help="with --start: train its student of that name instead, towards the clean latents, from "
        "noise alone where t = 999; OUT/pipeline is then the init= of a distillation",
    )
    number("--max-steps", 20_000)
    number("--batch", 24)
    number("--lr", 5e-4)
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
        "--prompts", type=Path, metavar="FILE", help="of the samples, one on each line (default: some of the captions)"
    )
    number("--guidance", 2.0, "of the samples")
    number("--sample-steps", 20)
    number("--log-every", 100)
    number("--save-every", 1000, "steps between saved states, each with samples")
    number("--seed", 0)
    return made


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments, completed. Raises UserError where some exclude each other or a number is out of range."""
    for name in ("student", "no_attention"):
        if getattr(args, name) and not args.start:
            raise UserError(f"{_flag(name)} needs --start: the teacher to begin with")
    if args.student and args.shared:
        raise UserError("--shared trains a teacher's student along with it; with --student leave it out")
    if args.shared is None:
        args.shared = 0.0 if args.student else SHARED
    for name, (low, high) in RANGES.items():
        if not low <= (value := getattr(args, name)) <= high:  # false for NaN, too
            raise UserError(f"{_flag(name)} {value:g}: must lie in {low:g}..{high:g}")
    return args


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


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
    args = checked(args)
    given = read_prompts(args.prompts) if args.prompts else ()
    torch.manual_seed(args.seed)
    vae = load_part(AutoencoderTiny, args.vae).eval()
    text_encoder = load_part(CLIPTextModel, args.text / "text_encoder").eval()
    tokenizer = load_part(CLIPTokenizerFast, args.text / "tokenizer")
    started = start_unet(args.start, args.no_attention, args.student) if args.start else None
    if started is not None:
        check_fit(started, vae, text_encoder)
    corpus = load_corpus(
        args.data, "train", vae, text_encoder, tokenizer, cache=args.out / "cache", compositions=args.compositions
    )
    captions = sample_prompts(caption for record in corpus.records for caption in record.captions)
    args.prompt_states = encode_texts(text_encoder, tokenizer, repeated(given or captions, SAMPLES))
    unet = (
        started
        if started is not None
        else build_unet(corpus.latents.shape[1], corpus.latents.shape[2], text_encoder.config.hidden_size)
    )
    tell(f"{args.student or 'teacher'}: {count_parameters(unet) / 1e6:.1f} M parameters")
    averaged = train_teacher(unet, corpus, vae, args.out, args)
    with whole_folder(args.out / "unet") as folder:
        averaged.save_pretrained(folder)
    save_pipeline(args.out / "pipeline", vae, text_encoder, tokenizer, averaged, prompts=captions)
    print_result(str(args.out / "pipeline"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m train.teacher`: a text-to-latents diffusion U-Net, v-prediction, classifier-free guidance."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizerFast

from train.checkpoint import resolve_checkpoint, save_pipeline
from train.compose import KINDS
from train.corpus import Corpus, load_corpus, share_groups
from train.diffusion import LAST_TIMESTEP, NoiseLevels, sample
from train.ema import Ema
from train.errors import run_command
from train.files import TrainingState, replace_folder
from train.grids import save_grid
from train.schedules import learning_rate
from train.student import STUDENTS, blocks_of, build_student, prune

SAMPLE_PROMPTS = (
    "fox face, 3d style", "pizza, 3d style", "red heart, flat style", "car, flat style",
    "house, 3d style", "grinning face, 3d style", "cat face, cartoon style", "sunflower, 3d style",
    "guitar, cartoon style", "rocket, 3d style", "octopus, flat style", "green apple, 3d style",
    "robot, flat style", "snowman, 3d style", "birthday cake, cartoon style", "tiger, flat style",
)


def build_unet(
    latent_channels: int, latent_side: int, text_width: int, widths: tuple[int, ...] = (48, 96, 192, 256),
    layers: tuple[int, ...] = (1, 1, 2, 2), attention: tuple[bool, ...] = (False, False, True, True),
    time_width: int = 768,
) -> UNet2DConditionModel:
    """UNet2DConditionModel whose text attention sits at the low resolutions, where it is cheap.

    The text, pooled by attention, also joins the timestep embedding and so scales and shifts every residual block:
    far quicker to learn than cross-attention alone.
    """
    down = tuple("CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in attention)
    up = tuple("CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(attention))
    return UNet2DConditionModel(
        sample_size=latent_side, in_channels=latent_channels, out_channels=latent_channels,
        block_out_channels=widths, layers_per_block=layers, down_block_types=down, up_block_types=up,
        cross_attention_dim=text_width, attention_head_dim=4, norm_num_groups=16,
        resnet_time_scale_shift="scale_shift", time_embedding_dim=time_width,
        addition_embed_type="text", addition_embed_type_num_heads=4,
    )


def start_unet(checkpoint: str, no_attention: bool = False, student: str | None = None) -> UNet2DConditionModel:
    """The U-Net of a pipeline folder or name in float32, or its student of that name (train.student.STUDENTS).

    With `no_attention` only the middle block attends: the text that scales and shifts the residual blocks carries
    nearly all, and a step takes 0.6 of the time.
    """
    folder = resolve_checkpoint(checkpoint) / "unet"
    unet = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32)
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

    With probability `args.shared` a step runs through the student-to-be: the teacher's own modules without the
    blocks that pruning will remove. Both then work, and the student starts where a pruned network would need
    thousands of steps to recover.
    """
    objective = x0_loss if args.student else v_loss
    compact = prune(unet, args.student_layers, share=True) if args.shared else unet
    optimizer = torch.optim.AdamW(unet.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = Ema(unet, args.ema)
    state = TrainingState(run_dir / "state", {"unet": unet, "ema": ema}, {"optimizer": optimizer})
    step, rows = state.load()
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
            rows.append({"step": step, "loss": total / count, "grad_norm": float(norm),
                         "pictures_per_s": count * args.batch / seconds})
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


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m train.teacher", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True, help="folder of the AutoencoderTiny")
    parser.add_argument("--text", type=Path, required=True, help="run folder of train.text_encoder")
    parser.add_argument("--out", type=Path, required=True, help="run folder; the pipeline is in OUT/pipeline")
    parser.add_argument("--start", metavar="CHECKPOINT", help="begin with the U-Net of this pipeline folder or name")
    parser.add_argument("--no-attention", action="store_true", help="with --start: attention in the middle block alone")
    parser.add_argument("--student", choices=STUDENTS, metavar="NAME",
                        help="with --start: train its student of that name instead, to the clean latents, on noise "
                        "alone at t = 999; what it becomes is the init= of a distillation")
    parser.add_argument("--max-steps", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--decay-from", type=float, default=0.6, help="share of the run after which lr falls to 0")
    parser.add_argument("--grad-clip", type=float, default=0.2)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--last", type=float, default=0.4, help="share of pictures noised to t = 999")
    parser.add_argument("--power", type=float, default=0.6)
    parser.add_argument("--drop-text", type=float, default=0.1, help="share of captions dropped (default 0.1)")
    parser.add_argument("--shared", type=float, default=0.3, help="share of steps through the student-to-be")
    parser.add_argument("--compositions", type=float, default=0.0, help="share of pictures from DATA's composed split")
    parser.add_argument("--student-layers", type=int, nargs="+", default=[1, 1, 1, 1])
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--sample-steps", type=int, default=20)
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    vae = AutoencoderTiny.from_pretrained(args.vae).eval()
    text_encoder = CLIPTextModel.from_pretrained(args.text / "text_encoder").eval()
    tokenizer = CLIPTokenizerFast.from_pretrained(args.text / "tokenizer")
    splits = ("train", "composed") if args.compositions else ("train",)
    corpus = load_corpus(args.data, splits, vae, text_encoder, tokenizer, cache=args.out / "cache")
    share_groups(corpus, KINDS, args.compositions)
    args.prompt_states = prompt_states(text_encoder, tokenizer)
    if args.start:
        unet = start_unet(args.start, args.no_attention, args.student)
    else:
        unet = build_unet(corpus.latents.shape[1], corpus.latents.shape[2], text_encoder.config.hidden_size)
    print(f"teacher: {sum(p.numel() for p in unet.parameters()) / 1e6:.1f} M parameters", flush=True)
    averaged = train_teacher(unet, corpus, vae, args.out, args)
    with replace_folder(args.out / "unet") as folder:
        averaged.save_pretrained(folder)
    save_pipeline(args.out / "pipeline", vae, text_encoder, tokenizer, averaged)


def prompt_states(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizerFast) -> Tensor:
    from train.corpus import encode_texts

    return encode_texts(text_encoder, tokenizer, list(SAMPLE_PROMPTS))


if __name__ == "__main__":
    run_command(main)

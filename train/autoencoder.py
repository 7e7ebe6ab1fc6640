"""`python -m train.autoencoder`: an AutoencoderTiny whose encoder is a PCA of 8x8 patches and whose decoder learns.

PCA latents are orthogonal, ordered by variance and known before any training, so that a teacher can be trained
on them at once; distances between latents stay close to distances between pictures. The decoder is trained to
undo them, and beats the linear inverse because neighbouring patches tell about each other.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from runtime.command import Parser, command_parser, print_result, run_command
from runtime.files import whole_folder
from train.data.corpus import load_held_out, load_pictures
from train.latents import encode_all, to_tensor
from train.run.checkpoints import TrainingState

EXAMPLES = """examples:
  python -m train.autoencoder --data data/stickers --out runs/autoencoder
  python -m train.autoencoder --data data/mine --out runs/autoencoder --latent-channels 16 --max-steps 2000
OUT gets vae/, the folder that --vae of python -m train.teacher takes."""
PATCH = 8
WHITENING = 0.65  # latent std = (PCA std) ** (1 - WHITENING): low-variance detail is lifted, but stays small
LATENT_RMS = 0.6  # keeps latents inside the range where the decoder's tanh(z / 3) * 3 is nearly linear


def pca_of_patches(pictures: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """PCA of 8x8x3 patches: (mean f32[192], basis f32[192, components], std f32[components]).

    pictures: u8[N, H, W, 3]; values are taken to [0, 1]. Patch elements are ordered (row, column, channel).
    """
    count, height, width, _ = pictures.shape
    blocks = pictures.reshape(count, height // PATCH, PATCH, width // PATCH, PATCH, 3)
    patches = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(-1, PATCH * PATCH * 3).astype(np.float32) / 255
    mean = patches.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov((patches - mean).T))
    order = np.argsort(values)[::-1][:components]
    return mean, vectors[:, order].astype(np.float32), np.sqrt(values[order]).astype(np.float32)


def build_autoencoder(latent_channels: int, decoder_width: int = 48) -> AutoencoderTiny:
    """AutoencoderTiny, 8x down, all decoder work below full resolution (the phone pays for it)."""
    return AutoencoderTiny(
        latent_channels=latent_channels,
        encoder_block_out_channels=(64, 64, 64, 64),
        decoder_block_out_channels=(decoder_width,) * 4,
        num_encoder_blocks=(0, 1, 1, 1),
        num_decoder_blocks=(3, 3, 3, 0),
        scaling_factor=1.0,
        force_upcast=False,
    )


@torch.no_grad()
def set_pca_encoder(autoencoder: AutoencoderTiny, mean: np.ndarray, basis: np.ndarray, std: np.ndarray) -> None:
    """Write weights into the encoder that make it compute the scaled PCA coefficients exactly.

    Each stride-2 convolution gathers 2x2 blocks; one channel carries the constant 1, with which every signal is
    kept positive through the ReLUs. basis: f32[192, C], std: f32[C] in [0, 1] units.
    """
    convs = [layer for layer in autoencoder.encoder.layers if isinstance(layer, nn.Conv2d)]
    first, down2, down4, down8, last = convs
    for block in autoencoder.encoder.layers:
        if not isinstance(block, nn.Conv2d):
            nn.init.zeros_(block.conv[-1].weight)  # the block is the identity on positive signals
            nn.init.zeros_(block.conv[-1].bias)
    for conv in convs:
        nn.init.zeros_(conv.weight)
    assert first.bias is not None and last.bias is not None
    nn.init.zeros_(first.bias)
    for channel in range(3):
        first.weight[channel, channel, 1, 1] = 1
    first.bias[63] = 1
    # [0, 1] pixels stay positive while they are only gathered: 3 -> 12 -> 48 channels.
    for conv, channels in ((down2, 3), (down4, 12)):
        _gather_2x2(conv, channels)
    top = min(63, basis.shape[1])
    scale = std**-WHITENING
    scale = (LATENT_RMS * scale / np.sqrt(np.mean((std * scale) ** 2))).astype(np.float32)
    _project_2x2(down8, mean, basis[:, :top], offset=16.0)
    nn.init.zeros_(last.bias)
    for k in range(top):
        last.weight[k, k, 1, 1] = float(scale[k])
        last.bias[k] = -16.0 * float(scale[k])


def _gather_2x2(conv: nn.Conv2d, channels: int) -> None:
    """Output channel (row*2 + column)*channels + c takes input channel c of that place in the 2x2 block."""
    for row in range(2):
        for column in range(2):
            for channel in range(channels):
                conv.weight[(row * 2 + column) * channels + channel, channel, row + 1, column + 1] = 1
    conv.weight[63, 63, 1, 1] = 1


def _project_2x2(conv: nn.Conv2d, mean: np.ndarray, basis: np.ndarray, offset: float) -> None:
    """The last gathering step and the PCA in one: coefficient + offset in each output channel."""
    table = basis.reshape(PATCH, PATCH, 3, -1)
    weight = np.zeros((basis.shape[1], 48, 2, 2), np.float32)
    for y, x in np.ndindex(PATCH, PATCH):
        # y = 4*y8 + 2*y4 + y2: y2 was gathered first, then y4; y8 is this convolution's own tap.
        y8, y4, y2 = y // 4, (y // 2) % 2, y % 2
        x8, x4, x2 = x // 4, (x // 2) % 2, x % 2
        for channel in range(3):
            gathered = (y4 * 2 + x4) * 12 + (y2 * 2 + x2) * 3 + channel
            weight[:, gathered, y8, x8] = table[y, x, channel]
    conv.weight[: basis.shape[1], :48, 1:, 1:] = torch.from_numpy(weight)
    conv.weight[: basis.shape[1], 63, 1, 1] = torch.from_numpy(offset - mean @ basis)


@torch.no_grad()
def held_out_psnr(autoencoder: AutoencoderTiny, latents: Tensor, pictures: np.ndarray, batch: int = 32) -> float:
    """Mean over pictures of the PSNR in dB, pixels in [0, 1], decoder output clamped to it."""
    scores = []
    for start in range(0, len(pictures), batch):
        decoded = autoencoder.decode(latents[start : start + batch]).sample.clamp(-1, 1)
        error = (decoded - to_tensor(pictures[start : start + batch])).div(2).square().mean(dim=(1, 2, 3))
        scores.append(-10 * torch.log10(error.clamp_min(1e-8)))
    return float(torch.cat(scores).mean())


def random_crops(
    latents: Tensor, pictures: np.ndarray, batch: int, side: int, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (latents f32[B, C, side, side], pixels f32[B, 3, 8*side, 8*side]) crops at random places."""
    places = latents.shape[-1] - side + 1
    while True:
        index = rng.integers(len(pictures), size=batch)
        ys, xs = rng.integers(places, size=batch), rng.integers(places, size=batch)
        z = torch.stack([latents[i, :, y : y + side, x : x + side] for i, y, x in zip(index, ys, xs, strict=True)])
        crops = [
            pictures[i, y * PATCH : (y + side) * PATCH, x * PATCH : (x + side) * PATCH]
            for i, y, x in zip(index, ys, xs, strict=True)
        ]
        yield z, to_tensor(np.stack(crops))


def train_decoder(
    autoencoder: AutoencoderTiny,
    pictures: np.ndarray,
    held_out: np.ndarray,
    run_dir: Path,
    max_steps: int,
    batch: int,
    side: int,
    lr: float,
    seed: int,
    eval_every: int,
) -> list[dict[str, float]]:
    """Fit the decoder to the fixed encoder by mean squared error on random crops; resumes from run_dir.

    pictures, held_out: u8[N, H, W, 3]. Returns one row {step, loss, held_out_psnr_db, seconds} an evaluation.
    """
    latents, held_out_latents = encode_all(autoencoder, pictures), encode_all(autoencoder, held_out)
    decoder = autoencoder.decoder.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    state = TrainingState(run_dir / "state", {"decoder": decoder}, {"optimizer": optimizer})
    step, rows = state.load()
    crops = random_crops(latents, pictures, batch, side, np.random.default_rng(seed + step))
    started, total = time.monotonic(), 0.0
    while step < max_steps:
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / max_steps))
        z, target = next(crops)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = decoder(z.to(memory_format=torch.channels_last))
        loss = (decoded.float() - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        step, total = step + 1, total + loss.item()
        if step % eval_every == 0 or step == max_steps:
            psnr = held_out_psnr(autoencoder, held_out_latents, held_out)
            row = {"step": step, "loss": total / eval_every, "held_out_psnr_db": psnr}
            rows.append({**row, "seconds": time.monotonic() - started})
            total = 0.0
            print(json.dumps(rows[-1]), flush=True)
            state.save(step, rows)
    return rows


def parser() -> Parser:
    """The command line."""
    made = command_parser("train.autoencoder", __doc__, EXAMPLES, json=False)
    made.add_argument("--data", type=Path, required=True, help="folder made by train.data")
    made.add_argument("--out", type=Path, required=True, help="run folder; the model is in OUT/vae")
    made.add_argument("--latent-channels", type=int, default=32)
    made.add_argument("--decoder-width", type=int, default=48)
    made.add_argument("--max-steps", type=int, default=6000)
    made.add_argument("--batch", type=int, default=16)
    made.add_argument("--crop", type=int, default=8, help="side of the training crops, in latents")
    made.add_argument("--lr", type=float, default=2e-3)
    made.add_argument("--eval-every", type=int, default=500)
    made.add_argument("--seed", type=int, default=0)
    return made


def work(args: argparse.Namespace) -> None:
    """Train, and write OUT/vae."""
    torch.manual_seed(args.seed)
    pictures, held_out = load_pictures(args.data, "train")[1], load_held_out(args.data)
    autoencoder = build_autoencoder(args.latent_channels, args.decoder_width)
    set_pca_encoder(autoencoder, *pca_of_patches(pictures[::4], args.latent_channels))
    with whole_folder(args.out / "vae") as folder:
        autoencoder.save_pretrained(folder)
    train_decoder(
        autoencoder,
        pictures,
        held_out,
        args.out,
        args.max_steps,
        args.batch,
        args.crop,
        args.lr,
        args.seed,
        args.eval_every,
    )
    with whole_folder(args.out / "vae") as folder:
        autoencoder.save_pretrained(folder)
    print_result(str(args.out / "vae"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())

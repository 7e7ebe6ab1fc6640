"""`python -m train.autoencoder`: an AutoencoderTiny whose encoder is a PCA of patches and whose decoder learns.

PCA latents are orthogonal, ordered by variance and known before any training, so that a teacher can be trained
on them at once; distances between latents stay close to distances between pictures. The decoder is trained to
undo them, and beats the linear inverse because neighbouring patches inform each other.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from runtime.command import Parser, command_parser, print_result, run_command, whole
from runtime.errors import UserError
from runtime.files import whole_folder
from train.checkpoint import load_part
from train.config import RunSettings
from train.data.corpus import load_held_out, load_pictures
from train.latents import downscale, encode_all, to_tensor
from train.run.engine import Engine
from train.run.learning_rate import learning_rate, set_rate
from train.run.loop import run_task
from train.run.options import RUN_RANGES, add_number, add_run_options, check_ranges, settings_of
from train.run.task import Task, Values, descend
from train.run.telemetry import Telemetry
from train.world.source import is_world, world_pictures

EXAMPLES = """examples:
  python -m train.autoencoder --data data/stickers --out runs/autoencoder
  python -m train.autoencoder --data data/world --start checkpoints/sticker-128/vae --out runs/autoencoder
  python -m train.autoencoder --data data/mine --out runs/autoencoder --latent-channels 16 --max-steps 2000
OUT gets vae/, the folder that --vae of python -m train.teacher takes."""
PATCH = 8  # side of a patch in pixels, unless said otherwise: pixels per latent along one side
PATCHES = (2, 4, 8)
WHITENING = 0.65  # latent std = (PCA std) ** (1 - WHITENING): low-variance detail is lifted, but stays small
IMAGE_SIZE, DRAWN, HELD_OUT = 128, 8192, 256  # of a world's pictures: side in pixels, how many are learned and scored
LEAST_STD = 1e-4  # of a direction that is worth a latent channel, in [0, 1] units: a fortieth of a level of 255
LATENT_RMS = 0.6  # keeps latents inside the range where the decoder's tanh(z / 3) * 3 is nearly linear


def pca_of_patches(
    pictures: np.ndarray, components: int, patch: int = PATCH
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """PCA of P x P x 3 patches: (mean f32[3 P P], basis f32[3 P P, components], std f32[components]).

    pictures: u8[N, H, W, 3]; values are taken to [0, 1]. Patch elements are ordered (row, column, channel).
    """
    count, height, width, _ = pictures.shape
    blocks = pictures.reshape(count, height // patch, patch, width // patch, patch, 3)
    patches = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(-1, patch * patch * 3).astype(np.float32) / 255
    mean = patches.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov((patches - mean).T))
    order = np.argsort(values)[::-1][:components]
    std = np.sqrt(np.maximum(values[order], 0))  # rounding makes a variance of nothing negative
    return mean, vectors[:, order].astype(np.float32), std.astype(np.float32)


def build_autoencoder(latent_channels: int, decoder_width: int = 48, patch: int = PATCH) -> AutoencoderTiny:
    """AutoencoderTiny, `patch` times down, all decoder work below full resolution (it runs on phones)."""
    stages = patch.bit_length() - 1
    return AutoencoderTiny(
        latent_channels=latent_channels,
        encoder_block_out_channels=(64,) * (stages + 1),
        decoder_block_out_channels=(decoder_width,) * (stages + 1),
        num_encoder_blocks=(0, *(1,) * stages),
        num_decoder_blocks=(*(3,) * stages, 0),
        scaling_factor=1.0,
        force_upcast=False,
    )


@torch.no_grad()
def set_pca_encoder(autoencoder: AutoencoderTiny, mean: np.ndarray, basis: np.ndarray, std: np.ndarray) -> None:
    """Write weights into the encoder that make it compute the scaled PCA coefficients exactly.

    Each stride-2 convolution gathers 2x2 blocks; one channel carries the constant 1, with which every signal is
    kept positive through the ReLUs. basis: f32[3 P P, C], std: f32[C] in [0, 1] units. Raises UserError where
    fewer than C directions vary, as in small gray patches.
    """
    top = min(63, basis.shape[1])
    if std[top - 1] < LEAST_STD:
        varying = int((std >= LEAST_STD).sum())
        raise UserError(f"these pictures' patches vary in {varying} directions only: use --latent-channels {varying}")
    convs = [layer for layer in autoencoder.encoder.layers if isinstance(layer, nn.Conv2d)]
    first, *gathering, projecting, last = convs
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
    for stage, conv in enumerate(gathering):
        _gather_2x2(conv, 3 * 4**stage)
    scale = std**-WHITENING
    scale = (LATENT_RMS * scale / np.sqrt(np.mean((std * scale) ** 2))).astype(np.float32)
    _project_2x2(projecting, mean, basis[:, :top], offset=16.0, stages=len(gathering))
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


def _project_2x2(conv: nn.Conv2d, mean: np.ndarray, basis: np.ndarray, offset: float, stages: int) -> None:
    """The last gathering step and the PCA in one: coefficient + offset in each output channel.

    stages: how often 2x2 blocks were gathered before.
    """
    half, components = 2**stages, basis.shape[1]
    table = basis.reshape(2 * half, 2 * half, 3, components)
    weight = np.zeros((components, 3 * half * half, 2, 2), np.float32)
    for y, x, channel in np.ndindex(2 * half, 2 * half, 3):
        weight[:, _gathered(y, x, channel, stages), y // half, x // half] = table[y, x, channel]
    conv.weight[:components, : 3 * half * half, 1:, 1:] = torch.from_numpy(weight)
    conv.weight[:components, 63, 1, 1] = torch.from_numpy(offset - mean @ basis)


def _gathered(y: int, x: int, channel: int, stages: int) -> int:
    """The channel that holds a pixel's colour after `stages` gatherings: the lowest bits were gathered first."""
    index, channels = channel, 3
    for stage in range(stages):
        index += (((y >> stage) & 1) * 2 + ((x >> stage) & 1)) * channels
        channels *= 4
    return index


@torch.no_grad()
def held_out_psnr(autoencoder: AutoencoderTiny, latents: Tensor, pictures: np.ndarray, batch: int = 32) -> float:
    """Mean over pictures of the PSNR in dB, pixels in [0, 1], decoder output clamped to it."""
    scores = []
    device = next(autoencoder.parameters()).device
    for start in range(0, len(pictures), batch):
        decoded = autoencoder.decode(latents[start : start + batch].to(device)).sample.clamp(-1, 1).cpu()
        error = (decoded - to_tensor(pictures[start : start + batch])).div(2).square().mean(dim=(1, 2, 3))
        scores.append(-10 * torch.log10(error.clamp_min(1e-8)))
    return float(torch.cat(scores).mean())


@dataclass(frozen=True, kw_only=True)
class DecoderSettings(RunSettings):
    """Settings of the decoder's training."""

    crop: int = 8  # side of the training crops, in latents
    lr: float = 2e-3


class DecoderTask(Task):
    """The decoder learns to undo the fixed encoder, by mean squared error on random crops.

    A checkpoint's score is the PSNR of the held-out pictures.
    """

    name = "autoencoder"

    def __init__(
        self,
        autoencoder: AutoencoderTiny,
        pictures: np.ndarray,
        held_out: np.ndarray,
        settings: DecoderSettings,
        engine: Engine,
    ) -> None:
        """pictures, held_out: u8[N, H, W, 3]. Raises UserError when the crops are larger than the pictures."""
        self.settings, self.engine = settings, engine
        self.autoencoder = autoencoder.to(engine.device)
        self.pictures, self.held_out, self.patch = pictures, held_out, downscale(autoencoder)
        self.latents, self.held_out_latents = encode_all(autoencoder, pictures), encode_all(autoencoder, held_out)
        if settings.crop > self.latents.shape[-1]:
            raise UserError(f"--crop {settings.crop}: these pictures have {self.latents.shape[-1]} latents per side")
        self.decoder = autoencoder.decoder.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(
            self.decoder.parameters(), lr=settings.lr, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.weights, self.optimizers = {"decoder": self.decoder}, {"optimizer": self.optimizer}

    def step(self, step: int) -> Values:
        settings, device = self.settings, self.engine.device
        set_rate(self.optimizer, learning_rate(step, settings.lr, settings.max_steps, warmup=100, decay_from=0.0))
        latents, target = self._crops(np.random.default_rng([settings.seed, step]))
        with self.engine.autocast():
            decoded = self.decoder(latents.to(device, memory_format=torch.channels_last))
        loss = (decoded.float() - target.to(device)).square().mean()
        return descend(self.engine, self.optimizer, loss, clip=1.0)

    def _crops(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Latents f32[B, C, side, side] and pixels f32[B, 3, P*side, P*side] of random crops of random pictures."""
        batch, side, patch = self.settings.batch, self.settings.crop, self.patch
        places = self.latents.shape[-1] - side + 1
        index = rng.integers(len(self.pictures), size=batch)
        corners = list(zip(index, rng.integers(places, size=batch), rng.integers(places, size=batch), strict=True))
        latents = [self.latents[i, :, y : y + side, x : x + side] for i, y, x in corners]
        pixels = [
            self.pictures[i, y * patch : (y + side) * patch, x * patch : (x + side) * patch] for i, y, x in corners
        ]
        return torch.stack(latents), to_tensor(np.stack(pixels))

    def keep(self, step: int, telemetry: Telemetry) -> float:
        psnr = held_out_psnr(self.autoencoder, self.held_out_latents, self.held_out)
        telemetry.row(step, {"held_out_psnr_db": psnr})
        return -psnr

    def finish(self, step: int, best: int | None) -> Path:
        """The autoencoder, in OUT/vae."""
        return save_vae(self.autoencoder, Path(self.settings.run_dir))


def save_vae(autoencoder: AutoencoderTiny, run_dir: Path) -> Path:
    """Write RUN/vae and return it."""
    with whole_folder(run_dir / "vae") as folder:
        autoencoder.save_pretrained(folder)
    return run_dir / "vae"


def parser() -> Parser:
    """The command line."""
    made = command_parser("train.autoencoder", __doc__, EXAMPLES, json=False)
    made.add_argument("--data", type=Path, required=True, help="folder made by train.data")
    made.add_argument("--out", type=Path, required=True, help="run folder; the model is in OUT/vae")
    add_run_options(made, "the held-out PSNR", "--eval-every", max_steps=6000, batch=16, log_every=100, save_every=500)
    made.add_argument("--start", type=Path, metavar="VAE", help="keep this one's latents: only its decoder is refitted")
    made.add_argument(
        "--pictures",
        type=whole(1, 10**6),
        metavar="NUMBER",
        help=f"to learn from: of a folder the first ones (default: all), of a world drawn ones (default {DRAWN})",
    )
    made.add_argument(
        "--patch", type=int, choices=PATCHES, default=PATCH, help="pixels per latent along one side (default 8)"
    )
    add_number(made, "--latent-channels", 32)
    add_number(made, "--decoder-width", 48)
    add_number(made, "--crop", 8, "side of the training crops, in latents")
    add_number(made, "--lr", 2e-3)
    return made


def work(args: argparse.Namespace) -> None:
    """Train, and write OUT/vae."""
    print_result(str(trained(args)))


def trained(args: argparse.Namespace) -> Path:
    """Train as the command's arguments say; returns OUT/vae. Raises UserError."""
    check_ranges(
        args,
        RUN_RANGES | {"latent_channels": (1, 63), "decoder_width": (1, 4096), "crop": (1, 4096)},
    )
    settings = settings_of(DecoderSettings, args)

    def make(engine: Engine) -> DecoderTask:
        torch.manual_seed(settings.seed)
        if is_world(args.data):
            pictures = world_pictures(args.data, IMAGE_SIZE, args.pictures or DRAWN, settings.seed)
            held_out = world_pictures(args.data, IMAGE_SIZE, HELD_OUT, settings.seed, held_out=True)
        else:
            pictures = load_pictures(args.data, "train")[1][: args.pictures]
            held_out = load_held_out(args.data)[: args.pictures]
        if args.start:
            autoencoder = load_part(AutoencoderTiny, args.start)
        else:
            if wrong := [side for side in pictures.shape[1:3] if side % args.patch]:
                raise UserError(f"--patch {args.patch}: pictures of {wrong[0]} pixels cannot be cut into such patches")
            autoencoder = build_autoencoder(args.latent_channels, args.decoder_width, args.patch)
            set_pca_encoder(autoencoder, *pca_of_patches(pictures[::4], args.latent_channels, args.patch))
            save_vae(autoencoder, args.out)  # a teacher can be trained on its latents at once
        return DecoderTask(autoencoder, pictures, held_out, settings, engine)

    return run_task(make, settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())

"""A tiny random StableDiffusionPipeline checkpoint with the sticker model's structure, made in about a second.

`python -m tests.support.tiny FOLDER [--seed N]` writes one. The weights are random but their scales are set so that
the one-step picture uses the whole range: a PSNR measured on it means something.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.support.shared import once
from train.clip_vocab import write_tokenizer_files

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "sticker-128"
MERGES = ("f o", "fo x</w>", "r e", "re d</w>", "c a", "ca t</w>", "t h", "th e</w>", "i n</w>")


@dataclass(frozen=True)
class Shape:
    """Sizes of the networks; the defaults are the smallest that keep every kind of layer."""

    latent_channels: int = 16
    sample_size: int = 16
    hidden: int = 32
    text_layers: int = 2
    text_heads: int = 2
    vocab: int = 0  # 0: exactly the vocabulary of the tokenizer that is written
    channels: tuple[int, ...] = (32, 32, 64)
    attention_levels: int = 1  # how many of the lowest levels have attention
    groups: int = 8
    heads: int | tuple[int, ...] = 2
    vae_channels: int = 16
    vae_blocks: tuple[int, ...] = (1, 1, 1, 1)
    time_embedding: int = 64
    prediction_type: str = "v_prediction"


# Two levels and 64-pixel pictures, for tests that export, because each layer costs an exporter time.
SMALL = Shape(latent_channels=4, sample_size=8, channels=(16, 32), groups=4, vae_channels=8)
# What a trainer records about its checkpoint, as in train.checkpoint.save_pipeline.
FACTS = {
    "steps": 0,
    "licences": [{"what": "random weights", "licence": "Apache-2.0", "source": "tests/support/tiny.py"}],
}
# The release model's sizes, for measuring time and bytes before it exists.
STICKER = Shape(
    latent_channels=24,
    hidden=144,
    text_layers=4,
    text_heads=4,
    vocab=49408,
    channels=(64, 192, 320),
    attention_levels=2,
    groups=32,
    time_embedding=512,
    heads=(2, 6, 10),
    vae_channels=48,
    vae_blocks=(3, 3, 3, 1),
)


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer with nine merges, padded with <|endoftext|> to 77."""
    write_tokenizer_files(folder, MERGES)
    return CLIPTokenizer.from_pretrained(folder)


def make_text_encoder(shape: Shape, vocab: int) -> CLIPTextModel:
    """A random CLIP text encoder; the pooler takes the first <|endoftext|>."""
    config = CLIPTextConfig(
        vocab_size=max(shape.vocab, vocab),
        hidden_size=shape.hidden,
        intermediate_size=4 * shape.hidden,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=shape.text_heads,
        max_position_embeddings=77,
        bos_token_id=vocab - 2,
        eos_token_id=vocab - 1,
        pad_token_id=vocab - 1,
        projection_dim=shape.hidden,
    )
    return CLIPTextModel(config)


def make_unet(shape: Shape) -> UNet2DConditionModel:
    """A random U-Net with attention at its lowest levels."""
    plain = len(shape.channels) - shape.attention_levels
    return UNet2DConditionModel(
        sample_size=shape.sample_size,
        in_channels=shape.latent_channels,
        out_channels=shape.latent_channels,
        block_out_channels=shape.channels,
        layers_per_block=1,
        norm_num_groups=shape.groups,
        down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * shape.attention_levels,
        up_block_types=("CrossAttnUpBlock2D",) * shape.attention_levels + ("UpBlock2D",) * plain,
        cross_attention_dim=shape.hidden,
        attention_head_dim=shape.heads,  # diffusers' name for the number of heads
        time_embedding_dim=shape.time_embedding,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
    )


def make_vae(shape: Shape) -> AutoencoderTiny:
    """A random tiny autoencoder, eight times down."""
    widths = (shape.vae_channels,) * 4
    return AutoencoderTiny(
        latent_channels=shape.latent_channels,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=tuple(reversed(shape.vae_blocks)),
        num_decoder_blocks=shape.vae_blocks,
        scaling_factor=1.0,
    )


def make_scheduler(prediction_type: str = "v_prediction") -> DDIMScheduler:
    """The sticker model's scheduler."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=False,
        steps_offset=0,
    )


@torch.no_grad()
def spread(pipe: StableDiffusionPipeline, shape: Shape) -> None:
    """Rescale the last convolutions so that v has unit variance and the picture fills [-1, 1]."""
    size = shape.sample_size
    noise = torch.randn(2, shape.latent_channels, size, size)
    states = torch.randn(2, 77, shape.hidden)
    pipe.unet.conv_out.weight.div_(pipe.unet(noise, 999, states).sample.std())
    pipe.unet.conv_out.bias.zero_()
    v = pipe.unet(noise, 999, states).sample
    last = pipe.vae.decoder.layers[-1]
    picture = pipe.vae.decoder(-v)
    last.weight.mul_(0.5 / (picture - picture.mean((0, 2, 3), keepdim=True)).std())
    last.bias.sub_(pipe.vae.decoder(-v).mean((0, 2, 3)) / 2)


def make_pipeline(folder: Path, shape: Shape = Shape(), seed: int = 0) -> StableDiffusionPipeline:
    """A random pipeline, the same for the same seed. The tokenizer's files are written under `folder`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = make_tokenizer(Path(folder) / "tokenizer")
        pipe = StableDiffusionPipeline(
            vae=make_vae(shape).eval(),
            text_encoder=make_text_encoder(shape, len(tokenizer)).eval(),
            tokenizer=tokenizer,
            unet=make_unet(shape).eval(),
            scheduler=make_scheduler(shape.prediction_type),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        spread(pipe, shape)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_checkpoint(folder: Path, shape: Shape = Shape(), seed: int = 0) -> Path:
    """Write `make_pipeline` as a diffusers folder and return it."""
    make_pipeline(Path(folder), shape, seed).save_pretrained(folder, max_shard_size="15MB")
    return Path(folder)


def small_checkpoint() -> Path:
    """A SMALL checkpoint, made once a run."""
    return once("checkpoint", _write_small) / "small"


def _write_small(folder: Path) -> None:
    checkpoint = make_checkpoint(folder / "small", SMALL)
    (checkpoint / "training.json").write_text(json.dumps(FACTS))
    shutil.copy(SHIPPED / "prompts.txt", checkpoint)  # its own prompts, which use some of its nine merges


@cache
def small_graphs() -> dict[str, Any]:
    """The fp32 ONNX graphs of `small_checkpoint`, traced once a run: copy before you change one."""
    import onnx

    from runtime.manifest import COMPONENTS

    folder = once("graphs", _write_graphs)
    return {name: onnx.load(folder / f"{name}.onnx") for name in COMPONENTS}


def _write_graphs(folder: Path) -> None:
    import onnx

    from export.onnx.passes import optimize
    from export.onnx.trace import Tracer
    from export.source import open_source
    from runtime.manifest import COMPONENTS

    folder.mkdir()
    tracer = Tracer(open_source(str(small_checkpoint())))
    for name in COMPONENTS:
        model = getattr(tracer, name)()  # not with Tracer.graph, which a test may replace
        optimize(model)
        onnx.save(model, folder / f"{name}.onnx")


def copied_graph(_: Any, component: str) -> Any:
    """In place of Tracer.graph where a test exports `small_checkpoint` and has no need to trace it again."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(small_graphs()[component])
    return copy


def small_bundle() -> Path:
    """The ONNX bundle of `small_checkpoint` in single precision, exported once a run."""
    return once("bundle", _write_bundle)


def _write_bundle(folder: Path) -> None:
    from export.onnx.export import export_onnx
    from export.onnx.trace import Tracer
    from export.source import open_source

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tracer, "graph", copied_graph)
        export_onnx(open_source(str(small_checkpoint())), folder)


def small_openvino() -> Path:
    """The OpenVINO folder of `small_checkpoint` in single precision, exported once a run."""
    return once("openvino", _write_openvino)


def _write_openvino(folder: Path) -> None:
    from export.openvino.__main__ import main as export_openvino

    assert export_openvino([str(small_checkpoint()), "--out", str(folder)]) == 0


def main() -> None:
    parser = argparse.ArgumentParser(description="write a tiny random checkpoint")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sticker", action="store_true", help="the release model's sizes")
    args = parser.parse_args()
    print(make_checkpoint(args.folder, STICKER if args.sticker else Shape(), args.seed))


if __name__ == "__main__":
    main()

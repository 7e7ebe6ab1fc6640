"""The modules for Core ML, run in PyTorch: token ids, epsilon, encoders; attention in (B,C,1,S)."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from export.checks.measure import psnr_db
from export.coreml.convert import convert
from export.coreml.graphs import AppleDecoder, AppleEncoder, AppleTextEncoder, AppleUNet, parts
from export.coreml.split_einsum import split_einsum
from export.graphs import attention_as, plain_attention
from export.mil.program import Program
from export.source import open_source
from runtime.coreml import APPLE_SCALING
from runtime.errors import UserError
from tests.support.tiny import SMALL, Shape, make_pipeline, small_checkpoint


@pytest.fixture(scope="module")
def source():
    return open_source(str(small_checkpoint()))


def test_token_ids_reach_the_table_exactly(source) -> None:
    """fp16 holds whole numbers only up to 2048: the ids must not pass through it."""
    module = AppleTextEncoder(source.pipe.text_encoder)
    ids = torch.full((1, 77), float(len(source.pipe.tokenizer) - 1))
    with torch.no_grad():
        hidden, pooled = module(ids)
        expected = source.pipe.text_encoder(ids.long())
    torch.testing.assert_close(hidden, expected.last_hidden_state, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled, expected.pooler_output, rtol=1e-4, atol=1e-5)


def test_an_epsilon_model_stays_one(tmp_path: Path) -> None:
    pipe = make_pipeline(tmp_path, Shape(latent_channels=4, sample_size=8, prediction_type="epsilon"))
    pipe.save_pretrained(tmp_path / "model")
    unet = AppleUNet(open_source(str(tmp_path / "model")))
    sample, states = torch.randn(1, 4, 8, 8), torch.randn(1, 32, 1, 77)
    with torch.no_grad():
        expected = pipe.unet(sample, 999, states.squeeze(2).transpose(1, 2)).sample
        torch.testing.assert_close(unet(sample, torch.tensor([999.0]), states), expected)


@pytest.mark.parametrize("scaling", [APPLE_SCALING, 0.13025])
def test_a_variational_autoencoder(scaling: float, source, tmp_path: Path) -> None:
    """Encoder.swift's sample times 0.18215 must be diffusers' sample times the scaling factor, and back."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        layers_per_block=1,
        scaling_factor=scaling,
    ).eval()
    pipe = copy.copy(source.pipe)
    pipe.vae = vae
    whole = replace(source, pipe=pipe)
    picture, noise = torch.rand(1, 3, 16, 16) * 2 - 1, torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        posterior = vae.encode(picture).latent_dist
        expected = (posterior.mean + posterior.std * noise) * scaling
        mean, logvar = AppleEncoder(whole)(picture).chunk(2, dim=1)
        found = (mean + torch.exp(0.5 * logvar) * noise) * APPLE_SCALING
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        image = AppleDecoder(whole)(found / APPLE_SCALING)
        torch.testing.assert_close(image, vae.decode(expected / scaling).sample, rtol=1e-4, atol=1e-5)
    if scaling == APPLE_SCALING:  # one conversion: its attention is not a U-Net's
        part = next(part for part in parts(whole) if part.name == "vae_encoder")
        convert(part, "iOS16", tmp_path / "e.mlpackage")
        found = Program(tmp_path / "e.mlpackage").run({"x": picture.numpy().astype(np.float16)})["latent"]
        assert psnr_db(posterior.mean.numpy(), found[:, :4]) > 50


@pytest.mark.parametrize("linear", [False, True])
def test_attention_forms_compute_the_same(linear: bool, tmp_path: Path) -> None:
    shape = replace(SMALL, attention_levels=2, heads=(2, 4))
    unet = make_pipeline(tmp_path, shape).unet
    if linear:
        from diffusers import UNet2DConditionModel

        unet = UNet2DConditionModel.from_config({**unet.config, "use_linear_projection": True}).eval()
    args = (torch.randn(2, 4, 8, 8), torch.tensor(999.0), torch.randn(2, 77, SMALL.hidden))
    before = copy.copy(dict(unet.named_modules()))
    with torch.no_grad():
        expected = unet(*args).sample
        with attention_as(unet, plain_attention):
            torch.testing.assert_close(unet(*args).sample, expected, rtol=1e-4, atol=1e-5)
        for chunk in (None, 24):  # 64 queries in three chunks, the last one smaller
            with split_einsum(unet, chunk):
                assert not any(name.endswith("attn1.processor") for name, _ in unet.named_modules())
                torch.testing.assert_close(unet(*args).sample, expected, rtol=1e-4, atol=1e-5)
    assert dict(unet.named_modules()) == before


def test_split_einsum_refuses_what_it_cannot_write(source) -> None:
    block = source.pipe.unet.mid_block.attentions[0].transformer_blocks[0]
    before, block.norm_type = block.norm_type, "ada_norm"
    try:
        refusal = pytest.raises(UserError, match="mid_block.attentions.0 .*ada_norm.*ORIGINAL")
        with refusal, split_einsum(source.pipe.unet):
            pass
    finally:
        block.norm_type = before

"""The folded end of a decoder computes what its three layers compute, borders and corners included."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from export.subpixel import SubpixelTail, fold_upsampling, foldable

SIZES = st.integers(1, 5)


def tail(channels: int, between: int, outputs: int, bias: bool = True) -> tuple[nn.Upsample, nn.Conv2d, nn.Conv2d]:
    first = nn.Conv2d(channels, between, 3, padding=1, bias=False)
    return nn.Upsample(scale_factor=2), first, nn.Conv2d(between, outputs, 3, padding=1, bias=bias)


@settings(max_examples=40, deadline=None)
@given(SIZES, SIZES, SIZES, SIZES, SIZES, st.booleans())
def test_one_convolution_is_the_three_layers(c: int, d: int, o: int, height: int, width: int, bias: bool) -> None:
    layers = tail(c, d, o, bias)
    x = torch.randn(2, c, height, width)
    with torch.no_grad():
        expected = nn.Sequential(*layers)(x)
        found = SubpixelTail(layers[1], layers[2])(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_border_needs_its_strips() -> None:
    """Without them the interior would still be right, and the border not."""
    layers = tail(3, 4, 3)
    folded = SubpixelTail(layers[1], layers[2])
    for name in ("top", "bottom", "left", "right"):
        getattr(folded, name).zero_()
    x = torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        difference = (folded(x) - nn.Sequential(*layers)(x)).abs()
    assert difference[..., 1:-1, 1:-1].max() < 1e-5
    for edge in (difference[..., 0, :], difference[..., -1, :], difference[..., 0], difference[..., -1]):
        assert edge.max() > 1e-3


@pytest.mark.parametrize(
    "wrong",
    [
        (nn.Upsample(scale_factor=2, mode="bilinear"), *tail(2, 2, 2)[1:]),
        (nn.Upsample(scale_factor=4), *tail(2, 2, 2)[1:]),
        (nn.Identity(), *tail(2, 2, 2)[1:]),
        (nn.Upsample(scale_factor=2), nn.Conv2d(2, 2, 3, padding=1), tail(2, 2, 2)[2]),
        (nn.Upsample(scale_factor=2), nn.Conv2d(2, 2, 5, padding=2, bias=False), tail(2, 2, 2)[2]),
        (*tail(2, 2, 2)[:2], nn.Conv2d(2, 2, 3, padding=1, stride=2)),
        (*tail(2, 2, 2)[:2], nn.ReLU()),
    ],
    ids=["bilinear", "fourfold", "no upsampling", "bias between", "5x5", "stride", "activation"],
)
def test_other_layers_are_left_alone(wrong: tuple[nn.Module, nn.Module, nn.Module]) -> None:
    assert not foldable(*wrong)


def test_a_tiny_autoencoder_is_folded_once() -> None:
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny(
        latent_channels=4,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 0),
    ).eval()
    latents = torch.randn(1, 4, 6, 6)
    with torch.no_grad():
        before = vae.decode(latents).sample
        assert fold_upsampling(vae)
        after = vae.decode(latents).sample
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    assert not fold_upsampling(vae)

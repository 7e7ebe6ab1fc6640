"""The ADD discriminator: frozen features, light heads with projection conditioning (StyleGAN-T, 2301.09515)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from train.augment import diff_augment
from train.mobilenet import load_mobilenet

CONDITIONINGS = ("none", "text", "image", "both")


class VirtualBatchNorm(nn.Module):
    """Batch normalisation over groups of `virtual_batch` pictures, so that it means the same at any batch size."""

    def __init__(self, channels: int, virtual_batch: int = 8) -> None:
        super().__init__()
        self.virtual_batch = virtual_batch
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """f32[B, C, N] -> f32[B, C, N]."""
        batch, channels, length = x.shape
        groups = max(1, batch // self.virtual_batch)
        if batch % groups:
            groups = 1
        x = x.view(groups, batch // groups, channels, length)
        mean = x.mean(dim=(1, 3), keepdim=True)
        variance = x.var(dim=(1, 3), keepdim=True, unbiased=False)
        x = ((x - mean) * torch.rsqrt(variance + 1e-5)).view(batch, channels, length)
        return x * self.weight.view(1, -1, 1) + self.bias.view(1, -1, 1)


def head_block(channels: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, padding_mode="circular")
    return nn.Sequential(spectral_norm(convolution), VirtualBatchNorm(channels), nn.LeakyReLU(0.2))


class DiscriminatorHead(nn.Module):
    """One logit a position from one layer's features, conditioned by projection (Miyato & Koyama 2018)."""

    def __init__(self, channels: int, condition_width: int, map_width: int = 64) -> None:
        super().__init__()
        self.map_width = map_width if condition_width else 1
        self.first = head_block(channels, 1)
        self.residual = head_block(channels, 9)
        self.logits = spectral_norm(nn.Conv1d(channels, self.map_width, 1))
        self.project = nn.Linear(condition_width, map_width) if condition_width else None

    def forward(self, features: Tensor, condition: Tensor | None) -> Tensor:
        """features f32[B, C, h, w], condition f32[B, D] -> logits f32[B, h*w]."""
        x = self.first(features.flatten(2))
        x = (x + self.residual(x)) / 2**0.5
        x = self.logits(x)
        if self.project is None or condition is None:
            return x.squeeze(1)
        direction = self.project(condition).unsqueeze(-1) / self.map_width**0.5
        return (x * direction).sum(dim=1)


class Discriminator(nn.Module):
    """Frozen feature network and one head a tapped layer.

    conditioning: "none", "text" (a text embedding), "image" (deep features of the real picture), or "both".
    """

    def __init__(self, text_width: int, conditioning: str = "both", taps: tuple[int, ...] = (3, 6, 13, 17)) -> None:
        super().__init__()
        if conditioning not in CONDITIONINGS:
            raise ValueError(f"conditioning must be one of {', '.join(CONDITIONINGS)}, not {conditioning!r}")
        self.conditioning = conditioning
        self.features = load_mobilenet(taps)
        widths = self.features.tap_widths
        condition_width = text_width * (conditioning in ("text", "both"))
        condition_width += widths[-1] * (conditioning in ("image", "both"))
        self.heads = nn.ModuleList(DiscriminatorHead(width, condition_width) for width in widths)

    def train(self, mode: bool = True) -> Discriminator:
        super().train(mode)
        self.features.eval()  # frozen: its batch statistics are ImageNet's
        return self

    def trainable_parameters(self) -> list[nn.Parameter]:
        return list(self.heads.parameters())

    def extract(self, pictures: Tensor, augment: bool = True) -> list[Tensor]:
        """The heads' input features of f32[B, 3, H, W] in [-1, 1], after DiffAugment."""
        return self.features(diff_augment(pictures) if augment else pictures)

    @torch.no_grad()
    def condition(self, text: Tensor, real_pictures: Tensor) -> Tensor | None:
        """What the heads are conditioned on: the text embedding f32[B, D] and x0's deepest features, pooled."""
        parts = []
        if self.conditioning in ("text", "both"):
            parts.append(nn.functional.normalize(text, dim=-1) * text.shape[-1] ** 0.5)
        if self.conditioning in ("image", "both"):
            pooled = self.features(real_pictures)[-1].mean(dim=(2, 3))
            parts.append(nn.functional.normalize(pooled, dim=-1) * pooled.shape[-1] ** 0.5)
        return torch.cat(parts, dim=-1) if parts else None

    def forward(self, features: list[Tensor], condition: Tensor | None) -> list[Tensor]:
        """Logits of every head, f32[B, positions] each."""
        return [head(feature, condition) for head, feature in zip(self.heads, features, strict=True)]

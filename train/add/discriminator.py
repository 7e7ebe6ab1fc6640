"""The discriminator: frozen features, light heads with projection conditioning (StyleGAN-T, 2301.09515; ADD; LADD)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from train.add.draws import Draws
from train.add.feature_networks import FeatureNetwork

VIRTUAL_BATCH = 8  # pictures that a batch norm sees at once
MAX_HEAD_WIDTH = 384  # ViT-S's width, for which the heads were designed; wider features are projected to it


class VirtualBatchNorm(nn.Module):
    """Batch normalisation over groups of `virtual_batch` pictures, so that it means the same at any batch size."""

    def __init__(self, channels: int, virtual_batch: int = VIRTUAL_BATCH) -> None:
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
        variance, mean = torch.var_mean(x, dim=(1, 3), keepdim=True, unbiased=False)
        x = ((x - mean) * torch.rsqrt(variance + 1e-5)).view(batch, channels, length)
        return x * self.weight.view(1, -1, 1) + self.bias.view(1, -1, 1)


class HeadBlock(nn.Module):
    """Spectrally normalised convolution over tokens, circular at the ends, batch norm, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.convolution: Any = spectral_norm(nn.Conv1d(inputs, outputs, kernel))
        self.norm = VirtualBatchNorm(outputs)
        self.reach = kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        if self.reach:
            x = self.convolution(circular(x, self.reach))
        else:  # a matrix product: on the CPU several times as fast as a convolution of one position
            x = self.convolution.weight[..., 0] @ x + self.convolution.bias.unsqueeze(-1)
        return nn.functional.leaky_relu(self.norm(x), 0.2)


def circular(x: Tensor, reach: int) -> Tensor:
    """f32[B, C, N], padded at each end with `reach` positions from the other end.

    torch's own circular padding refuses sequences shorter than the reach; indexing is slow to differentiate.
    """
    length = x.shape[-1]
    if length >= reach:
        return torch.cat([x[..., length - reach :], x, x[..., :reach]], dim=-1)
    return x[..., torch.arange(-reach, length + reach, device=x.device) % length]


class DiscriminatorHead(nn.Module):
    """One logit per position from one layer's features, conditioned by projection (Miyato & Koyama 2018)."""

    def __init__(self, channels: int, condition_width: int, map_width: int = 64) -> None:
        super().__init__()
        width = min(channels, MAX_HEAD_WIDTH)
        self.map_width = map_width if condition_width else 1
        self.first = HeadBlock(channels, width, 1)
        self.residual = HeadBlock(width, width, 9)
        self.logits: Any = spectral_norm(nn.Conv1d(width, self.map_width, 1))
        self.project = nn.Linear(condition_width, map_width) if condition_width else None

    def forward(self, features: Tensor, condition: Tensor | None) -> Tensor:
        """features f32[B, C, N], condition f32[B, D] -> logits f32[B, N]."""
        x = self.first(features)
        x = (x + self.residual(x)) / 2**0.5
        weight, bias = self.logits.weight[..., 0], self.logits.bias
        if self.project is None or condition is None:
            direction = torch.ones(len(x), 1, device=x.device)
        else:
            direction = self.project(condition) / self.map_width**0.5
        # <d, W x + b> = <W'd, x> + <d, b>: the projected map itself is never computed
        return ((direction @ weight).unsqueeze(1) @ x).squeeze(1) + (direction @ bias).unsqueeze(1)


class Discriminator(nn.Module):
    """A frozen feature network and one head per tapped layer; ADD and LADD differ only in the network.

    conditioning: "none", "text" (a text embedding), "image" (deep features of the real picture), or "both". A network
    that re-noises what it sees always adds the noise level.
    """

    def __init__(self, network: FeatureNetwork, text_width: int, conditioning: str = "both") -> None:
        super().__init__()
        self.network = network
        self.on_text, self.on_image = conditioning in ("text", "both"), conditioning in ("image", "both")
        width = text_width * self.on_text + network.embedding_width * self.on_image + network.level_width
        self.heads = nn.ModuleList(DiscriminatorHead(channels, width) for channels in network.widths)
        self.eval()

    def train(self, mode: bool = True) -> Discriminator:
        """Does nothing: the features are frozen, and spectral norms change only in `refresh_norms`."""
        return super().train(False)

    def refresh_norms(self) -> None:
        """One power iteration of every spectral norm: once per update, however many passes it takes.

        torch would do one in every pass, so accumulation and the number of processes would change the result.
        """
        for module in self.heads.modules():
            if isinstance(module, nn.Conv1d):
                parametrizations = module.get_submodule("parametrizations")
                parametrizations.train()
                _ = module.weight  # evaluates the parametrization
                parametrizations.eval()

    @torch.no_grad()
    def condition(self, real: Tensor, text: Tensor, pooled: Tensor, draws: Draws, shown: Tensor) -> Tensor | None:
        """What the heads are conditioned on, f32[B, D]; None when there is nothing.

        real: real pictures (or latents), text f32[B, 77, D], pooled: its summary f32[B, D]. shown: bool[B], the rows
        whose student sees something of the real picture; for the others its embedding is 0 (ADD, section 3.2). A
        critic that knew it would ask for one picture of many, and a student that cannot know which draws their mean.
        """
        parts = [_unit(pooled)] if self.on_text else []
        parts += [_unit(self.network.embed(real, text)) * shown.view(-1, 1)] if self.on_image else []
        parts += [self.network.levels(draws)] if self.network.level_width else []
        return torch.cat(parts, dim=-1) if parts else None

    def forward(self, features: list[Tensor], condition: Tensor | None) -> list[Tensor]:
        """Logits of every head, f32[B, positions] each."""
        return [head(feature, condition) for head, feature in zip(self.heads, features, strict=True)]


def _unit(x: Tensor) -> Tensor:
    """Scaled so that every entry has a magnitude of about one."""
    return nn.functional.normalize(x.float(), dim=-1) * x.shape[-1] ** 0.5

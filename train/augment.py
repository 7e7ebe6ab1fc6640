"""Differentiable augmentation of what a discriminator sees (DiffAugment, 2006.10738): colour, translation, cutout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def diff_augment(pictures: Tensor) -> Tensor:
    """f32[B, 3, H, W] -> the same shape; each picture is changed by its own random draw, gradients pass through."""
    return cutout(translate(colour(pictures)))


def colour(x: Tensor) -> Tensor:
    """Brightness by up to 0.5, saturation up to twice, contrast from half to one and a half."""
    x = x + (_uniform(x) - 0.5)
    mean = x.mean(dim=1, keepdim=True)
    x = (x - mean) * (_uniform(x) * 2) + mean
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - mean) * (_uniform(x) + 0.5) + mean


def translate(x: Tensor, ratio: float = 0.125) -> Tensor:
    """Shift by up to `ratio` of each side, zeros moving in."""
    batch, _, height, width = x.shape
    reach_y, reach_x = int(height * ratio), int(width * ratio)
    dy = torch.randint(-reach_y, reach_y + 1, (batch, 1, 1), device=x.device)
    dx = torch.randint(-reach_x, reach_x + 1, (batch, 1, 1), device=x.device)
    rows = (torch.arange(height, device=x.device).view(1, -1, 1) + dy + 1).clamp(0, height + 1)
    columns = (torch.arange(width, device=x.device).view(1, 1, -1) + dx + 1).clamp(0, width + 1)
    padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    index = torch.arange(batch, device=x.device).view(-1, 1, 1)
    return padded[index, rows, columns].permute(0, 3, 1, 2)


def cutout(x: Tensor, ratio: float = 0.4) -> Tensor:
    """Blank a square of `ratio` of each side at a random place."""
    batch, _, height, width = x.shape
    size_y, size_x = int(height * ratio), int(width * ratio)
    top = torch.randint(-size_y // 2, height - size_y // 2, (batch, 1, 1), device=x.device)
    left = torch.randint(-size_x // 2, width - size_x // 2, (batch, 1, 1), device=x.device)
    y = torch.arange(height, device=x.device).view(1, -1, 1)
    z = torch.arange(width, device=x.device).view(1, 1, -1)
    hole = (y >= top) & (y < top + size_y) & (z >= left) & (z < left + size_x)
    return x * (~hole).unsqueeze(1)


def _uniform(x: Tensor) -> Tensor:
    return torch.rand(x.shape[0], 1, 1, 1, device=x.device, dtype=x.dtype)

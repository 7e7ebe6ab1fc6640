"""LoRA files beside a pipeline folder's parts, added to the opened pipeline's weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.files import write_json
from train.folders import read_json

LORAS = "loras.json"  # {"lora-0.safetensors": scale}


def write_loras(folder: Path, loras: Sequence[tuple[Path, float]]) -> None:
    """Link to the files and note their scales; `fuse_loras` reads them."""
    scales = {}
    for number, (path, scale) in enumerate(loras):
        scales[f"lora-{number}.safetensors"] = scale
        (folder / f"lora-{number}.safetensors").symlink_to(path.resolve())
    write_json(folder / LORAS, scales)


def fuse_loras(pipe: Any, folder: Path) -> None:
    """In place: the folder's LoRAs, each at its scale, in order, by diffusers. Raises UserError for a misfit."""
    if not (folder / LORAS).is_file():
        return
    for name, scale in read_json(folder / LORAS).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                adapter = name.partition(".")[0]
                pipe.load_lora_weights(str(folder), weight_name=name, adapter_name=adapter, local_files_only=True)
                pipe.fuse_lora(adapter_names=[adapter], lora_scale=scale)
                pipe.unload_lora_weights()
            except Exception as error:  # diffusers and peft raise a dozen exception types here
                first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                file = (folder / name).resolve()
                raise UserError(f"--lora {file} does not fit the checkpoint: {first}") from error

"""The configuration files that the folders of all formats contain."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from export.source import Source

TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
ADDED_FILE, FAST_FILE = "added_tokens.json", "tokenizer.json"


def component_config(source: Source, component: str) -> dict[str, Any]:
    """The config.json of one component, as diffusers or transformers wrote it."""
    if component == "text_encoder":
        config: dict[str, Any] = source.pipe.text_encoder.config.to_dict()
        return {key: value for key, value in config.items() if key != "_name_or_path"}
    module = source.pipe.unet if component == "unet" else source.pipe.vae
    kept = {key: value for key, value in module.config.items() if key != "_name_or_path"}
    return {"_class_name": type(module).__name__, "_diffusers_version": version("diffusers")} | kept


def model_index(source: Source) -> dict[str, Any]:
    """model_index.json: diffusers' pipeline class and where each part's class lives."""
    vae = ["diffusers", type(source.pipe.vae).__name__]
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": version("diffusers"),
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", type(source.pipe.scheduler).__name__],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae_decoder": vae,
        "vae_encoder": vae,
    }


def write_tokenizer(folder: Path, source: Source) -> None:
    """Copy the checkpoint's tokenizer files byte for byte; convert them where it has them in another form.

    Either way transformers' CLIPTokenizer reads the folder, and gives the checkpoint's ids.
    """
    origin = source.folder / "tokenizer"
    if not all((origin / name).is_file() for name in TOKENIZER_FILES):
        source.pipe.tokenizer.save_pretrained(folder)
        (folder / FAST_FILE).unlink(missing_ok=True)  # what it holds is in the other files
        return
    folder.mkdir()
    for name in (*TOKENIZER_FILES, ADDED_FILE):
        if (origin / name).is_file():
            shutil.copyfile(origin / name, folder / name)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Readable JSON with a fixed key order, in a folder that is written whole."""
    path.write_text(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")

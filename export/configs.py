"""The configuration files that the folders of all formats contain."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from export.source import Source

TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
NO_CHECKER = {"requires_safety_checker": False, "safety_checker": [None, None]}
ADDED_FILE, FAST_FILE = "added_tokens.json", "tokenizer.json"


def component_config(source: Source, component: str) -> dict[str, Any]:
    """The config.json of one component, as diffusers or transformers wrote it."""
    if component in source.kind.encoders:
        config: dict[str, Any] = getattr(source.pipe, component).config.to_dict()
        return {key: value for key, value in config.items() if key != "_name_or_path"}
    module = source.pipe.unet if component == "unet" else source.pipe.vae
    kept = {key: value for key, value in module.config.items() if key != "_name_or_path"}
    return {"_class_name": type(module).__name__, "_diffusers_version": version("diffusers")} | kept


def model_index(source: Source) -> dict[str, Any]:
    """model_index.json: diffusers' pipeline class and where each part's class lives."""
    vae = ["diffusers", type(source.pipe.vae).__name__]
    encoders = {name: ["transformers", type(getattr(source.pipe, name)).__name__] for name in source.kind.encoders}
    tokenizers = {name: ["transformers", "CLIPTokenizer"] for name in source.kind.encoders.values()}
    return {
        "_class_name": source.kind.pipeline,
        "_diffusers_version": version("diffusers"),
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        **(of_sdxl(source) if source.kind.second_text else NO_CHECKER),
        "scheduler": ["diffusers", type(source.pipe.scheduler).__name__],
        **encoders,
        **tokenizers,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae_decoder": vae,
        "vae_encoder": vae,
    }


def of_sdxl(source: Source) -> dict[str, Any]:
    """What only SDXL's model_index.json says."""
    return {"add_watermarker": False, "force_zeros_for_empty_prompt": source.pipe.config.force_zeros_for_empty_prompt}


def write_tokenizers(folder: Path, source: Source) -> None:
    """Write each tokenizer into its folder of an export; see `write_tokenizer`."""
    for name in source.kind.encoders.values():
        write_tokenizer(folder / name, source, name)


def write_tokenizer(folder: Path, source: Source, name: str = "tokenizer") -> None:
    """Copy the checkpoint's tokenizer files byte for byte; convert them where it has them in another form.

    Either way transformers' CLIPTokenizer reads the folder, and gives the checkpoint's ids.
    """
    origin = source.folder / name
    if not all((origin / file).is_file() for file in TOKENIZER_FILES):
        getattr(source.pipe, name).save_pretrained(folder)
        (folder / FAST_FILE).unlink(missing_ok=True)  # what it holds is in the other files
        return
    folder.mkdir()
    for file in (*TOKENIZER_FILES, ADDED_FILE):
        if (origin / file).is_file():
            shutil.copyfile(origin / file, folder / file)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Readable JSON with a fixed key order, in a folder that is written whole."""
    path.write_text(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")

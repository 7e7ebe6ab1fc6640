"""The folder of OpenVINO IR: models, the configurations that OpenVINO GenAI requires, metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from export.configs import component_config, model_index, write_json, write_tokenizers
from export.facts import PREFIX, as_metadata
from export.openvino.scheduler import agreeing, genai_scheduler
from export.openvino.tokenizer import write_openvino_tokenizer
from export.source import Source
from runtime.command import tell
from runtime.errors import UserError

VAE = "AutoencoderKL"  # the only one that GenAI knows; it reads the same keys from a tiny autoencoder


def refuse_uneven(source: Source) -> None:
    """Raises UserError where GenAI would draw another picture: it gives SDXL's U-Net width before height."""
    height, width = source.image_size
    if source.kind.second_text and height != width:
        raise UserError(
            f"OpenVINO GenAI tells SDXL's U-Net width before height, so a picture of {width}x{height} would not be "
            "diffusers': export a square one"
        )


def write_configs(folder: Path, source: Source) -> dict[str, Any]:
    """Write everything but the models.

    Returns the scheduler's name, and which one it replaced, and the numbers of steps that it takes as the checkpoint's
    own does.
    """
    for name in source.components:
        (folder / name).mkdir()
        write_json(folder / name / "config.json", component_config(source, name) | one_side(source, name))
    write_tokenizers(folder, source)
    for name in source.kind.encoders.values():
        write_openvino_tokenizer(folder / name, getattr(source.pipe, name))
    scheduler = genai_scheduler(source)
    scheduler.save_pretrained(folder / "scheduler")
    name, own = type(scheduler).__name__, type(source.pipe.scheduler).__name__
    write_json(folder / "model_index.json", genai_index(source, name))
    held = [count for count in agreeing(source.pipe.scheduler, scheduler, source.eta) if count in source.tables]
    if others := sorted(set(source.tables) - set(held)):
        counts = " or ".join(map(str, others))
        tell(f"warning: in {counts} steps OpenVINO GenAI draws other pictures than {own}, which it does not have")
    return {"scheduler": name if name == own else f"{name} in place of {own}", "genai_steps": held}


def one_side(source: Source, part: str) -> dict[str, Any]:
    """The U-Net's sample_size as GenAI reads it: one side of the latents, of an oblong picture the longer.

    GenAI draws a square of that side unless height and width are given.
    """
    return {"sample_size": max(source.latent_shape[1:])} if part == "unet" else {}


def genai_index(source: Source, scheduler: str) -> dict[str, Any]:
    """model_index.json with one entry `vae` for both halves of the autoencoder."""
    index = {key: value for key, value in model_index(source).items() if not key.startswith("vae_")}
    return index | {"scheduler": ["diffusers", scheduler], "vae": ["diffusers", VAE]}


def note(path: Path, facts: dict[str, Any]) -> None:
    """Store facts as rt_info of a written model's .xml: openvino.Model.get_rt_info(["addkit", key]).value.

    Only the .xml is rewritten, whatever the size of the weights.
    """
    tree = ElementTree.parse(path)
    root = tree.getroot()
    info = root.find("rt_info")
    ours = ElementTree.SubElement(ElementTree.SubElement(root, "rt_info") if info is None else info, PREFIX.rstrip("."))
    for key, value in as_metadata(facts).items():
        ElementTree.SubElement(ours, key.removeprefix(PREFIX), value=value)
    tree.write(path, encoding="utf-8", xml_declaration=True)

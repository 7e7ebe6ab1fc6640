"""A model in one file, in the original (LDM) layout, as a pipeline folder: configurations, and a link to the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.files import write_json
from runtime.shipped import shipped_folder
from train.families import FAMILIES
from train.folders import read_json
from train.opening.models import MODELS, SD1, SDXL, choices, model_of, predicts_v
from train.opening.structure import (
    CLIP_L,
    OPEN_CLIP,
    UNET,
    VAE,
    XL_CLIP_L,
    XL_OPEN_CLIP,
    Shapes,
    structure_of,
    text_configs,
    unet_config,
    vae_config,
)
from train.weights.files import WHOLE, read_safetensors, safetensors_header
from train.weights.keys import ADAPTER

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
VOCABULARY = ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json")
END, EXCLAMATION = "<|endoftext|>", "!"  # the two pads: OpenAI's CLIP, and OpenCLIP
CONFIGS = (".json", ".txt")
# Tensors of models that are not Stable Diffusion's: what their names begin with, behind an optional prefix.
OTHERS = {"double_blocks.": "Flux", "joint_blocks.": "StableDiffusion3", "blocks.0.cross_attn.": "Sana"}


def write_from_file(made: Path, file: Path, config: str | None) -> None:
    """Fill the empty folder `made` for a .safetensors file.

    config: a name of MODELS, or a pipeline folder whose configurations are taken; None: the file says which model it
    is. Raises UserError, one line.
    """
    shapes, metadata = header_of(file)
    structure = structure_of(shapes)
    if structure is None:
        raise UserError(f"{file} {other(shapes)}")
    missing = [what for what, prefix in needed(structure).items() if not any(n.startswith(prefix) for n in shapes)]
    if missing:
        raise UserError(f"{file} has the U-Net of {structure} but no {missing[0]}: give the file of the whole model")
    if config is not None and config not in MODELS:
        copy_configs(made, Path(config))
    else:
        write_configs(made, file, shapes, structure, chosen(file, shapes, structure, metadata, config))
    (made / WHOLE).symlink_to(file.resolve())


def header_of(file: Path) -> tuple[Shapes, Mapping[str, str]]:
    """Name -> shape of a file's tensors, and the texts of its header. Raises UserError."""
    if file.suffix in PICKLES:
        raise UserError(
            f"{file} is a pickle, which can run any code when it is opened: get the model as .safetensors, the form in "
            "which it is published too"
        )
    if file.suffix != ".safetensors":
        raise UserError(f"{file} is a file: give a diffusers folder, or a model in one .safetensors file")
    shapes = {name: weight.shape for name, weight in read_safetensors(file)}
    said = safetensors_header(file)[0]
    metadata = {str(key): str(value) for key, value in (said.get("__metadata__") or {}).items()}
    return shapes | {"v_pred": ()} if "v_pred" in said else shapes, metadata


def needed(structure: str) -> dict[str, str]:
    """What a file of that structure must hold beside the U-Net: its beginning, by a word for it."""
    texts = {"text encoder": CLIP_L if structure == SD1 else OPEN_CLIP}
    if structure == SDXL:
        texts = {"first text encoder": XL_CLIP_L, "second text encoder": XL_OPEN_CLIP}
    return {"autoencoder": VAE, **texts}


def other(names: Shapes) -> str:
    """What a file without Stable Diffusion's tensors is, and what to give instead."""
    for beginning, family in FAMILIES.items():
        if any(OTHERS.get(key) == beginning for key in OTHERS if any(key in name for name in names)):
            return (
                f"belongs to the family {family.name}, which is not exported or distilled; {family.takers} can run it"
            )
    if any(ADAPTER.search(name) or ".lora_" in name for name in names):
        return "is a LoRA: give its base model as CHECKPOINT, and the file by --lora"
    if any(name.startswith(("down_blocks.", UNET, "input_blocks.")) for name in names):
        return "holds a U-Net alone: give the folder of a pipeline with the other parts by --base"
    if any(name.startswith(("decoder.", "encoder.", VAE)) for name in names):
        return "holds an autoencoder alone: give its folder by --vae, and a whole model as CHECKPOINT"
    return "is no model in the original layout of Stable Diffusion (model.diffusion_model.*): give one, or a folder"


def chosen(
    file: Path, shapes: Shapes, structure: str, metadata: Mapping[str, str], config: str | None
) -> dict[str, Any]:
    """The model that a file holds, with its scheduler. Raises UserError where nothing says which it is."""
    name = config or model_of(structure, file.stem, metadata)
    if name is None:
        raise UserError(
            f"{file} has the structure of {structure}, and nothing in its name or header says which model it is: name "
            f"it by --config, or in the file's name: {choices(structure)}"
        )
    model = MODELS[name]
    if model.structure != structure:
        raise UserError(f"--config {name} is {model.structure}, and {file} has the structure of {structure}")
    scheduler = model.scheduler_config
    if config is None and predicts_v(metadata, shapes) and scheduler["prediction_type"] != "v_prediction":
        raise UserError(f"{file} predicts v, and {name} does not: give its own model's folder by --config")
    return {"latents": model.latents, "scheduler": scheduler}


def write_configs(made: Path, file: Path, shapes: Shapes, structure: str, model: Mapping[str, Any]) -> None:
    """model_index.json, and the parts' configurations by the file's shapes."""
    try:
        unet = unet_config(shapes, structure, model["latents"])
        side = model["latents"] * 8
        configs = {"unet": unet, "vae": vae_config(shapes, structure, side), **text_configs(shapes, structure)}
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except (LookupError, ValueError, StopIteration) as error:
        raise UserError(f"{file} is not whole, or is another model than {structure}: {error!r}") from error
    for part, config in configs.items():
        (made / part).mkdir()
        write_json(made / part / "config.json", config)
    (made / "scheduler").mkdir()
    write_json(made / "scheduler" / "scheduler_config.json", model["scheduler"])
    pads = {"tokenizer": EXCLAMATION if structure not in (SD1, SDXL) else END}
    pads |= {"tokenizer_2": EXCLAMATION} if structure == SDXL else {}
    for part, pad in pads.items():
        write_tokenizer(made / part, pad)
    write_json(made / "model_index.json", index_of(configs, pads, model["scheduler"]["_class_name"]))


def index_of(configs: Mapping[str, Mapping[str, Any]], pads: Mapping[str, str], scheduler: str) -> dict[str, Any]:
    """model_index.json as diffusers writes it."""
    xl = "text_encoder_2" in configs
    kinds = {part: config.get("_class_name") or config["architectures"][0] for part, config in configs.items()}
    index: dict[str, Any] = {"_class_name": "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline"}
    if not xl:
        index |= {"requires_safety_checker": False, "safety_checker": [None, None]}
    index |= {"feature_extractor": [None, None], "image_encoder": [None, None], "scheduler": ["diffusers", scheduler]}
    index |= {part: ["transformers", "CLIPTokenizer"] for part in pads}
    library = {"unet": "diffusers", "vae": "diffusers"}
    return index | {part: [library.get(part, "transformers"), kind] for part, kind in kinds.items()}


def write_tokenizer(folder: Path, pad: str) -> None:
    """CLIP's tokenizer, whose vocabulary comes with the runtime, with another pad."""
    shipped = shipped_folder("sticker-128") / "tokenizer"
    folder.mkdir()
    for name in VOCABULARY:
        data = (shipped / name).read_bytes()
        if name.endswith(("map.json", "config.json")):
            data = json.dumps(json.loads(data) | {"pad_token": pad}, indent=2).encode()
        (folder / name).write_bytes(data)


def copy_configs(made: Path, origin: Path) -> None:
    """Everything of a pipeline folder but its weights. Raises UserError."""
    if not (origin / "model_index.json").is_file():
        raise UserError(f"--config {origin}: give {', '.join(MODELS)}, or a pipeline folder (model_index.json)")
    read_json(origin / "model_index.json")
    for path in sorted(origin.rglob("*")):
        if path.is_file() and path.suffix in CONFIGS and not path.name.endswith(".index.json"):
            target = made / path.relative_to(origin)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())

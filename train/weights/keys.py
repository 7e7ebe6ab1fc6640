"""Names of stored tensors: those that other versions of the libraries wrote, and those that no network has."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from runtime.errors import UserError

CLIP_PREFIX = "text_model."  # which transformers 5.6 leaves out and others need
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of old autoencoders
# Tensors beside a text encoder's own: buffers of old transformers, and the rest of a CLIP model.
BESIDE = re.compile(r"(.*\.)?position_ids|text_projection\.weight|logit_scale|vision_model\..*|visual_projection\..*")
ADAPTER = re.compile(r"(^|[._])(lora[._]|base_layer\.)")
Shapes = Mapping[str, tuple[int, ...]]


def refuse_adapters(folder: Path, names: Collection[str]) -> None:
    """Raise UserError when a part was saved with a LoRA beside its weights instead of merged into them."""
    found = sorted(name for name in names if ADAPTER.search(name))
    if found:
        raise UserError(
            f"{folder} was saved with a LoRA that is not merged ({found[0]} and {len(found) - 1} more tensors): open "
            "the base model with diffusers, call pipe.load_lora_weights(LORA), pipe.fuse_lora() and "
            "pipe.unload_lora_weights(), then pipe.save_pretrained(FOLDER)"
        )


def refuse_others(folder: Path, stored: Shapes, expected: Shapes) -> None:
    """Raise UserError, one line, unless a part's files hold exactly the tensors that its network has.

    stored, expected: name -> shape. The line names the first tensor and says how many there are.
    """
    refuse_adapters(folder, stored)
    found = {restored(name, expected): shape for name, shape in stored.items()}
    if missing := [name for name in expected if name not in found]:
        raise UserError(
            f"{folder}: the files lack {missing[0]} ({len(missing)} of {len(expected)} tensors are missing): copy the "
            "whole folder again from where it is complete"
        )
    beside = [name for name in found if name not in expected and not BESIDE.fullmatch(name)]
    if beside:
        raise UserError(
            f"{folder}: the files hold {beside[0]} ({len(beside)} such tensors), which a network of its config.json "
            "has not: copy config.json and weights from one model"
        )
    other = [name for name in expected if found[name] != expected[name]]
    if other:
        raise UserError(
            f"{folder}: {other[0]} is stored as {shown(found[other[0]])}, and config.json says "
            f"{shown(expected[other[0]])} ({len(other)} such tensors): copy config.json and weights from one model"
        )


def restored(name: str, expected: Collection[str]) -> str:
    """A stored tensor's name as the libraries know it today; the name itself where nothing fits."""
    return next((one for one in candidates(name) if one in expected), name)


def candidates(name: str) -> list[str]:
    """What a stored name may stand for."""
    *before, last, kind = ("." + name).rsplit(".", 2)
    renamed = f"{before[0]}.{OLD_ATTENTION[last]}.{kind}"[1:] if last in OLD_ATTENTION else name
    return [name, CLIP_PREFIX + name, renamed]


def lacks_prefix(stored: Collection[str], expected: Collection[str]) -> bool:
    """Whether a text encoder's tensors are named without CLIP_PREFIX."""
    return any(name not in expected and CLIP_PREFIX + name in expected for name in stored)


def shown(shape: tuple[int, ...]) -> str:
    """A shape as 3x4x5."""
    return "x".join(map(str, shape)) or "a number"

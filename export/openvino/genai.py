"""Draws with OpenVINO GenAI's own pipelines from given noise, as its users will."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.openvino.run import load_openvino, reason
from export.source import Floats
from runtime.errors import UserError

DRAWS = 2  # of noise in one step: the first, and one that an ancestral scheduler draws and weighs by 0


def text_to_image(
    folder: Path,
    prompt: str,
    noise: Floats,
    device: str = "CPU",
    precision_hint: str = "f32",
    size: tuple[int, int] | None = None,
) -> npt.NDArray[np.uint8]:
    """The one-step picture u8[H,W,3] of a prompt from initial latents f32[C,h,w].

    size: (height, width) of the picture. Raises UserError with OpenVINO's reason where GenAI cannot open the folder or
    draw with it.
    """
    return draw(opened(folder, device, precision_hint), prompt, [noise] * DRAWS, size=size)


def opened(folder: Path, device: str = "CPU", precision_hint: str = "f32") -> Any:
    """GenAI's Text2ImagePipeline. Raises UserError with OpenVINO's reason where it cannot open the folder."""
    load_openvino()
    import openvino_genai

    try:
        return openvino_genai.Text2ImagePipeline(folder, device, INFERENCE_PRECISION_HINT=precision_hint)
    except RuntimeError as error:
        raise UserError(f"OpenVINO GenAI cannot open {folder}: {reason(error)}") from error


def draw(
    pipe: Any, prompt: str, noises: Iterable[Floats], steps: int = 1, size: tuple[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """A picture u8[H,W,3] by an opened pipeline.

    noises: the initial latents f32[C,h,w], and what later steps add. size: (height, width). Raises UserError with
    OpenVINO's reason where GenAI cannot draw.
    """
    sides = dict(zip(("height", "width"), size, strict=True)) if size else {}
    try:
        made = pipe.generate(prompt, num_inference_steps=steps, guidance_scale=0.0, generator=given(noises), **sides)
    except RuntimeError as error:
        raise UserError(f"OpenVINO GenAI cannot draw: {reason(error)}") from error
    return np.array(made.data[0], np.uint8)


def given(noises: Iterable[Floats]) -> Any:
    """A GenAI generator that returns these noises in turn, each an f32 array of the size asked for."""
    openvino = load_openvino()
    import openvino_genai

    class Given(openvino_genai.Generator):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.noises = iter(noises)

        def randn_tensor(self, shape: Any) -> Any:
            return openvino.Tensor(np.ascontiguousarray(next(self.noises), np.float32).reshape(tuple(shape)))

    return Given()

"""The engines of `runtime.bench`: our runtime, and what a user would pick instead, on the same weights.

Each is opened in a process of its own (`runtime.bench.worker`). Their packages are not dependencies of the runtime:
only this file imports them, when a bench asks for them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from runtime.errors import Error

Draw = Callable[[str, int], Any]  # (prompt, seed) -> a PIL picture, or one that has .save
PEERS = {
    "diffusers": ("diffusers", "torch"),
    "diffusers-bf16": ("diffusers", "torch"),
    "optimum": ("optimum-onnx", "onnxruntime"),
    "optimum-int8": ("optimum-onnx", "onnxruntime"),
    "openvino": ("openvino-genai", "openvino"),
}
# What a peer opens: the checkpoint itself, our bundle, or an export of the checkpoint.
EXPORTS = {"optimum": ("export.onnx", "onnx-fp32"), "openvino": ("export.openvino", "openvino-fp32")}


@dataclass(frozen=True)
class Engine:
    """How a worker opens an engine. folder: a bundle, a checkpoint or an export; threads: of the processor."""

    name: str
    folder: str
    provider: str
    threads: int

    def open(self) -> Draw:
        """A function that makes a picture in one step."""
        return OPENERS[self.name](self)


def versions(name: str) -> str:
    """The installed packages of a peer with their versions; Error that says what is missing."""
    try:
        return ", ".join(f"{package} {version(package)}" for package in PEERS[name])
    except PackageNotFoundError as error:
        raise Error(f"{error.name} is not installed: pip install 'addkit[export]'") from error


def peer_folder(name: str, bundle: Path, checkpoint: Path | None, work: Path) -> Path:
    """What a peer opens, an export in `work` for some. Raises Error that says how to make it where it is missing."""
    if name == "optimum-int8":
        return bundle
    if checkpoint is None:
        raise Error("it needs the checkpoint that the bundle was made from: give --checkpoint DIR")
    if name not in EXPORTS:
        return checkpoint
    module, kind = EXPORTS[name]
    target = work / f"{checkpoint.resolve().name}-{kind}"
    if not target.is_dir():
        raise Error(f"it needs an export of the checkpoint: python -m {module} {checkpoint} --out {target}")
    return target


def open_addkit(engine: Engine) -> Draw:
    """Our runtime."""
    import runtime

    pipe = runtime.load(engine.folder, engine.provider, threads=engine.threads)
    return lambda prompt, seed: pipe(prompt, seed=seed, variation=None)[0]  # the peers' prompts, and no others


def open_diffusers(engine: Engine, half: bool = False) -> Draw:
    """diffusers on PyTorch, in single precision."""
    import torch
    from diffusers import StableDiffusionPipeline

    torch.set_num_threads(engine.threads)
    kind = torch.bfloat16 if half else torch.float32
    pipe = StableDiffusionPipeline.from_pretrained(engine.folder, torch_dtype=kind, safety_checker=None)
    return one_step(pipe)


def one_step(pipe: Any) -> Draw:
    """A pipeline of diffusers' interface as a function."""
    import torch

    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu")
    return lambda prompt, seed: pipe(
        prompt, num_inference_steps=1, guidance_scale=0.0, generator=generator.manual_seed(seed)
    ).images[0]


def open_diffusers_bf16(engine: Engine) -> Draw:
    """diffusers on PyTorch, in bf16."""
    return open_diffusers(engine, half=True)


def open_optimum(engine: Engine) -> Draw:
    """optimum on ONNX Runtime: the checkpoint's export in single precision, or the very bundle that we run."""
    import onnxruntime
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = engine.threads
    pipe = ORTStableDiffusionPipeline.from_pretrained(engine.folder, session_options=options)
    return one_step(pipe)


def open_openvino(engine: Engine) -> Draw:
    """OpenVINO GenAI, in the precision that it picks (bf16 on a processor that has it)."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it phones home on import
    import openvino_genai
    from PIL import Image

    pipe = openvino_genai.Text2ImagePipeline(engine.folder, "CPU", INFERENCE_NUM_THREADS=engine.threads)

    def draw(prompt: str, seed: int) -> Any:
        made = pipe.generate(prompt, num_inference_steps=1, guidance_scale=0.0, rng_seed=seed)
        return Image.fromarray(made.data[0])

    return draw


OPENERS: dict[str, Callable[[Engine], Draw]] = {
    "addkit": open_addkit,
    "diffusers": open_diffusers,
    "diffusers-bf16": open_diffusers_bf16,
    "optimum": open_optimum,
    "optimum-int8": open_optimum,
    "openvino": open_openvino,
}

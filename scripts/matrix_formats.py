"""The formats of the matrix: how each is exported, and how its users draw with it."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.checks.gates import THRESHOLDS_DB
from runtime.manifest import MARKER

Pictures = npt.NDArray[np.float32]  # [N,H,W,3] in [0,1]
Draw = Callable[[Sequence[str], int], Pictures]  # prompts, the seeds being 0, 1, ..., and the number of steps


class Refused(Exception):
    """An exporter refuses a model, or a format a number of steps: the reason."""


@dataclass(frozen=True)
class Format:
    """A format: an exporter's module and options, what draws with it, and how close its pictures must be."""

    title: str
    module: str
    options: tuple[str, ...]
    open: Callable[[Path, Any], Draw]  # from the export and the judge
    least_db: float


def export(format: Format, arguments: Sequence[str], out: Path) -> Path:
    """The export of a checkpoint, made by the exporter's command line. Raises Refused with its error."""
    main = importlib.import_module(f"{format.module}.__main__").main
    options = (*format.options, "--out", str(out), "--overwrite", "--no-room-check")
    with redirect_stderr(io.StringIO()) as told, redirect_stdout(io.StringIO()):
        code = main([*arguments, *options])
    if code:
        errors = [line for line in told.getvalue().splitlines() if line.startswith("error: ")]
        raise Refused(errors[-1].removeprefix("error: ") if errors else f"ended with {code}: {told.getvalue()}")
    return out


def runtime_draws(bundle: Path, judge: Any) -> Draw:
    """This project's runtime, given prompts and seeds."""
    import runtime

    pipe = runtime.load(bundle, "cpu")

    def draw(prompts: Sequence[str], steps: int) -> Pictures:
        seeds = list(range(len(prompts)))
        return np.asarray(pipe(list(prompts), seed=seeds, num_inference_steps=steps, output_type="np"), np.float32)

    return draw


def genai_draws(folder: Path, judge: Any) -> Draw:
    """OpenVINO GenAI's Text2ImagePipeline, given prompts and torch's noise; its pixels are whole numbers."""
    from export.openvino.genai import draw as drawn
    from export.openvino.genai import opened

    facts, pipe = said(folder), opened(folder)

    def draw(prompts: Sequence[str], steps: int) -> Pictures:
        if steps not in facts["genai_steps"]:
            raise Refused(f"GenAI has no {type(judge.scheduler).__name__}; the exporter says so")
        noises = [normals(seed, facts["latent_shape"]) for seed in range(len(prompts))]
        made = [drawn(pipe, *case, steps, facts["image_size"]) for case in zip(prompts, noises, strict=True)]
        return np.asarray(np.stack(made) / 255, np.float32)

    return draw


def normals(seed: int, shape: Sequence[int]) -> Iterator[Pictures]:
    """What torch's generator gives, again and again."""
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)
    while True:
        yield torch.randn(*shape, generator=generator).numpy()


def evaluator_draws(folder: Path, judge: Any) -> Draw:
    """The Core ML programs by the reference evaluator; ids by the judge's tokenizers, steps as the packages say."""
    from export.checks.reference import StoredSampling, pictures
    from export.parity.engines import open_network, told_by
    from runtime.manifest import Step

    facts = said(folder)
    network = open_network("coreml", folder, facts, {})
    lists = ("latents", "outputs")
    tables = {
        int(count): tuple(Step(**entry | {key: tuple(entry[key]) for key in lists}) for entry in entries)
        for count, entries in facts["steps"].items()
    }
    tokenizers = [getattr(judge, one.tokenizer) for one in told_by(facts).conditioning.text_encoders]
    sampling = StoredSampling(facts["prediction_type"], facts["scaling_factor"], tables)

    def draw(prompts: Sequence[str], steps: int) -> Pictures:
        options = {"padding": "max_length", "max_length": facts["max_tokens"], "truncation": True}
        read = [one(list(prompts), **options).input_ids for one in tokenizers]
        ids = np.concatenate(read, axis=1).astype(np.int64)
        seeds = [normals(seed, facts["latent_shape"]) for seed in range(len(prompts))]
        draws = np.stack([[next(seed) for seed in seeds] for _ in range(1 + steps)])
        return pictures(network, sampling, ids, draws, steps).transpose(0, 2, 3, 1)

    return draw


def said(folder: Path) -> dict[str, Any]:
    """What an export's marker says."""
    facts: dict[str, Any] = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    return facts


FORMATS: dict[str, Format] = {
    "onnx-fp32": Format("ONNX fp32", "export.onnx", ("--precision", "fp32"), runtime_draws, 60.0),
    "onnx-int8": Format("ONNX int8", "export.onnx", ("--precision", "int8"), runtime_draws, 35.0),
    "openvino": Format("OpenVINO", "export.openvino", (), genai_draws, 45.0),
    "coreml": Format("Core ML fp16", "export.coreml", (), evaluator_draws, THRESHOLDS_DB["fp16"]),
}

"""Export an OpenVINO folder: write the models, judge them against PyTorch, put the folder in place."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.checks.measure import Measure, Parity, at_least, psnr_db, refuse_below
from export.checks.reference import Reference
from export.checks.weights import watching
from export.facts import model_facts, size_mb
from export.heap import give_back_memory
from export.openvino.convert import convert, parts
from export.openvino.folder import note, refuse_uneven, write_configs
from export.openvino.genai import text_to_image
from export.openvino.int8 import quantize_weights
from export.openvino.options import STORED, Options
from export.openvino.run import MODEL, load_openvino, network_of
from export.source import Source
from export.text import told
from runtime.bundle import describe_files
from runtime.errors import UserError
from runtime.files import whole_folder
from runtime.manifest import MARKER
from train.progress import progress

FLOAT_PARTS = ("vae_encoder",)  # not quantized: an exact projection would break, and no picture from text would show it
COMPARED = "f32"  # what models compute in when they are compared
GENAI_DB = 40.0  # the highest threshold for GenAI's picture: truncating its pixels to whole numbers alone gives 53 dB


def export_openvino(source: Source, out: Path, options: Options | None = None) -> dict[str, Any]:
    """Write the folder `out` of a checkpoint and return its report.

    Raises UserError, and writes nothing, when `out` is taken, GenAI has no scheduler for the checkpoint, or a picture
    is too far from the checkpoint's.
    """
    started = time.perf_counter()
    options = options or Options()
    refuse_uneven(source)
    with (
        progress(f"export to OpenVINO {options.precision}", 4 + len(source.components)) as advance,
        whole_folder(out, MARKER, options.overwrite) as folder,
    ):
        schedule = write_configs(folder, source)
        advance(1)
        with watching(source, options.precision):
            reference = Reference(source)
        advance(1)
        recipe = write_models(folder, source, options.precision, advance)
        figures = verify(folder, reference, options).to_json()
        advance(1)
        facts = model_facts(source, options.precision, recipe) | schedule | {"format": "openvino"}
        for path in folder.glob("*/*.xml"):
            note(path, facts | {"parity": figures})
        marker = facts | figures | source.facts() | {"files": describe_files(folder)}
        (folder / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
        advance(1)
    report = {"path": str(out), "size_mb": round(size_mb(out), 2)}
    return report | {"export_s": round(time.perf_counter() - started, 1)} | facts | figures


def write_models(folder: Path, source: Source, precision: str, advance: Callable[[int], None]) -> dict[str, Any]:
    """Convert and write every part, one at a time; returns how the weights are stored."""
    openvino = load_openvino()
    counts: dict[str, int] = {}
    for part in parts(source):
        model = convert(part)
        if precision == "int8" and part.name not in FLOAT_PARTS:
            counts[part.name] = quantize_weights(model)
        openvino.save_model(model, folder / part.name / MODEL, compress_to_fp16=precision != "fp32")
        del model
        give_back_memory()
        advance(1)
    return {"weights": STORED[precision]} | source.folded | ({"quantized_weights": counts} if counts else {})


def verify(folder: Path, reference: Reference, options: Options) -> Parity:
    """Compare the written models and a picture that GenAI draws with them; UserError below the threshold."""
    what = f"OpenVINO {options.precision} of {reference.source.name}"
    parity = reference.compare(
        network_of(folder, precision_hint=COMPARED, told=told(reference.source)), options.threshold_db
    )
    refuse_below(parity, what)
    give_back_memory()
    drawn = genai_picture(folder, reference, min(GENAI_DB, options.threshold_db))
    if drawn.status == "failed":
        raise UserError(f"{what}: drawn by OpenVINO GenAI, a picture is {drawn.why}; nothing was written")
    version = load_openvino().get_version()
    parity.notes |= {"computed_by": f"OpenVINO {version}, CPU, {COMPARED}", "genai_picture": asdict(drawn)}
    return parity


def genai_picture(folder: Path, reference: Reference, least_db: float) -> Measure:
    """The first case's picture by GenAI beside the one by diffusers, each with its own tokenizer and scheduler."""
    source, noise = reference.source, reference.noise[0]
    prompt = source.prompts.compared[0]
    found = text_to_image(folder, prompt, noise, precision_hint=COMPARED, size=source.image_size)
    height, width = source.image_size
    made = source.pipe(
        prompt,
        height=height,
        width=width,
        latents=torch.from_numpy(noise[None]),
        num_inference_steps=1,
        guidance_scale=0.0,
        output_type="np",
    )
    expected = made.images[0]
    return at_least(Measure(None, psnr_db(expected, found / np.float32(255), peak=1.0)), least_db)

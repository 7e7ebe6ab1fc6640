"""A checkpoint as the exporters see it: the fp32 pipeline, its sizes and its noise schedule."""

from __future__ import annotations

import json
import logging
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export.checks.gates import MOST_STEPS
from export.checks.prompts import GENERAL, Prompts, prompts_for
from export.locate import locate
from export.picture_size import Size, latents_of, side_factor
from export.steps import steps_of
from runtime import schedule
from runtime.bundle import MOST_MANIFEST
from runtime.errors import UserError
from runtime.manifest import Step
from runtime.tokenizer.conditioning import Conditioning, TextEncoder
from runtime.tokenizer.vocabulary import MAX_TOKENS
from runtime.untrusted import read_json, shown
from runtime.variation import Variation
from train.families import KINDS, SD, Kind
from train.folders import pipeline_kind
from train.opening.call import Call, read_call
from train.opening.hub import name_of

STATES, POOLED = "last_hidden_state", "text_embeds"  # outputs of text encoders
LARGE = 200_000_000  # parameters of a U-Net
FACTS = "training.json"  # next to model_index.json: what the trainer says about the checkpoint
VARIATION = "variation.json"  # and what the prompts of its data leave open
Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """One checkpoint, opened: `pipe` is diffusers' pipeline of its kind in fp32 on the CPU."""

    name: str
    folder: Path
    pipe: Any
    prompts: Prompts = GENERAL  # such as the model was trained for
    sizes: tuple[Size, ...] = ()  # (height, width) of every picture that the export makes; (): image_size alone
    size: Size | None = None  # of its pictures; None: the U-Net's own
    kind: Kind = SD
    variant: str | None = None  # of the weight files, as asked for

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one picture's latents."""
        height, width = latents_of(self.pipe.unet.config)
        if self.size is not None:
            height, width = (side // side_factor(self.pipe.vae.config) for side in self.size)
        return int(self.pipe.unet.config.in_channels), height, width

    @property
    def image_size(self) -> Size:
        """(height, width) in pixels."""
        factor = side_factor(self.pipe.vae.config)
        return self.latent_shape[1] * factor, self.latent_shape[2] * factor

    def at(self, size: Size) -> Source:
        """The same with pictures of another (height, width)."""
        return replace(self, size=size)

    @property
    def scaling_factor(self) -> float:
        """Latents are divided by it before decoding."""
        return float(self.pipe.vae.config.scaling_factor)

    @property
    def prediction_type(self) -> str:
        """ "v_prediction" or "epsilon"."""
        return str(self.pipe.scheduler.config.prediction_type)

    @property
    def folded(self) -> dict[str, Any]:
        """What diffusers' call takes and the exports hold as a constant: `guidance_scale` and `eta`, if anything."""
        scale = getattr(self.pipe, "folded_guidance", None)
        return ({} if scale is None else {"guidance_scale": scale}) | ({"eta": self.eta} if self.eta else {})

    @cached_property
    def call(self) -> Call:
        """What is given to diffusers' call."""
        return read_call(self.folder)

    @property
    def eta(self) -> float:
        """How much noise DDIM and TCD add after a step."""
        return self.call.eta

    @cached_property
    def conditioning(self) -> Conditioning:
        """What the U-Net is told, and by which outputs of the exported text encoders."""
        encoders = []
        for component, tokenizer in self.kind.encoders.items():
            model = getattr(self.pipe, component)
            states = f"hidden_states.{model.config.num_hidden_layers - 1}" if self.kind.second_text else STATES
            pooled = POOLED if self.kind.second_text and hasattr(model, "text_projection") else None
            encoders.append(TextEncoder(component, tokenizer, states, pooled))
        zeros = self.kind.second_text and bool(self.pipe.config.force_zeros_for_empty_prompt)
        return Conditioning(tuple(encoders), self.kind.second_text, zeros)

    @property
    def components(self) -> tuple[str, ...]:
        """The networks that an export has, in the order of a call."""
        return self.conditioning.components

    @property
    def upcast(self) -> bool:
        """Whether the autoencoder must be computed in single precision, as diffusers does it."""
        return self.kind.second_text and bool(getattr(self.pipe.vae.config, "force_upcast", False))

    @cached_property
    def large(self) -> bool:
        """Whether the model is so slow that measurements use fewer pictures."""
        return bool(sum(weight.numel() for weight in self.pipe.unet.parameters()) > LARGE)

    @cached_property
    def levels(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(alpha, sigma), f64 at every training timestep."""
        return schedule.from_scheduler_config(self.pipe.scheduler.config)

    @cached_property
    def tables(self) -> dict[int, tuple[Step, ...]]:
        """Number of steps -> the steps as the checkpoint's own scheduler takes them, for every number that it can.

        One alone where the one step's timestep was given. Raises UserError when it cannot take one.
        """
        tables = {1: self._steps(1)}
        for count in range(2, 1 + (1 if self.call.timestep is not None else MOST_STEPS)):
            with suppress(UserError):
                tables[count] = self._steps(count)
        return tables

    def _steps(self, count: int) -> tuple[Step, ...]:
        try:
            return steps_of(self.pipe.scheduler, count, self.eta)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error

    def steps(self, count: int) -> tuple[Step, ...]:
        """Each of `count` steps, noisiest first. Raises UserError when the scheduler cannot take that many."""
        return self.tables[count] if count in self.tables else self._steps(count)

    def encode(self, prompts: list[str]) -> Ids:
        """Token ids i64[N,77], padded and truncated as by the pipeline's tokenizer; of two, [N,154] side by side."""
        options = {"padding": "max_length", "max_length": MAX_TOKENS, "truncation": True, "return_tensors": "np"}
        tokenizers = [getattr(self.pipe, name) for name in self.kind.encoders.values()]
        return np.concatenate([np.asarray(one(prompts, **options).input_ids, np.int64) for one in tokenizers], axis=1)

    def noise(self, seeds: list[int]) -> Floats:
        """The first noise f32[N,C,h,w], each of its own seed as diffusers draws it, before the scheduler scales it."""
        return np.asarray(self.draws(seeds, 0)[0])

    def draws(self, seeds: list[int], fresh: int) -> Floats:
        """Normals f32[1+fresh,N,C,h,w]: what torch's generator of each seed gives first, and then `fresh` times."""
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        rows = [[torch.randn(self.latent_shape, generator=g) for _ in range(1 + fresh)] for g in generators]
        return np.asarray(torch.stack([torch.stack(row) for row in rows], 1), np.float32)

    def facts(self) -> dict[str, Any]:
        """What the checkpoint says about its origin: `licences` and `training`, empty where it says nothing."""
        path = self.folder / FACTS
        try:
            said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            licences = said.pop("licences", [])
        except (ValueError, AttributeError, TypeError) as error:
            raise UserError(f"{path} holds no JSON object: {error}") from error
        return {"licences": licences, "training": said}

    @cached_property
    def variation(self) -> Variation | None:
        """The checkpoint's table of what prompts leave open; None where it has none. Raises UserError."""
        return read_variation(self.folder)


def read_variation(folder: Path) -> Variation | None:
    """The table in a checkpoint's folder, None where there is none. Raises UserError for a damaged or a huge one."""
    path = folder / VARIATION
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MOST_MANIFEST:
            raise ValueError(f"{path.stat().st_size} bytes are too many, {MOST_MANIFEST // 2} at most fit a bundle")
        found = Variation.from_json(read_json(path.read_bytes()))
        size = len(json.dumps(found.to_json(), indent=2))
        if size > MOST_MANIFEST // 2:
            raise ValueError(f"{size} bytes are too many, {MOST_MANIFEST // 2} at most fit a bundle")
    except (ValueError, RecursionError) as error:
        what = f"{path} is no table of variation: {shown(error, 200)}"
        raise UserError(f"{what}; copy it from the data again, or remove it") from error
    return found


def open_source(name_or_path: str, prompts: Path | None = None, variant: str | None = None) -> Source:
    """Open a diffusers folder, or a shipped checkpoint by its bare name, in fp32.

    prompts: a file of prompts to calibrate and compare with; by default the checkpoint's own, or everyday ones.
    variant: of the weight files, such as "fp16".
    Raises UserError when it is not a Stable Diffusion pipeline that these exporters understand.
    """
    return open_folder(locate(name_or_path, variant), prompts, variant)


def open_folder(folder: Path, prompts: Path | None = None, variant: str | None = None) -> Source:
    """The same for a folder that `locate` has checked already."""
    chosen = prompts_for(folder, prompts)
    kind = pipeline_kind(folder, KINDS)
    read_variation(folder)  # a damaged table is told before anything heavy is loaded
    pipe = load(folder, variant)
    return Source(name=name_of(folder), folder=folder, pipe=pipe, prompts=chosen, kind=kind, variant=variant)


def load(folder: Path, variant: str | None = None) -> Any:
    """diffusers' pipeline from a folder, frozen; UserError with diffusers' reason when that fails."""
    silence()
    from train.checkpoint import load_pipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = load_pipeline(folder, variant=variant, kinds=KINDS)
    for module in (getattr(pipe, part) for part in pipeline_kind(folder, KINDS).networks):
        module.eval().requires_grad_(False)
    return pipe


def silence() -> None:
    """Keep the libraries' advice off stderr: it is meant for their users, not for ours."""
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

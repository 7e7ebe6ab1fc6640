"""ADD as a run's task: what its checkpoints hold, its samples and score, and the student's pipeline at the end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import Tensor

from runtime.errors import UserError
from train.add.step import spread
from train.checkpoint import one_step_scheduler, save_pipeline
from train.config import INITS, Config, from_json
from train.data.shards import dataset_facts
from train.diffusion import sample
from train.evaluate.grids import save_grid
from train.latents import LinearDecoder, decode_all
from train.lora import merge_lora, save_lora
from train.opening.second_text import plain, second_text
from train.prompts import sample_prompts
from train.run.build import SAMPLES, build
from train.run.checkpoints import Tensors, on_cpu
from train.run.ema import Ema, TrainedWeights
from train.run.engine import Engine, settled, whole
from train.run.loop import Trainer, start
from train.run.scoring import Scorer
from train.run.task import Stateful, Task, Values
from train.run.telemetry import Telemetry
from train.sizes import describe_sizes

TEACHER_STEPS = 8  # of the pictures that the student's spread is compared with
# Settings that may change when a run resumes: the rest decides what its checkpoints mean.
MAY_CHANGE = (
    "run_dir",
    "max_steps",
    "minutes",
    "save_every",
    "log_every",
    "keep",
    "score_pictures",
    "nan_limit",
    "device",
    "threads",
    "micro_batch",
    "bad_data",
    "cache_text",
    "workers",
    "gradient_checkpointing",
    "compile",
)


class AddTask(Task):
    """Adversarial diffusion distillation of a student, its average and the discriminator's heads."""

    name = "ADD"

    def __init__(self, config: Config, engine: Engine) -> None:
        """Raises UserError when teacher, data or settings do not fit together."""
        self.config, self.engine = config, engine
        self.run_dir = Path(config.run_dir)
        self.go_on = f"run `python -m train --resume {config.run_dir}`"
        self.parts = build(config, engine)
        self.student, self.add_step = self.parts.student, self.parts.step
        self.heads = self.add_step.discriminator.heads
        self.ema = Ema(self.student, config.ema)
        weights: dict[str, Stateful] = {
            "student": TrainedWeights(self.student),
            "ema": self.ema,
            "heads": self.heads,
        }
        if isinstance(self.add_step.decode, LinearDecoder):  # fitted to the first shards when the run began
            weights["decoder"] = self.add_step.decode
        self.weights = weights
        self.optimizers = {
            "optimizer": unwrapped(self.add_step.optimizer),
            "optimizer_d": self.add_step.optimizer_d,
        }
        self._scorer: Scorer | None = None

    def describe(self) -> str:
        """One line per network: parameters, multiply-adds of one evaluation, size in half precision."""
        return describe_sizes({"teacher": self.parts.teacher, "student": self.student})

    def check_settings(self, path: Path) -> None:
        refuse_other_settings(self.config, path)

    def step(self, step: int) -> Values:
        measured = self.add_step(step)
        self.ema.update(self.student, step + 1)
        return measured

    def measure(self, seconds: float) -> dict[str, float]:
        return {
            "ema_distance": float(whole(self.ema.distance(self.student))),
            "data_share": self.parts.timer.take().get("data", 0.0) / seconds,
        }

    def position(self) -> dict[str, Any]:
        return self.parts.source.state()

    def restore(self, position: dict[str, Any]) -> None:
        self.parts.source.restore(position)

    # ---- samples and their score ----------------------------------------------------------------------------

    def keep(self, step: int, telemetry: Telemetry) -> float | None:
        """A sheet of one-step pictures, and their score."""
        pictures = self.draw(max(SAMPLES, self.config.score_pictures))
        apart = self.seed_spreads(teacher=step == 0)
        if not self.engine.is_main:
            return None
        telemetry.row(step, apart)
        path = self.run_dir / "samples" / f"step-{step:06d}.png"
        save_grid(pictures[:SAMPLES], path, columns=8)
        telemetry.pictures(step, np.asarray(Image.open(path)))
        if not self.config.score_pictures:
            return None
        score = self._score(pictures[: self.config.score_pictures])
        telemetry.row(step, {"score_kid_lite0": score})
        return score

    def _score(self, pictures: Tensor) -> float:
        if self._scorer is None:
            latents = self.parts.probe.latents[: self.config.score_pictures]
            self._scorer = Scorer(decode_all(self.parts.pipeline.vae, latents))
        return self._scorer(pictures)

    @torch.no_grad()
    def draw(self, count: int) -> Tensor:
        """Pictures f32[N, 3, H, W] on the CPU: the EMA student's one step for the probe's captions, seeds 0, 1, ..."""
        device, latents = self.engine.device, []
        no_text = self.parts.source.no_text.to(device)
        with self.ema.applied(self.student):
            for start in range(0, count, 16):
                text = self.parts.probe.text[start : start + 16].to(device)
                seeds = range(start, start + len(text))
                latents.append(sample(self.student, text, no_text, seeds, 1, 1.0, self.parts.levels, self.engine.bf16))
        return decode_all(self.parts.pipeline.vae, torch.cat(latents))[:count]

    @torch.no_grad()
    def seed_spreads(self, teacher: bool) -> dict[str, float]:
        """How far two seeds of a caption are apart, over how far real pictures are: of the student, and the teacher.

        A student that draws each caption's mean has next to nothing here where its teacher's guided steps have much.
        """
        probe, count = self.parts.probe, min(SAMPLES // 2, len(self.parts.probe.text))
        real = spread(probe.latents[:SAMPLES]).clamp_min(1e-6)
        text, no_text = probe.text[:count].to(self.engine.device), self.parts.source.no_text.to(self.engine.device)
        levels, bf16 = self.parts.levels, self.engine.bf16

        def apart(network: UNet2DConditionModel, steps: int, guidance: float) -> float:
            drawn = [
                sample(network, text, no_text, range(first, first + count), steps, guidance, levels, bf16)
                for first in (0, count)
            ]
            return float((drawn[0] - drawn[1]).square().mean().sqrt().cpu() / 2**0.5 / real.cpu())

        with self.ema.applied(self.student):
            found = {"seed_spread": apart(self.student, 1, 1.0)}
        if teacher:
            found["teacher_seed_spread"] = apart(self.parts.teacher, TEACHER_STEPS, self.config.guidance)
        return found

    # ---- the result -----------------------------------------------------------------------------------------

    def finish(self, step: int, best: int | None) -> Path:
        """The averaged student's pipeline, in RUN/pipeline."""
        target = self.run_dir / "pipeline"
        weights: Tensors = {}
        if self.config.student != "lora":
            weights = {name: on_cpu(value).half() for name, value in self.ema.weights.items()}
        if self.engine.is_main:
            unet = self._averaged_unet(weights)
            pipeline = self.parts.pipeline
            save_pipeline(
                target,
                pipeline.vae,
                pipeline.text_encoder,
                pipeline.tokenizer,
                unet,
                second_text=second_text(pipeline, self.parts.kind),
                facts=self.facts(step, best),
                prompts=sample_prompts(self.parts.probe.captions),
                variation=self.parts.source.variation,
                scheduler=one_step_scheduler(pipeline.scheduler),
            )
        self.engine.wait()
        return target

    def _averaged_unet(self, weights: Tensors) -> UNet2DConditionModel:
        """The EMA student as a plain U-Net; adapters are also written separately, then merged."""
        if self.config.student == "lora":
            with self.ema.applied(self.student):
                save_lora(self.student, self.run_dir / "lora")
                return plain(merge_lora(self.student))
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(self.student.config)
        unet.load_state_dict(weights, assign=True)
        return unet

    def facts(self, step: int, best: int | None) -> dict[str, object]:
        """What a model card needs to know about the run; paths stay out of it."""
        settings = dataclasses.asdict(self.config)
        kept = {key: value for key, value in settings.items() if key not in ("teacher", "data", "run_dir", "init")}
        kept["init"] = self.config.init if self.config.init in INITS else "checkpoint"
        data = dataset_facts(Path(self.config.data))
        licences = [
            {"what": name, "licence": licence, "source": "npm"} for name, licence in data.get("licences", {}).items()
        ]
        return {
            "method": "adversarial diffusion distillation (arXiv 2311.17042)",
            "settings": kept,
            "licences": licences,
            **({"data": data["set"]} if "set" in data else {}),
            "steps": step,
            "best_step": best,
        }


class AddTrainer(Trainer):
    """One ADD run: builds the networks from a Config, steps, saves, resumes."""

    task: AddTask

    def __init__(self, config: Config) -> None:
        config = settled(config)
        engine = start(config, processes=True)
        super().__init__(AddTask(config, engine), config, engine)


def refuse_other_settings(config: Config, path: Path) -> None:
    """Raises UserError when the folder's run was made with settings that its checkpoints depend on."""
    if not path.is_file():
        return
    ours, theirs = dataclasses.asdict(config), dataclasses.asdict(from_json(path.read_text()))
    different = [key for key in ours if key not in MAY_CHANGE and ours[key] != theirs[key]]
    if different:
        listed = ", ".join(f"{key}={theirs[key]}" for key in different)
        raise UserError(
            f"{path.parent} holds a run with {listed}; continue it with `python -m train --resume "
            f"{path.parent}`, or choose another run_dir"
        )


def unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """torch's optimizer inside accelerate's."""
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner

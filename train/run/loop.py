"""A run: steps, curves, checkpoints, samples, and what to do when it is interrupted or goes wrong."""

from __future__ import annotations

import dataclasses
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import Tensor

from runtime.errors import UserError
from runtime.files import locked, write_text
from train.checkpoint import one_step_scheduler, save_pipeline
from train.config import INITS, Config, from_json, to_json
from train.data.shards import dataset_facts
from train.diffusion import sample
from train.evaluate.grids import save_grid
from train.finite import NotFinite
from train.latents import LinearDecoder, decode_all
from train.lora import merge_lora, save_lora
from train.progress import progress
from train.prompts import sample_prompts
from train.run.build import SAMPLES, build
from train.run.checkpoints import Checkpoints, State, Tensors, fill_optimizer, optimizer_tensors
from train.run.ema import Ema, trained
from train.run.engine import Engine, fill, seed_step, whole
from train.run.scoring import Scorer
from train.run.telemetry import Telemetry, Window, say
from train.sizes import describe_sizes

# What a run may be given anew when it goes on: the rest decides what its checkpoints mean.
MAY_CHANGE = (
    "run_dir",
    "max_steps",
    "save_every",
    "log_every",
    "keep",
    "score_pictures",
    "nan_limit",
    "threads",
    "micro_batch",
    "bad_data",
    "cache_text",
    "gradient_checkpointing",
    "compile",
)


class AddTrainer:
    """One ADD run: builds the networks from a Config, steps, saves, resumes."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.run_dir = Path(config.run_dir)
        self.engine = Engine(config)
        if self.run_dir.exists() and not self.run_dir.is_dir():
            raise UserError(f"run_dir={self.run_dir} is a file; name a folder")
        if self.engine.is_main:
            self.run_dir.mkdir(parents=True, exist_ok=True)
        self.parts = build(config, self.engine)
        self.student, self.add_step = self.parts.student, self.parts.step
        self.heads = self.add_step.discriminator.heads
        self.ema = Ema(self.student, config.ema)
        self.checkpoints = Checkpoints(self.run_dir, config.keep)
        self.step = 0
        self.passed_by: list[int] = []  # steps that gave values which are not finite, and are not taken again
        self.restored = 0
        self._stop = 0  # the signal that asked the run to end
        self._scorer: Scorer | None = None

    def describe(self) -> str:
        """One line a network: parameters, multiply-adds of one evaluation, size in half precision."""
        return describe_sizes({"teacher": self.parts.teacher, "student": self.student})

    # ---- the run --------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train to max_steps from the newest sound checkpoint; returns the EMA student's pipeline folder.

        SIGTERM and Ctrl-C save and end the process. Raises UserError when the run cannot go on.
        """
        busy = f"another process is training in {self.run_dir}; wait for it, or choose another run_dir"
        with locked(self.run_dir / ".lock", busy) if self.engine.is_main else nullcontext():
            return self._run()

    def _run(self) -> Path:
        fresh = self._begin()
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        telemetry = Telemetry(self.run_dir, self.engine.is_main, self.step)
        bar = progress("ADD", self.config.max_steps, "pictures", self.config.batch, self.step, self.engine.is_main)
        try:
            if fresh:
                self._keep(telemetry)
            with bar as advance:
                self._train(telemetry, advance)
        finally:
            telemetry.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self._finish()

    def _begin(self) -> bool:
        """Claim the folder and go to the newest checkpoint; True where there is none yet."""
        if self.checkpoints.steps():
            refuse_other_settings(self.config, self.run_dir / "config.json")
        if self.engine.is_main:
            write_text(self.run_dir / "config.json", to_json(self.config))
            self.checkpoints.remove_remains()
        self.engine.wait()
        return not self.load_newest()

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._stop:  # asked twice: do not wait for the step
            raise KeyboardInterrupt
        self._stop = number

    def _train(self, telemetry: Telemetry, advance: Any) -> None:
        window = Window()
        while self.step < self.config.max_steps:
            try:
                window.add(self.train_step())
            except NotFinite as error:
                advance(-(self.step - self._restore(error, telemetry)))
                window = Window()
                continue
            advance(1)
            stopping = self.engine.any(bool(self._stop))
            if self.step % self.config.log_every == 0 or self.step == self.config.max_steps or stopping:
                self._log(window, telemetry)
                window = Window()
            if stopping and self.step < self.config.max_steps:
                self.save()  # no samples, no score: whoever sent the signal may not wait for them
                self._end_early()
            if self.step % self.config.save_every == 0 or self.step == self.config.max_steps:
                self._keep(telemetry)
                window = Window()

    def train_step(self) -> dict[str, Tensor]:
        """One step; returns what was measured. Raises NotFinite."""
        seed_step(self.config.seed, self.step)
        measured = {} if self.step in self.passed_by else self.add_step(self.step)
        self.step += 1
        self.ema.update(self.student, self.step)
        return measured

    def _end_early(self) -> None:
        number = int(self._stop or signal.SIGTERM)
        if self.engine.is_main:
            say(
                f"stopped by {signal.Signals(number).name}: step {self.step} is saved; "
                f"go on with `python -m train --resume {self.run_dir}`"
            )
        self.engine.close()
        sys.exit(128 + number)

    def _restore(self, error: NotFinite, telemetry: Telemetry) -> int:
        """Go back to the last good state and pass the failing step by from now on; returns the step gone back to.

        Everything random is a function of the step, so the same step would fail in the same way again.
        """
        failed = self.step
        self.restored += 1
        if self.restored > self.config.nan_limit:
            raise UserError(
                f"step {failed}: {error}, and the run went back {self.config.nan_limit} times already; start a new "
                f"run_dir with a lower lr or adversarial_weight; `python -m train.doctor {self.run_dir}` may say more"
            ) from error
        passed_by = [*self.passed_by, failed]
        if not self.load_newest():
            raise UserError(f"step {failed}: {error}, and there is no sound checkpoint to go back to") from error
        self.passed_by = sorted({*self.passed_by, *passed_by})
        telemetry.go_back(self.step)
        telemetry.event(failed, "not_finite", what=str(error), back_to=self.step)
        if self.engine.is_main:
            say(f"step {failed}: {error}; went back to the checkpoint of step {self.step}, step {failed} is passed by")
        return self.step

    def _log(self, window: Window, telemetry: Telemetry) -> None:
        count, seconds = max(1, window.count), window.seconds
        timings = self.parts.timer.take()
        values = self.engine.mean(window.means())
        values |= {
            "ema_distance": float(whole(self.ema.distance(self.student))),
            "lr": float(self.add_step.optimizer.param_groups[0]["lr"]),
            "pictures_per_s": count * self.config.batch / seconds,
            "data_share": timings.get("data", 0.0) / seconds,
        }
        telemetry.row(self.step, values)
        if self.engine.is_main and not sys.stderr.isatty():
            left = (self.config.max_steps - self.step) * seconds / count
            shown = " ".join(
                f"{name} {values[name]:.4g}" for name in ("loss_d", "loss_adv", "loss_distill") if name in values
            )
            say(
                f"step {self.step}/{self.config.max_steps} {shown} {values['pictures_per_s']:.1f} pictures/s, "
                f"{left / 60:.1f} min left"
            )

    # ---- checkpoints ----------------------------------------------------------------------------------------

    def save(self, score: float | None = None) -> None:
        """Write checkpoints/step-N. All processes must call it; the main one writes."""
        state = self._state()
        failed = ""
        if self.engine.is_main:
            try:
                self.checkpoints.save(state, score)
            except UserError as error:
                failed = str(error)
        if self.engine.any(bool(failed)):
            raise UserError(failed or "the main process could not save a checkpoint")

    def _state(self) -> State:
        tensors: dict[str, Tensors] = {
            "student": {name: on_cpu(p) for name, p in trained(self.student).items()},
            "ema": {name: on_cpu(value) for name, value in self.ema.weights.items()},
            "heads": {name: on_cpu(value) for name, value in self.heads.state_dict().items()},
            "optimizer": optimizer_tensors(self.add_step.optimizer),
            "optimizer_d": optimizer_tensors(self.add_step.optimizer_d),
        }
        if isinstance(self.add_step.decode, LinearDecoder):  # fitted to the first shards of whoever began the run
            tensors["decoder"] = {name: on_cpu(value) for name, value in self.add_step.decode.state_dict().items()}
        facts = {
            "data": self.engine.gather(self.parts.source.state()),
            "processes": self.engine.world,
            "seed": self.config.seed,
            "passed_by": self.passed_by,
            "restored": self.restored,
        }
        return State(self.step, tensors, facts)

    def load_newest(self) -> bool:
        """Go to the newest sound checkpoint of the run folder; False when there is none."""
        state = self.checkpoints.newest()
        if state is None:
            return False
        if state.facts["processes"] != self.engine.world and state.facts["data"][0]:
            say(
                f"the run was saved by {state.facts['processes']} processes and goes on with {self.engine.world}: "
                f"the data stream starts its epoch again"
            )
        try:
            self._fill(state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{self.checkpoints.folder}/step-{state.step} is of another network than these settings make: {error}"
            ) from error
        return True

    def _fill(self, state: State) -> None:
        for name, parameter in trained(self.student).items():
            fill(parameter, state.tensors["student"][name])
            fill(self.ema.weights[name], state.tensors["ema"][name])
        self.heads.load_state_dict(state.tensors["heads"])
        if isinstance(self.add_step.decode, LinearDecoder):
            self.add_step.decode.load_state_dict(state.tensors["decoder"])
        fill_optimizer(unwrapped(self.add_step.optimizer), state.tensors["optimizer"])
        fill_optimizer(unwrapped(self.add_step.optimizer_d), state.tensors["optimizer_d"])
        positions = state.facts["data"]
        if len(positions) == self.engine.world:
            self.parts.source.restore(positions[self.engine.rank])
        self.step, self.passed_by = state.step, list(state.facts["passed_by"])
        self.restored = max(self.restored, state.facts["restored"])

    def _keep(self, telemetry: Telemetry) -> None:
        """Samples, a score and a checkpoint of this step."""
        pictures = self.draw(max(SAMPLES, self.config.score_pictures))
        score = None
        if self.engine.is_main:
            try:
                score = self._show(pictures, telemetry)
            except OSError as error:  # a full disk, say: the checkpoint matters more
                say(f"step {self.step}: no samples, {error}")
        self.save(score)

    def _show(self, pictures: Tensor, telemetry: Telemetry) -> float | None:
        """A sheet of samples, and their score."""
        path = self.run_dir / "samples" / f"step-{self.step:06d}.png"
        save_grid(pictures[:SAMPLES], path, columns=8)
        telemetry.pictures(self.step, np.asarray(Image.open(path)))
        if not self.config.score_pictures:
            return None
        score = self._score(pictures[: self.config.score_pictures])
        telemetry.row(self.step, {"score_kid_lite0": score})
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

    # ---- the result -----------------------------------------------------------------------------------------

    def _finish(self) -> Path:
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
                facts=self.facts(),
                prompts=sample_prompts(self.parts.probe.captions),
                scheduler=one_step_scheduler(pipeline.scheduler),
            )
        self.engine.wait()
        return target

    def _averaged_unet(self, weights: Tensors) -> UNet2DConditionModel:
        """The EMA student as a plain U-Net; adapters are also written by themselves, then merged."""
        if self.config.student == "lora":
            with self.ema.applied(self.student):
                save_lora(self.student, self.run_dir / "lora")
                return merge_lora(self.student)
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(self.student.config)
        unet.load_state_dict(weights, assign=True)
        return unet

    def facts(self) -> dict[str, object]:
        """What a model card needs to know of the run; paths stay out of it."""
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
            "steps": self.step,
            "best_step": self.checkpoints.best(),
        }


def refuse_other_settings(config: Config, path: Path) -> None:
    """Raises UserError when the folder's run was made with settings that its checkpoints depend on."""
    if not path.is_file():
        return
    ours, theirs = dataclasses.asdict(config), dataclasses.asdict(from_json(path.read_text()))
    different = [key for key in ours if key not in MAY_CHANGE and ours[key] != theirs[key]]
    if different:
        listed = ", ".join(f"{key}={theirs[key]}" for key in different)
        raise UserError(
            f"{path.parent} holds a run with {listed}; go on with it by `python -m train --resume "
            f"{path.parent}`, or choose another run_dir"
        )


def on_cpu(tensor: Tensor) -> Tensor:
    return whole(tensor).detach().cpu().clone()


def unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """torch's optimizer inside accelerate's."""
    return getattr(optimizer, "optimizer", optimizer)

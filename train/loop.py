"""The ADD training loop: real latents -> student x0 -> discriminator and teacher -> student's weights.

Every step draws all its randomness from (seed, step), so that a run that is resumed from any checkpoint takes
the same steps as one that never stopped.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn

from train.checkpoint import load_pipeline, save_pipeline
from train.config import Config, to_json
from train.corpus import Corpus, encode_texts, load_corpus, load_pictures
from train.diffusion import NoiseLevels, guided_x0, sample
from train.discriminator import Discriminator
from train.ema import Ema
from train.errors import UserError
from train.files import TrainingState, write_text
from train.grids import save_grid
from train.linear_decoder import fit_linear_decoder
from train.losses import adversarial_loss_d, adversarial_loss_g, distillation_loss, r1_penalty
from train.progress import progress
from train.schedules import learning_rate
from train.student import count_parameters, multiply_adds, prune


@dataclass
class Batch:
    """What one step works on."""

    x0: Tensor  # f32[B, C, h, w], latents of real pictures
    text: Tensor  # f32[B, 77, D]
    pooled: Tensor  # f32[B, D], the text's summary for the discriminator
    noisy: Tensor  # x_s = alpha_s x0 + sigma_s eps
    timesteps: Tensor  # i64[B]


class AddTrainer:
    """One ADD run: builds the networks from a Config, steps, saves, resumes."""

    def __init__(self, config: Config) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config = config
        self.run_dir = Path(config.run_dir)
        self.pipeline: StableDiffusionPipeline = load_pipeline(config.teacher)
        self.teacher = self.pipeline.unet.eval().requires_grad_(False)
        self.corpus = self._load_corpus()
        self.no_text = self.corpus.text_states[0].float()
        self.student = build_student(self.teacher, config)
        self.ema = Ema(self.student, config.ema)
        self.levels = NoiseLevels()
        self.decode = self._picture_decoder()
        self.discriminator = Discriminator(self.no_text.shape[-1], config.conditioning)
        betas = (0.5, 0.99)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0)
        self.optimizer_d = torch.optim.AdamW(
            self.discriminator.trainable_parameters(), lr=config.lr_discriminator, betas=betas, weight_decay=0.0
        )
        self.step, self.rows = 0, list[dict[str, Any]]()

    # ---- one step -------------------------------------------------------------------------------------------

    def train_step(self) -> dict[str, float]:
        """One discriminator and one student update; returns what was measured."""
        rng = np.random.default_rng([self.config.seed, self.step])
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        self._set_learning_rates()
        measured: dict[str, float] = {}
        if self.config.loss != "distill":
            for _ in range(self.config.discriminator_updates):
                measured |= self._update_discriminator(self._draw(rng, self.config.adversarial_batch))
        measured |= self._update_student(self._draw(rng, self.config.batch))
        self.step += 1
        self.ema.update(self.student, self.step)
        return measured

    def _draw(self, rng: np.random.Generator, size: int) -> Batch:
        config = self.config
        x0, text, _ = self.corpus.batch(self.corpus.draw(size, rng), rng, config.text_dropout)
        shares = np.array(config.level_shares) / sum(config.level_shares)
        timesteps = torch.from_numpy(rng.choice(config.noise_levels, size=size, p=shares))
        noisy = self.levels.noised(x0, torch.randn(x0.shape), timesteps)
        return Batch(x0, text, text[:, -1], noisy, timesteps)

    def _student_x0(self, batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            v = self.student(batch.noisy, batch.timesteps, batch.text).sample
        return self.levels.x0(batch.noisy, v.float(), batch.timesteps)

    def _update_discriminator(self, batch: Batch) -> dict[str, float]:
        """Hinge loss and R1 on the heads; the student only provides fakes (ADD eq. 3)."""
        with torch.no_grad():
            fake_pictures = self.decode(self._student_x0(batch))
            real_pictures = self.decode(batch.x0)
            condition = self.discriminator.condition(batch.pooled, real_pictures)
            fake_features = self.discriminator.extract(fake_pictures)
            real_features = [f.requires_grad_() for f in self.discriminator.extract(real_pictures)]
        real = self.discriminator(real_features, condition)
        fake = self.discriminator(fake_features, condition)
        loss = adversarial_loss_d(real, fake)
        penalty = r1_penalty(real, real_features)
        self.optimizer_d.zero_grad()
        (loss + self.config.r1_weight / 2 * penalty).backward()
        self.optimizer_d.step()
        return {
            "loss_d": loss.item(), "r1": penalty.item(),
            "d_real": torch.stack([logits.mean() for logits in real]).mean().item(),
            "d_fake": torch.stack([logits.mean() for logits in fake]).mean().item(),
        }

    def _update_student(self, batch: Batch) -> dict[str, float]:
        """Adversarial, distillation and reconstruction terms, one backward pass."""
        config = self.config
        x0_hat = self._student_x0(batch)
        pictures = self.decode(x0_hat) if config.decoder == "linear" else None
        terms: dict[str, Tensor] = {}
        if config.loss != "distill" and self.step >= config.discriminator_start:
            terms["loss_adv"] = self._adversarial_term(batch, x0_hat, pictures) * config.adversarial_weight
        if config.loss != "adv":
            terms["loss_distill"] = self._distillation_term(batch, x0_hat, pictures) * config.distillation_weight
        if config.reconstruction_weight:
            terms["loss_rec"] = (x0_hat - batch.x0).square().mean() * config.reconstruction_weight
        self.optimizer.zero_grad()
        if terms:
            torch.stack(list(terms.values())).sum().backward()
            norm = nn.utils.clip_grad_norm_(self.student.parameters(), config.grad_clip)
            self.optimizer.step()
            terms["grad_norm"] = norm
        return {name: float(value.detach()) for name, value in terms.items()}

    def _adversarial_term(self, batch: Batch, x0_hat: Tensor, pictures: Tensor | None) -> Tensor:
        size = self.config.adversarial_batch
        fake = pictures[:size] if pictures is not None else self.decode(x0_hat[:size])
        condition = self.discriminator.condition(batch.pooled[:size], self.decode(batch.x0[:size]))
        with frozen(self.discriminator.heads):
            return adversarial_loss_g(self.discriminator(self.discriminator.extract(fake), condition))

    def _distillation_term(self, batch: Batch, x0_hat: Tensor, pictures: Tensor | None) -> Tensor:
        """The student's own x0, re-noised at a random t, seen by the teacher with guidance (ADD eq. 4)."""
        timesteps = torch.randint(1, 1000, (len(x0_hat),))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            noisy = self.levels.noised(x0_hat, torch.randn(x0_hat.shape), timesteps)
            target = guided_x0(
                self.teacher, self.levels, noisy, timesteps, batch.text, self.no_text, self.config.guidance
            ).float()
        alpha, sigma = self.levels.at(timesteps)
        if pictures is None:
            return distillation_loss(x0_hat, target, alpha, sigma, self.config.weighting)
        return distillation_loss(pictures, self.decode(target), alpha, sigma, self.config.weighting)

    def _set_learning_rates(self) -> None:
        config = self.config
        for optimizer, peak in ((self.optimizer, config.lr), (self.optimizer_d, config.lr_discriminator)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.step, peak, config.max_steps, warmup=20, decay_from=config.decay_from)

    # ---- the run --------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train to max_steps, resuming from the newest checkpoint; returns the EMA student's pipeline folder."""
        from torch.utils.tensorboard import SummaryWriter

        self.run_dir.mkdir(parents=True, exist_ok=True)
        write_text(self.run_dir / "config.json", to_json(self.config))
        self.load_newest()
        if self.step == 0:
            self.draw_samples()
        with SummaryWriter(str(self.run_dir)) as board, progress("ADD", self.config.max_steps) as advance:
            advance(self.step)
            started = time.monotonic()
            while self.step < self.config.max_steps:
                measured = self.train_step()
                advance(1)
                if self.step % self.config.log_every == 0 or self.step == self.config.max_steps:
                    measured["pictures_per_s"] = self._rate(started)
                    started = time.monotonic()
                    self._log(measured, board)
                if self.step % self.config.save_every == 0 or self.step == self.config.max_steps:
                    self.save()
                    self.draw_samples()
        target = self.run_dir / "pipeline"
        pipeline = self.pipeline
        save_pipeline(
            target, pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, self.ema.averaged, facts=self.facts()
        )
        return target

    def facts(self) -> dict[str, object]:
        """What a model card needs to know of the run; paths stay out of it."""
        settings = dataclasses.asdict(self.config)
        kept = {key: value for key, value in settings.items() if key not in ("teacher", "data", "run_dir")}
        path = Path(self.config.data) / "dataset.json"
        data = json.loads(path.read_text()) if path.is_file() else {}
        licences = [
            {"what": name, "licence": licence, "source": "npm"} for name, licence in data.get("licences", {}).items()
        ]
        return {
            "method": "adversarial diffusion distillation (arXiv 2311.17042)", "settings": kept, "licences": licences,
        }

    def _rate(self, started: float) -> float:
        since = (self.step - 1) % self.config.log_every + 1
        return since * self.config.batch / max(1e-9, time.monotonic() - started)

    def _log(self, measured: dict[str, float], board: Any) -> None:
        self.rows.append({"step": self.step, **measured})
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_text(self.run_dir / "metrics.jsonl", lines)
        for name, value in measured.items():
            board.add_scalar(name, value, self.step)

    def _state(self, step: int) -> TrainingState:
        return TrainingState(
            self.run_dir / "checkpoints" / f"step-{step}",
            {"student": self.student, "ema": self.ema.averaged, "heads": self.discriminator.heads},
            {"optimizer": self.optimizer, "optimizer_d": self.optimizer_d},
        )

    def save(self) -> None:
        """Write checkpoints/step-N and drop all but the last `keep`."""
        self._state(self.step).save(self.step, self.rows)
        for folder in checkpoint_folders(self.run_dir)[: -self.config.keep]:
            shutil.rmtree(folder)

    def load_newest(self) -> None:
        """Go to the newest checkpoint of the run folder, if there is one."""
        folders = checkpoint_folders(self.run_dir)
        if folders:
            newest = int(folders[-1].name.removeprefix("step-"))
            self.step, self.rows = self._state(newest).load()

    def draw_samples(self) -> None:
        """samples/step-N.png: the EMA student's one step on fixed prompts and seeds."""
        text = self.prompt_states
        latents = sample(self.ema.averaged, text, self.no_text, range(len(text)), steps=1, guidance=1.0)
        with torch.no_grad():
            pictures = self.pipeline.vae.decode(latents).sample
        save_grid(pictures, self.run_dir / "samples" / f"step-{self.step:06d}.png", columns=8)

    @property
    def prompt_states(self) -> Tensor:
        prompts = [record.captions[0] for record in self.corpus.records]
        chosen = [prompts[int(index)] for index in np.linspace(0, len(prompts) - 1, 16)]
        return encode_texts(self.pipeline.text_encoder, self.pipeline.tokenizer, chosen)

    def _load_corpus(self) -> Corpus:
        pipeline = self.pipeline
        cache = self.run_dir / "cache"
        return load_corpus(
            Path(self.config.data), "train", pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, cache
        )

    def _picture_decoder(self) -> nn.Module:
        if self.config.decoder == "vae":
            return VaeDecoder(self.pipeline.vae)
        _, pictures = load_pictures(Path(self.config.data), "train")
        return fit_linear_decoder(self.corpus.latents[:600], pictures[:600])


class VaeDecoder(nn.Module):
    """The pipeline's own decoder, frozen, as a plain latents -> pictures module."""

    def __init__(self, vae: AutoencoderTiny) -> None:
        super().__init__()
        self.vae: AutoencoderTiny = vae.requires_grad_(False)

    def forward(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents).sample


def build_student(teacher: UNet2DConditionModel, config: Config) -> UNet2DConditionModel:
    """The student's start: the teacher with blocks removed, the whole teacher, or random weights."""
    if config.init == "pretrained":
        return prune(teacher, tuple(len(stage.resnets) for stage in teacher.down_blocks)).train()
    try:
        student = prune(teacher, config.layers, config.mid_block, attention=config.attention)
    except ValueError as error:
        raise UserError(f"layers={','.join(map(str, config.layers))}: {error}") from error
    if config.init == "random":
        student = UNet2DConditionModel.from_config(student.config)
    return student.train()


def describe(trainer: AddTrainer) -> str:
    """One line a network: parameters, multiply-adds of one evaluation, size in half precision."""
    lines = []
    for name, network in (("teacher", trainer.teacher), ("student", trainer.student)):
        parameters = count_parameters(network)
        macs = multiply_adds(network)
        lines.append(f"{name}: {parameters / 1e6:.1f} M parameters, {macs / 1e6:.0f} M multiply-adds, "
                     f"{parameters * 2 / 1e6:.0f} MB in fp16")
    return "\n".join(lines)


def checkpoint_folders(run_dir: Path) -> list[Path]:
    """The run's whole checkpoints, oldest first."""
    folders = [path.parent for path in (run_dir / "checkpoints").glob("step-*/state.json")]
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("step-")))


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradients for the module's weights inside the block: the student's step must leave none behind."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)

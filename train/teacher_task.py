"""The teacher's training as a run's task: noise levels, objectives, one update, samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizerFast

from runtime.files import whole_folder
from train.checkpoint import save_pipeline
from train.config import RunSettings
from train.data.encoders import encode_captions, token_ids
from train.data.examples import DataSource, Examples
from train.diffusion import LAST_TIMESTEP, NoiseLevels, noise_generator, sample
from train.evaluate.grids import save_grid
from train.latents import decode_all
from train.run.ema import Ema
from train.run.engine import Engine
from train.run.learning_rate import learning_rate, set_rate
from train.run.task import Task, Values, descend
from train.run.telemetry import Telemetry
from train.student import prune


@dataclass(frozen=True, kw_only=True)
class TeacherSettings(RunSettings):
    """Settings of a teacher's training, or of a student's towards the clean latents; the command's flags."""

    lr: float = 5e-4
    warmup: int = 200
    decay_from: float = 0.6
    grad_clip: float = 0.2
    ema: float = 0.998
    last: float = 0.4
    power: float = 0.6
    drop_text: float = 0.1
    student: str | None = None  # train.student's name of the network that learns
    shared: float = 0.0  # share of steps through the student-to-be
    student_layers: tuple[int, ...] = (1, 1, 1, 1)  # of the student-to-be
    guidance: float = 2.0
    sample_steps: int = 20
    train_text: bool = False  # the text encoder learns too


@dataclass
class Surroundings:
    """The networks on either side of a U-Net, on the run's device, and captions to try its checkpoint with."""

    vae: AutoencoderTiny
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizerFast
    captions: Sequence[str] = ()


def draw_timesteps(batch: int, rng: np.random.Generator, last: float, power: float) -> Tensor:
    """Timesteps i64[B]: exactly 999 with probability `last`, else 999 u^power of uniform u.

    power below 1 prefers high noise, where text alone must decide the picture: the part that one step needs.
    """
    timesteps = (LAST_TIMESTEP * rng.random(batch) ** power).astype(np.int64)
    timesteps[rng.random(batch) < last] = LAST_TIMESTEP
    return torch.from_numpy(timesteps)


def v_loss(unet: nn.Module, levels: NoiseLevels, x0: Tensor, eps: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
    """Mean squared error of the v prediction (Salimans & Ho 2022, appendix D)."""
    alpha, sigma = levels.at(timesteps)
    predicted = unet(levels.noised(x0, eps, timesteps), timesteps, text).sample
    return (predicted.float() - (alpha * eps - sigma * x0)).square().mean()


def x0_loss(unet: nn.Module, levels: NoiseLevels, x0: Tensor, eps: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
    """Mean squared error of the clean latents that a student sees in what it will generate from."""
    noisy = levels.generator_input(x0, eps, timesteps)
    predicted = unet(noisy, timesteps, text).sample
    return (levels.x0(noisy, predicted.float(), timesteps) - x0).square().mean()


class TeacherTask(Task):
    """A text-to-latents U-Net and its average.

    With probability `settings.shared` a teacher's step runs through the student-to-be: the teacher's own modules
    without the blocks that pruning will remove. Both then work, and the student starts where a pruned network would
    need thousands of steps to recover. With `settings.student` the U-Net is a student, which learns to give the clean
    latents at once.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        source: DataSource,
        around: Surroundings,
        prompts: Sequence[str],
        settings: TeacherSettings,
        engine: Engine,
    ) -> None:
        """prompts: the captions that samples are drawn for."""
        self.name = settings.student or "teacher"
        self.settings, self.engine, self.source, self.around, self.prompts = settings, engine, source, around, prompts
        self.unet = unet.to(engine.device)
        self.compact = prune(unet, settings.student_layers, share=True) if settings.shared else unet
        self.objective = x0_loss if settings.student else v_loss
        self.levels = NoiseLevels(engine.device)
        self.ema = Ema(unet, settings.ema)
        self.weights = {"unet": unet, "ema": self.ema}
        learning = list(unet.parameters())
        self.text_ema: Ema | None = None
        if settings.train_text:
            text_encoder = around.text_encoder.requires_grad_()
            self.text_ema = Ema(text_encoder, settings.ema)
            self.weights |= {"text_encoder": text_encoder, "text_encoder_ema": self.text_ema}
            learning += text_encoder.parameters()
        self.optimizer = torch.optim.AdamW(learning, lr=settings.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.optimizers = {"optimizer": self.optimizer}

    def step(self, step: int) -> Values:
        settings, device = self.settings, self.engine.device
        rate = learning_rate(step, settings.lr, settings.max_steps, settings.warmup, settings.decay_from)
        set_rate(self.optimizer, rate)
        rng = np.random.default_rng([settings.seed, step])
        noise = noise_generator(int(rng.integers(2**62)), device)
        given = self.source.take(settings.batch, slice(0, settings.batch), rng, settings.drop_text)
        eps = torch.randn(given.latents.shape, generator=noise, device=noise.device)
        timesteps = draw_timesteps(settings.batch, rng, settings.last, settings.power)
        network = self.compact if rng.random() < settings.shared else self.unet
        x0, eps, timesteps = (tensor.to(device) for tensor in (given.latents, eps, timesteps))
        with self.engine.autocast():
            text = self.states(given) if settings.train_text else given.text.to(device)
            loss = self.objective(network, self.levels, x0, eps, timesteps, text)
        measured = descend(self.engine, self.optimizer, loss, settings.grad_clip)
        self.ema.update(self.unet, step + 1)
        if self.text_ema is not None:
            self.text_ema.update(self.around.text_encoder, step + 1)
        return measured

    def states(self, given: Examples) -> Tensor:
        """f32[N, 77, D] of the captions by the text encoder as it is, with gradients where it learns."""
        encoder = self.around.text_encoder
        ids = token_ids(self.around.tokenizer, given.captions) if given.ids is None else given.ids
        states: Tensor = encoder(ids.to(encoder.device, torch.int64)).last_hidden_state
        return states

    def position(self) -> dict[str, Any]:
        return self.source.state()

    def restore(self, position: dict[str, Any]) -> None:
        self.source.restore(position)

    def keep(self, step: int, telemetry: Telemetry) -> None:
        """A sheet of the sample prompts at fixed seeds: one step, of a teacher guided steps below."""
        path = Path(self.settings.run_dir) / "samples" / f"step-{step:06d}.png"
        with self.averages():
            pictures = self.draw()
        save_grid(pictures, path, columns=8)
        telemetry.pictures(step, np.asarray(Image.open(path)))

    @contextmanager
    def averages(self) -> Iterator[None]:
        """The averages of the weights in their place."""
        with self.ema.applied(self.unet), ExitStack() as stack:
            if self.text_ema is not None:
                stack.enter_context(self.text_ema.applied(self.around.text_encoder))
            yield

    @torch.no_grad()
    def draw(self) -> Tensor:
        """Pictures f32[N or 2N, 3, H, W] of the prompts: by one step, then, of a teacher, by guided steps."""
        around = self.around
        text = encode_captions(around.text_encoder, around.tokenizer, [*self.prompts, ""])[0].float()
        text, no_text = text[:-1], text[-1]
        seeds, sheets = range(len(text)), []
        ways = [(1, 1.0)] if self.settings.student else [(1, 1.0), (self.settings.sample_steps, self.settings.guidance)]
        for steps, guidance in ways:
            latents = sample(self.unet, text, no_text, seeds, steps, guidance, self.levels, self.engine.bf16)
            sheets.append(decode_all(self.around.vae, latents))
        return torch.cat(sheets)

    def finish(self, step: int, best: int | None) -> Path:
        """The average, in OUT/unet and, within its pipeline, in OUT/pipeline."""
        self.unet.load_state_dict(self.ema.weights)
        if self.text_ema is not None:
            self.around.text_encoder.load_state_dict(self.text_ema.weights, strict=False)  # position ids are no weights
        run_dir, unet, around = Path(self.settings.run_dir), self.unet.eval(), self.around
        with whole_folder(run_dir / "unet") as folder:
            unet.save_pretrained(folder)
        parts = (around.vae, around.text_encoder, around.tokenizer, unet)
        save_pipeline(run_dir / "pipeline", *parts, prompts=around.captions, variation=self.source.variation)
        return run_dir / "pipeline"

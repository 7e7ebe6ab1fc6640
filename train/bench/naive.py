"""The ADD step as one would write it down first: eager, single precision, nothing kept from one update to the next.

The yardstick of `python -m train.bench`: the same networks, the same draws and so, up to rounding, the same losses as
`AddStep`, but every picture and caption is encoded again in every step, the student runs once for each of the two
updates, and the teacher runs once with and once without the caption.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from train.add.draws import Draws, adversarial_rows, draw, shows_picture, update_rng
from train.add.feature_networks import MobileNetTaps, PictureFeatures
from train.add.losses import adversarial_loss_d, adversarial_loss_g, distillation_loss, distillation_weight, r1_penalty
from train.add.step import frozen
from train.config import Config
from train.data.encoders import encode_captions
from train.latents import encode_latents, to_tensor
from train.run.build import Parts, set_learning_rates


@dataclass
class NaiveStep:
    """Call it with the step's number, as an AddStep."""

    config: Config
    parts: Parts
    pictures: dict[str, np.ndarray]  # u8[H, W, 3] by key

    def __post_init__(self) -> None:
        self.teacher, self.student = self.parts.teacher.float(), self.parts.student
        self.discriminator = self.parts.step.discriminator
        if isinstance(network := self.discriminator.network, PictureFeatures) and self.config.features != "dinov2":
            network.network = MobileNetTaps(quick=False).to(self.parts.step.engine.device)
        betas, heads = (0.5, 0.99), self.discriminator.heads.parameters()
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(), lr=self.config.lr, betas=(0.9, 0.99), weight_decay=0.0, foreach=False
        )
        self.optimizer_d = torch.optim.AdamW(
            heads, lr=self.config.lr_discriminator, betas=betas, weight_decay=0.0, foreach=False
        )

    def __call__(self, step: int) -> dict[str, Tensor]:
        """One discriminator and one student update; returns the losses."""
        set_learning_rates(self.config, self.optimizer, self.optimizer_d, step)
        device = self.parts.step.engine.device
        draws = draw(self.config, step, 0, self.parts.source.latent_shape, device).rows(slice(None), device)
        x0, text, pooled = self._encode(step)
        seen = adversarial_rows(self.config.batch, self.config.adversarial_batch).to(device)
        loss_d = self._update_discriminator(x0, text, pooled, draws, seen)
        return {"loss_d": loss_d, **self._update_student(step, x0, text, pooled, draws, seen)}

    @torch.no_grad()
    def _encode(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        config, pipeline = self.config, self.parts.pipeline
        rng = update_rng(config, step, 0)
        chosen = self.parts.source.take(config.batch, slice(0, config.batch), rng, config.text_dropout)
        pictures = to_tensor(np.stack([self.pictures[key] for key in chosen.keys]))
        text, pooled = encode_captions(pipeline.text_encoder, pipeline.tokenizer, chosen.captions)
        return encode_latents(pipeline.vae, pictures), text, pooled

    def _x0_hat(self, x0: Tensor, text: Tensor, draws: Draws) -> Tensor:
        noisy = self.parts.step.noised_input(x0, draws)
        return self.parts.levels.x0(noisy, self.student(noisy, draws.timesteps, text).sample, draws.timesteps)

    def _condition(self, x0: Tensor, text: Tensor, pooled: Tensor, draws: Draws) -> Tensor | None:
        with torch.no_grad():
            shown = shows_picture(self.config, draws)
            return self.discriminator.condition(self.parts.step.decode(x0), text, pooled, draws, shown)

    def _update_discriminator(self, x0: Tensor, text: Tensor, pooled: Tensor, draws: Draws, seen: Tensor) -> Tensor:
        network, decode, some = self.discriminator.network, self.parts.step.decode, draws.rows(seen, x0.device)
        with torch.no_grad():
            fake_pictures = decode(self._x0_hat(x0, text, draws))[seen]
            fake_features = network.observe(fake_pictures, text[seen], some, fake=True)
            real_features = network.observe(decode(x0)[seen], text[seen], some, fake=False)
        real_features = [feature.requires_grad_() for feature in real_features]
        self.discriminator.refresh_norms()
        condition = self._condition(x0[seen], text[seen], pooled[seen], some)
        real, fake = self.discriminator(real_features, condition), self.discriminator(fake_features, condition)
        loss = adversarial_loss_d(real, fake)
        self.optimizer_d.zero_grad()
        (loss + self.config.r1_weight / 2 * r1_penalty(real, real_features)).backward()
        self.optimizer_d.step()
        return loss.detach()

    def _update_student(
        self, step: int, x0: Tensor, text: Tensor, pooled: Tensor, draws: Draws, seen: Tensor
    ) -> dict[str, Tensor]:
        config, decode = self.config, self.parts.step.decode
        x0_hat = self._x0_hat(x0, text, draws)
        pictures = decode(x0_hat)
        terms = {"loss_distill": self._distillation(x0_hat, pictures, text, draws) * config.distillation_weight}
        if step >= config.discriminator_start:
            some = draws.rows(seen, x0.device)
            condition = self._condition(x0[seen], text[seen], pooled[seen], some)
            features = self.discriminator.network.observe(pictures[seen], text[seen], some, fake=True)
            with frozen(self.discriminator.heads):
                logits = self.discriminator(features, condition)
                terms["loss_adv"] = adversarial_loss_g(logits) * config.adversarial_weight
        if config.reconstruction_weight:
            terms["loss_rec"] = (x0_hat - x0).square().mean() * config.reconstruction_weight
        self.optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), config.grad_clip, foreach=False)
        self.optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    def _distillation(self, x0_hat: Tensor, pictures: Tensor, text: Tensor, draws: Draws) -> Tensor:
        levels, timesteps = self.parts.levels, draws.teacher_timesteps
        with torch.no_grad():
            noisy = levels.noised(x0_hat, draws.teacher_noise, timesteps)
            no_text = self.parts.source.no_text.expand_as(text)
            with_text = self.teacher(noisy, timesteps, text).sample
            without = self.teacher(noisy, timesteps, no_text).sample
            guided = without + self.config.guidance * (with_text - without)
            target = self.parts.step.decode(levels.x0(noisy, guided, timesteps))
        weight = distillation_weight(*levels.at(timesteps), self.config.weighting)
        return distillation_loss(pictures, target, weight)

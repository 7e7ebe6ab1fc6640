"""One ADD step: the discriminator's updates, then the student's, from the same student pictures.

The student's output is a leaf at which the gradients of all terms meet: each term is differentiated once, its size
there can be logged at no extra cost, and one backward pass goes through the student.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from train.add.backend import Backend
from train.add.discriminator import Discriminator
from train.add.draws import Draws, adversarial_rows, draw, shows_picture, update_rng
from train.add.guide import TeacherGuide
from train.add.losses import adversarial_loss_d, adversarial_loss_g, distillation_loss, distillation_weight, r1_penalty
from train.config import Config
from train.data.examples import DataSource, Examples
from train.data.pairs import PairRows, Pairs
from train.diffusion import LAST_TIMESTEP, NoiseLevels
from train.finite import must_be_finite

Values = dict[str, Tensor]


@dataclass
class MicroBatch:
    """What one process handles at once."""

    x0: Tensor  # f32[B, C, h, w], latents of real pictures
    text: Tensor  # f32[B, 77, D]
    pooled: Tensor  # f32[B, D]
    draws: Draws
    seen: Tensor  # bool[B]: which pictures the discriminator sees
    pairs: PairRows | None = None  # of the student's update
    real: Tensor | None = None  # their real pictures or latents, once they have been asked for
    real_features: list[Tensor] | None = None  # and their features


@dataclass
class Fakes:
    """A student output with everything that both updates need from it, computed once."""

    x0_hat: Tensor  # with the student's graph, or without one; behind the batch's own rows those of the pairs
    leaf: Tensor  # the same values; gradients of the terms meet here
    own: Tensor  # the leaf's rows of the batch
    pictures: Tensor | None  # decoded leaf, where the objective is on pictures
    features: list[Tensor]  # the discriminator's input features of the leaf's seen rows
    condition: Tensor | None


@dataclass
class AddStep:
    """Everything that one step works with.

    set_rates: called with the step's number, sets both optimizers' learning rates. timer: `with timer(part):` counts
    the time of a part of the step.
    """

    config: Config
    engine: Backend
    source: DataSource
    student: Any  # as the backend wrapped it
    discriminator: Discriminator
    guide: TeacherGuide
    levels: NoiseLevels
    decode: nn.Module
    optimizer: Any
    optimizer_d: torch.optim.Optimizer
    set_rates: Callable[[int], None]
    timer: Callable[[str], AbstractContextManager[None]]
    pairs: Pairs | None = None

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Update discriminator and student once; returns what was measured, scalars on the device.

        Raises NotFinite before a value that is not finite reaches any weight.
        """
        self.set_rates(step)
        if step < self.config.pairs_first:
            return self._update_from_pairs(step)
        measured: Values = {}
        adversarial = self.config.loss != "distill"
        extra = self.config.discriminator_updates - 1 if adversarial else 0
        for update in range(1, extra + 1):
            measured |= self._update_discriminator(step, update, self._batches(step, update))
        batches = self._batches(step, 0)
        if self.engine.parts == 1:
            fakes = self._fakes(batches[0])
            if adversarial:
                measured |= self._update_discriminator(step, 0, batches, fakes)
            return measured | self._update_student(step, batches, fakes)
        if adversarial:
            measured |= self._update_discriminator(step, 0, batches)
        return measured | self._update_student(step, batches)

    # ---- batches --------------------------------------------------------------------------------------------

    def _batches(self, step: int, update: int) -> list[MicroBatch]:
        config, device = self.config, self.engine.device
        draws = draw(config, step, update, self.source.latent_shape, device)
        seen = adversarial_rows(config.batch, config.adversarial_batch)
        batches = []
        with self.timer("data"):
            for rows in self.engine.micro_rows():
                rng = update_rng(config, step, update)
                examples: Examples = self.source.take(config.batch, rows, rng, config.text_dropout)
                batches.append(
                    MicroBatch(
                        examples.latents.to(device),
                        examples.text.to(device),
                        examples.pooled.to(device),
                        draws.rows(rows, device),
                        seen[rows].to(device),
                        self._pairs(self.config.pair_batch, rows, rng) if update == 0 else None,
                    )
                )
        return batches

    def _pairs(self, total: int, rows: slice, rng: np.random.Generator) -> PairRows | None:
        """The pairs of a micro-batch: as large a share of `total` as its rows are of the batch."""
        if self.pairs is None:
            return None
        batch = self.config.batch
        return self.pairs.take(total, slice(rows.start * total // batch, rows.stop * total // batch), rng)

    def noised_input(self, x0: Tensor, draws: Draws) -> Tensor:
        """The student's input x_s = alpha_s x0 + sigma_s eps of REAL pictures; pure noise at the noisiest level."""
        make = self.levels.generator_input if self.config.zero_terminal_snr else self.levels.noised
        return make(x0, draws.noise, draws.timesteps)

    def _x0_hat(self, batch: MicroBatch, network: Any, pairs: PairRows | None) -> Tensor:
        noisy, timesteps, text = self.noised_input(batch.x0, batch.draws), batch.draws.timesteps, batch.text
        if pairs is not None:  # in the same pass: a wrapped network exchanges gradients once
            noisy, text = torch.cat([noisy, pairs.noise]), torch.cat([text, pairs.text])
            timesteps = torch.cat([timesteps, timesteps.new_full((len(pairs.noise),), LAST_TIMESTEP)])
        return self._predicted(network, noisy, timesteps, text)

    def _predicted(self, network: Any, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        with self.timer("student"), self.engine.autocast():
            output = network(noisy, timesteps, text).sample
        return self.levels.x0(noisy, output.float(), timesteps)

    # ---- the discriminator ----------------------------------------------------------------------------------

    def _fakes(self, batch: MicroBatch, with_graph: bool = True) -> Fakes:
        with torch.set_grad_enabled(with_graph):
            network = self.student if with_graph else self.engine.unwrap(self.student)
            x0_hat = self._x0_hat(batch, network, batch.pairs if with_graph else None)
            leaf = x0_hat.detach().requires_grad_(with_graph)
            own = leaf[: len(batch.x0)]
            pictures = self._decode(own) if self._needs_pictures(with_graph) else None
            features: list[Tensor] = []
            condition: Tensor | None = None
            if self.config.loss != "distill":
                with self.timer("discriminator"):
                    features, condition = self._observe_fake(batch, own, pictures)
        return Fakes(x0_hat, leaf, own, pictures, features, condition)

    def _needs_pictures(self, for_student: bool) -> bool:
        adversarial = self.config.loss != "distill" and not self.discriminator.network.on_latents
        return adversarial or (for_student and self.config.loss != "adv" and self.config.space == "pixel")

    def _decode(self, latents: Tensor) -> Tensor:
        with self.timer("decoder"), self.engine.autocast():
            return self.decode(latents).float()

    def _observe_fake(
        self, batch: MicroBatch, latents: Tensor, pictures: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None]:
        network, rows = self.discriminator.network, batch.seen
        x = latents if network.on_latents or pictures is None else pictures
        draws, text = batch.draws.rows(rows, x.device), batch.text[rows]
        with self.engine.autocast_features():
            features = [f.float() for f in network.observe(x[rows], text, draws, fake=True)]
        with self.engine.autocast():
            shown = shows_picture(self.config, draws)
            return features, self.discriminator.condition(self._real(batch), text, batch.pooled[rows], draws, shown)

    @torch.no_grad()
    def _real(self, batch: MicroBatch) -> Tensor:
        """The seen rows' real pictures, or latents, as the feature network reads them."""
        if batch.real is None:
            x0 = batch.x0[batch.seen]
            batch.real = x0 if self.discriminator.network.on_latents else self._decode(x0)
        return batch.real

    @torch.no_grad()
    def _observe_real(self, batch: MicroBatch) -> list[Tensor]:
        """The features of the seen rows' real pictures, once for both updates; they take gradients, for R1."""
        if batch.real_features is None:
            draws = batch.draws.rows(batch.seen, batch.x0.device)
            real, text = self._real(batch), batch.text[batch.seen]
            with self.engine.autocast_features():
                features = self.discriminator.network.observe(real, text, draws, fake=False)
            batch.real_features = [f.float().requires_grad_() for f in features]
        return batch.real_features

    def _update_discriminator(
        self, step: int, update: int, batches: list[MicroBatch], fakes: Fakes | None = None
    ) -> Values:
        """The heads' loss, R1 and R2 (ADD eq. 3); `fakes`: those of the only micro-batch, if already made."""
        measured: Values = {}
        self.optimizer_d.zero_grad()
        self.discriminator.refresh_norms()
        regular = (step * self.config.discriminator_updates + update) % self.config.r1_every == 0
        for batch in batches:
            given = fakes or self._fakes(batch, with_graph=False)
            with self.timer("discriminator"):
                loss, found = self._discriminator_loss(batch, given, regular)
                (loss / len(batches)).backward()
            measured = {name: measured.get(name, 0) + value.detach() / len(batches) for name, value in found.items()}
        heads = list(self.discriminator.heads.parameters())
        with self.timer("discriminator"):
            self.engine.average_gradients(heads)
            measured["grad_norm_d"] = nn.utils.get_total_norm([p.grad for p in heads if p.grad is not None])
            must_be_finite(measured["grad_norm_d"] + measured["loss_d"], "the discriminator's loss or gradient")
            self.optimizer_d.step()
        return measured

    def _discriminator_loss(self, batch: MicroBatch, fakes: Fakes, regular: bool) -> tuple[Tensor, Values]:
        real_features = self._observe_real(batch)
        real = self.discriminator(real_features, fakes.condition)
        fake_features = [f.detach().requires_grad_() for f in fakes.features]
        fake = self.discriminator(fake_features, fakes.condition)
        loss = adversarial_loss_d(real, fake, self.config.adversarial)
        found = {"loss_d": loss, **logit_facts(real, fake)}
        for name, weight, logits, features in (
            ("r1", self.config.r1_weight, real, real_features),
            ("r2", self.config.r2_weight, fake, fake_features),
        ):
            if regular and weight:
                found[name] = r1_penalty(logits, features)
                loss = loss + weight / 2 * self.config.r1_every * found[name]
        return loss, found

    # ---- the student ----------------------------------------------------------------------------------------

    def _update_student(self, step: int, batches: list[MicroBatch], fakes: Fakes | None = None) -> Values:
        """Adversarial, distillation and reconstruction terms; one backward pass through the student."""
        measured: Values = {}
        self.optimizer.zero_grad()
        for index, batch in enumerate(batches):
            # The forward pass belongs inside: it is there that DDP decides whether gradients will be exchanged.
            with self.engine.accumulating(self.student, index == len(batches) - 1):
                given = fakes or self._fakes(batch)
                gradient, found = self._term_gradients(step, batch, given)
                with self.timer("student"):
                    self.engine.backward((given.x0_hat * gradient).sum() / len(batches))
            if len(batch.x0) > 1:
                found["diversity"] = diversity(batch, given.own.detach())
            measured = {name: measured.get(name, 0) + value.detach() / len(batches) for name, value in found.items()}
        return measured | {"grad_norm": self._step_student()}

    def _step_student(self) -> Tensor:
        """One step of the optimizer with the gradients at hand; returns their norm before clipping."""
        with self.timer("student"):
            trained = [p for p in self.student.parameters() if p.requires_grad]
            norm = self.engine.clip_gradients(trained, self.config.grad_clip)
            must_be_finite(norm, "the student's loss or gradient")
            self.optimizer.step()
        return norm

    def _update_from_pairs(self, step: int) -> Values:
        """An update of the student before the game: as many pairs as it will see pictures and pairs later."""
        self.optimizer.zero_grad()
        total, micro = self.config.batch + self.config.pair_batch, [*self.engine.micro_rows()]
        losses = []
        for index, rows in enumerate(micro):
            with self.timer("data"):
                pairs = self._pairs(total, rows, update_rng(self.config, step, 0))
            assert pairs is not None  # `check` asks for pairs where pairs_first is set
            with self.engine.accumulating(self.student, index == len(micro) - 1):
                timesteps = torch.full((len(pairs.noise),), LAST_TIMESTEP, device=pairs.noise.device)
                x0_hat = self._predicted(self.student, pairs.noise, timesteps, pairs.text)
                loss = self._pair_term(x0_hat, pairs)
                with self.timer("student"):
                    self.engine.backward(loss / len(micro))
            losses.append(loss.detach())
        return {"loss_pair": torch.stack(losses).mean(), "grad_norm": self._step_student()}

    def _term_gradients(self, step: int, batch: MicroBatch, fakes: Fakes) -> tuple[Tensor, Values]:
        """Sum of the terms' gradients at the student's x0, and each term's value and gradient size there."""
        gradients: Values = {}
        found: Values = {}
        for name, term in self._terms(step, batch, fakes):
            (gradients[name],) = torch.autograd.grad(term, fakes.leaf, retain_graph=True)
            found |= {f"loss_{name}": term, f"grad_{name}": gradients[name].norm()}
        if "adv" in gradients and "distill" in gradients:
            found["grad_ratio"] = found["grad_adv"] / found["grad_distill"].clamp_min(1e-12)
        others = [gradient for name, gradient in gradients.items() if name != "adv"]
        if self.config.adversarial_balance and "adv" in gradients and others:
            size = self.config.adversarial_balance * torch.stack(others).sum(0).norm()
            gradients["adv"] = gradients["adv"] * size / found["grad_adv"].clamp_min(1e-12)
        return torch.stack(list(gradients.values())).sum(0), found

    def _terms(self, step: int, batch: MicroBatch, fakes: Fakes) -> Iterator[tuple[str, Tensor]]:
        config = self.config
        if config.loss != "distill" and step >= config.discriminator_start:
            with self.timer("discriminator"), frozen(self.discriminator.heads):
                yield "adv", self._adversarial_term(batch, fakes) * config.adversarial_weight
        if config.loss != "adv":
            yield "distill", self.distillation_term(batch, fakes) * config.distillation_weight
        if config.reconstruction_weight:
            yield "rec", (fakes.own - batch.x0).square().mean() * config.reconstruction_weight
        if batch.pairs is not None:
            yield "pair", self._pair_term(fakes.leaf[len(batch.x0) :], batch.pairs)

    def _pair_term(self, x0_hat: Tensor, pairs: PairRows) -> Tensor:
        """Squared distance to the teacher's pictures of the same noise (DMD's regression)."""
        return (x0_hat - pairs.latents).square().mean() * self.config.regression_weight

    def _adversarial_term(self, batch: MicroBatch, fakes: Fakes) -> Tensor:
        logits = self.discriminator(fakes.features, fakes.condition)
        if self.config.adversarial == "hinge":
            return adversarial_loss_g(logits)
        with torch.no_grad():
            real = self.discriminator(self._observe_real(batch), fakes.condition)
        return adversarial_loss_g(logits, real)

    def distillation_term(self, batch: MicroBatch, fakes: Fakes) -> Tensor:
        """c(t) times the squared distance to the teacher's x0 of the re-noised student output (ADD eq. 4)."""
        with self.timer("teacher"):
            target = self.guide.target(fakes.own.detach(), batch.text, batch.draws)
        alpha, sigma = self.levels.at(batch.draws.teacher_timesteps)
        weight = distillation_weight(alpha, sigma, self.config.weighting)
        if self.config.space == "latent" or fakes.pictures is None:
            return distillation_loss(fakes.own, target, weight)
        with torch.no_grad():
            target_pictures = self._decode(target)
        return distillation_loss(fakes.pictures, target_pictures, weight)


def logit_facts(real: list[Tensor], fake: list[Tensor]) -> Values:
    """Mean logits per head and overall, and the fractions of logits on the right side of zero."""
    means = [(r.mean().detach(), f.mean().detach()) for r, f in zip(real, fake, strict=True)]
    facts = {f"d_real/head{i}": r for i, (r, _) in enumerate(means)}
    facts |= {f"d_fake/head{i}": f for i, (_, f) in enumerate(means)}
    facts["d_real"] = torch.stack([r for r, _ in means]).mean()
    facts["d_fake"] = torch.stack([f for _, f in means]).mean()
    facts["d_accuracy_real"] = torch.stack([(r > 0).float().mean() for r in real]).mean()
    facts["d_accuracy_fake"] = torch.stack([(f < 0).float().mean() for f in fake]).mean()
    return facts


def diversity(batch: MicroBatch, x0_hat: Tensor) -> Tensor:
    """Spread of the outputs at the noisiest level over that of their real pictures (all levels when it has one row).

    At lower levels the input shows the picture, and a student that has collapsed would still look diverse.
    """
    noisiest = batch.draws.timesteps == batch.draws.timesteps.max()
    if noisiest.sum() < 2:
        noisiest = torch.ones_like(noisiest)
    return spread(x0_hat[noisiest]) / spread(batch.x0[noisiest]).clamp_min(1e-6)


@torch.no_grad()
def spread(x: Tensor) -> Tensor:
    """Root mean square distance of a batch's members from their mean: 0 when they are all the same."""
    return (x - x.mean(dim=0, keepdim=True)).square().mean().sqrt()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradients for the module's weights inside the block: the student's update must leave none behind."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)

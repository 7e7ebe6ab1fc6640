"""The losses of ADD (2311.17042) as pure functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def adversarial_loss_d(real: list[Tensor], fake: list[Tensor], game: str = "hinge") -> Tensor:
    """The discriminator's loss, mean over positions and heads, without its R1 and R2 terms.

    "hinge": ADD eq. 3. "relativistic": softplus of how much more real a fake looks than the real picture of its row
    (RpGAN of R3GAN, 2501.05441): there is no loss left for a mode that is never drawn to hide in.
    """
    if game == "relativistic":
        losses = [F.softplus(f - r).mean() for r, f in zip(real, fake, strict=True)]
    else:
        losses = [(1 - r).relu().mean() + (1 + f).relu().mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()


def adversarial_loss_g(fake: list[Tensor], real: list[Tensor] | None = None) -> Tensor:
    """The student's loss: minus the mean logit (hinge, ADD eq. 2); relativistic where real logits are given."""
    if real is not None:
        return torch.stack([F.softplus(r - f).mean() for r, f in zip(real, fake, strict=True)]).mean()
    return -torch.stack([logits.mean() for logits in fake]).mean()


def r1_penalty(real: list[Tensor], features: list[Tensor]) -> Tensor:
    """Squared gradient norm of each head's logits w.r.t. its INPUT FEATURES, mean over pictures, summed over heads.

    features must require gradients (RuntimeError otherwise: a penalty that is silently zero would be worse).
    ADD eq. 3: gradients on features are far cheaper than on pixels, and enough. The hinge is a mean over heads here
    and the penalty a sum, so that gamma weighs (number of heads / 2) times as much as where both are sums.
    Of fakes and their features it is R2.
    """
    gradients = torch.autograd.grad([logits.sum() for logits in real], features, create_graph=True)
    return torch.stack([gradient.square().flatten(1).sum(1).mean() for gradient in gradients]).sum()


def distillation_weight(alpha: Tensor, sigma: Tensor, weighting: str) -> Tensor:
    """c(t) of ADD eq. 4 at noise levels (alpha, sigma), each f32[B, 1, 1, 1].

    "exponential": alpha_t. "sds": alpha_t / (2 sigma_t), with which the squared distance to the teacher's x0 has
    the gradient of score distillation sampling (ADD appendix A). "nfsd": the same weight; noise-free score
    distillation (2310.17590) differs in its target. "uniform": 1. Raises ValueError for another name.
    """
    if weighting == "exponential":
        return alpha
    if weighting in ("sds", "nfsd"):
        return alpha / (2 * sigma)
    if weighting == "uniform":
        return torch.ones_like(alpha)
    raise ValueError(f"weighting must be exponential, sds, nfsd or uniform, not {weighting!r}")


def distillation_loss(student_x0: Tensor, teacher_x0: Tensor, weight: Tensor) -> Tensor:
    """c(t) ||x0_student - stopgrad(x0_teacher)||^2, mean over elements (ADD eq. 4).

    student_x0, teacher_x0: pictures or latents of one shape; weight: c(t) f32[B, 1, 1, 1].
    """
    return (weight * (student_x0 - teacher_x0.detach()).square()).mean()

"""The losses of ADD (2311.17042) as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor

DISTILLATION_WEIGHTINGS = ("exponential", "sds", "uniform")


def adversarial_loss_d(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Hinge loss of the discriminator, mean over positions and heads (ADD eq. 3, without its R1 term)."""
    losses = [(1 - r).relu().mean() + (1 + f).relu().mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()


def adversarial_loss_g(fake: list[Tensor]) -> Tensor:
    """Hinge loss of the student: minus the mean logit (ADD eq. 2)."""
    return -torch.stack([logits.mean() for logits in fake]).mean()


def r1_penalty(real: list[Tensor], features: list[Tensor]) -> Tensor:
    """Squared gradient norm of each head's logits by its INPUT FEATURES, mean over pictures, summed over heads.

    features must require gradients. ADD eq. 3: gradients on features are far cheaper than on pixels, and enough.
    """
    gradients = torch.autograd.grad([logits.sum() for logits in real], features, create_graph=True)
    return torch.stack([gradient.square().flatten(1).sum(1).mean() for gradient in gradients]).sum()


def distillation_loss(student_x0: Tensor, teacher_x0: Tensor, alpha: Tensor, sigma: Tensor, weighting: str) -> Tensor:
    """c(t) ||x0_student - stopgrad(x0_teacher)||^2, mean over elements (ADD eq. 4).

    weighting: "exponential" c = alpha_t, "sds" c = alpha_t / (2 sigma_t) (ADD appendix A), "uniform" c = 1.
    alpha, sigma: f32[B, 1, 1, 1]. Raises ValueError for another weighting.
    """
    if weighting == "exponential":
        weight = alpha
    elif weighting == "sds":
        weight = alpha / (2 * sigma)
    elif weighting == "uniform":
        weight = torch.ones_like(alpha)
    else:
        raise ValueError(f"weighting must be one of {', '.join(DISTILLATION_WEIGHTINGS)}, not {weighting!r}")
    return (weight * (student_x0 - teacher_x0.detach()).square()).mean()

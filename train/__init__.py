"""ADDKit trainer: adversarial diffusion distillation in PyTorch."""

"""ADDKit trainer: adversarial diffusion distillation in PyTorch."""

import os

# diffusers warns of things that are as we want them: an AutoencoderTiny where it expects an AutoencoderKL, and more.
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

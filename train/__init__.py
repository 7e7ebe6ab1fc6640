"""ADDKit trainer: adversarial diffusion distillation in PyTorch."""

import os
import warnings

# diffusers warns about things that are intended: an AutoencoderTiny where it expects an AutoencoderKL, and more.
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
# One step at t = 999 needs steps_offset 0, where diffusers recommends 1.
warnings.filterwarnings("ignore", message="The configuration file of this scheduler", category=FutureWarning)

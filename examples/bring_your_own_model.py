"""A model of your own: python examples/bring_your_own_model.py path/to/diffusers/folder bundle "a prompt"

The folder is what `StableDiffusionPipeline.save_pretrained` writes, of a model that needs one step (SD-Turbo's kind).
"""

import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

import addkit
from export.onnx.export import export_onnx
from export.onnx.options import Options
from export.source import open_source

folder, bundle, prompt = sys.argv[1:4]
facts = export_onnx(open_source(folder), Path(bundle), Options(precision="fp32", overwrite=True))
print(f"{bundle}: {facts['size_mb']} MB, made in {facts['export_s']} s")

pictures = []
for pipe in (StableDiffusionPipeline.from_pretrained(folder, safety_checker=None), addkit.load(bundle)):
    generator = torch.Generator("cpu").manual_seed(7)
    image = pipe(prompt, num_inference_steps=1, guidance_scale=0.0, generator=generator).images[0]
    image.save(f"{type(pipe).__module__.partition('.')[0]}.png")
    pictures.append(np.asarray(image, np.int16))
print(f"diffusers.png and runtime.png differ by {np.abs(np.subtract(*pictures)).max()} of 255 at most")

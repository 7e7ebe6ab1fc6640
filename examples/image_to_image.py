"""A picture to start from: python examples/image_to_image.py sketch.png "a fox, flat style" folder"""

import sys
from pathlib import Path

from PIL import Image

import addkit

source, prompt, out = sys.argv[1:4]
folder = Path(out)
folder.mkdir(exist_ok=True)

with Image.open(source) as start, addkit.load() as pipe:
    for strength in (0.25, 0.5, 0.8):  # from nearly the picture itself to nearly the prompt alone
        image = pipe(prompt, image=start, strength=strength, seed=7).images[0]
        image.save(folder / f"strength-{strength}.png")
        print(folder / f"strength-{strength}.png")

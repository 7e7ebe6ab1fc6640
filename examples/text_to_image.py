"""A prompt's picture: python examples/text_to_image.py "a red fox, 3d style" fox.png"""

import sys

import addkit

prompt, path = sys.argv[1:3] if len(sys.argv) > 2 else ("a red fox, 3d style", "fox.png")

with addkit.load() as pipe:  # the bundle that comes with the package; addkit.load("path/to/bundle") for another
    (made,) = pipe.run(prompt, seed=7)  # pipe(prompt, seed=7).images where only the picture matters
    made.image.save(path)
    print(f"{path}: {made.prompt}, seed {made.seed}, {made.ms['total']:.0f} ms on {pipe.provider}")

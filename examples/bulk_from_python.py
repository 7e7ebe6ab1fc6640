"""A file of prompts on all cores: python examples/bulk_from_python.py prompts.txt folder

`addkit batch` does this for millions: it goes on after an interruption, writes metadata, and runs on many machines.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import addkit

prompts = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
folder = Path(sys.argv[2])
folder.mkdir(exist_ok=True)

# A picture on each core at a time makes more pictures per second than all cores on one picture.
with addkit.load(threads=1) as pipe, ThreadPoolExecutor(os.cpu_count()) as pool:

    def draw(row: tuple[int, str]) -> Path:
        seed, prompt = row  # a seed for each row: the same file gives the same pictures, in any order
        path = folder / f"{seed:05d}.png"
        pipe.run(prompt, seed=seed)[0].image.save(path)
        return path

    for path in pool.map(draw, enumerate(prompts)):
        print(path)

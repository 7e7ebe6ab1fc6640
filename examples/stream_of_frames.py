"""A camera's frames, redrawn as they come: python examples/stream_of_frames.py "an orange, flat style" orange.webp"""

import sys
import time
from collections.abc import Iterator

from PIL import Image, ImageDraw

import addkit


def camera(count: int) -> Iterator[Image.Image]:
    """A ball that rolls to the right, in place of cv2.VideoCapture or picamera2."""
    for i in range(count):
        frame = Image.new("RGB", (320, 240), "white")
        ImageDraw.Draw(frame).ellipse((10 * i, 80, 80 + 10 * i, 150), fill="orange")
        yield frame


prompt, path = sys.argv[1:3] if len(sys.argv) > 2 else ("an orange, flat style", "orange.webp")

with addkit.load() as pipe:
    pipe.open()
    start = time.perf_counter()
    stream = pipe.stream(prompt, images=camera(12), strength=0.5, seed=7)  # stream.cancel() ends it from any thread
    drawn = list(stream)  # one at a time, each when it is asked for: show it here instead
    print(f"{path}: {len(drawn)} frames, {len(drawn) / (time.perf_counter() - start):.1f} per second")
drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=80, loop=0)

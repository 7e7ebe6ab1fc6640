"""A video with frames between its frames: every two neighbours are the ends of a way, with the same weights for all."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from runtime.command import tell
from runtime.interpolate import smoothness as measures
from runtime.interpolate.folder import VIDEO, new_folder, write_report
from runtime.interpolate.path import End, Start, Way, check_count, strengths, uniform_places
from runtime.interpolate.video_file import Video, Writer, check_whole, created, opened
from runtime.noise import check_seed
from runtime.pipeline import Pipeline, load
from runtime.progress import Rate

MOST_BETWEEN = 63
_MEASURED = 24  # pairs: enough to tell, and a small part of the work


def run_video(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Makes the folder; returns the report for `--json` and the files to name."""
    count, prompt = 1 if args.frames is None else args.frames, args.prompt or ""
    check_count(count, MOST_BETWEEN)
    (path,) = args.inputs
    with opened(path) as reader:
        check_whole(path, reader.extent, args.damaged)
        return _made(args, reader, count, prompt)


def _made(args: argparse.Namespace, reader: Video, count: int, prompt: str) -> tuple[dict[str, Any], list[str]]:
    extent = reader.extent
    with load(args.bundle, args.provider) as pipe:
        # Neighbours are alike: what the student adds of its own would come and go with every frame.
        strength = strengths(pipe.manifest)[0] if args.strength is None else args.strength
        video = _Video(pipe, reader, count, prompt, check_seed(args.seed), strength)
        if reader.sounds:
            tell("note: the sound of the video is left out")
        if reader.hdr:
            tell(f"note: the video is HDR, {reader.hdr}: its colors come out dull; convert it to SDR (BT.709) before")
        if extent.doubt:
            tell(f"note: FFmpeg says of the video {extent.doubt!r}: some of its pictures may be damaged")
        if not extent.is_whole:
            tell(f"note: the video is damaged or cut: {extent} can be read, {extent.left_out} are left out")
        with new_folder(args.out, args.overwrite) as folder:
            video.write(folder / VIDEO)
            report = {
                "bundle": pipe.manifest.name,
                "provider": pipe.provider,
                "inputs": args.inputs,
                "prompts": [prompt, prompt],
                "seeds": [args.seed, args.seed],
                "strength": strength,
                "timestep": video.way.step.timestep,
                "video": VIDEO,
                "frames_left_out": 0 if extent.is_whole else extent.left_out,
                **video.report(),
            }
            write_report(folder, report)
    return {"out": args.out, **report}, [VIDEO]


class _Video:
    """One run: frames in, frames out, and the report on them."""

    def __init__(self, pipe: Pipeline, reader: Video, count: int, prompt: str, seed: int, strength: float) -> None:
        self.way = Way(pipe, strength)
        self._pipe, self._reader, self._count = pipe, reader, count
        self._prompt, self._seed = prompt, seed
        self._read = self._same = 0
        self._figures: list[dict[str, dict[str, float]]] = []

    def write(self, path: Path) -> None:
        """The whole video; ValueError when it has fewer than two frames."""
        ends = self._ends()
        first, second = next(ends, None), next(ends, None)
        if first is None or second is None:
            what = "no frames" if first is None else "one frame"
            raise ValueError(f"the video has {what}: two or more are needed to make some between")
        parts = self._count + 1
        tick, rate = self._reader.tick / parts, self._reader.rate * parts
        with (
            created(path, self._pipe.manifest.image_size, tick, rate) as writer,
            Rate(self._reader.count, what="frames of the video") as progress,
        ):
            for a, b in itertools.pairwise(itertools.chain([first, second], ends)):
                self._write_pair(writer, a, b, first[0])
                progress.done(self._read)
            writer.add(b[1].image, (b[0] - first[0]) * parts, b[0] - a[0])

    def report(self) -> dict[str, Any]:
        """Frames read and written, their rates, and figures of smoothness over the pairs that were measured."""
        parts = self._count + 1
        return {
            "frames_read": self._read,
            "frames_written": (self._read - 1) * parts + 1,
            "pairs_alike": self._same,
            "fps_read": float(self._reader.rate),
            "fps_written": float(self._reader.rate * parts),
            "pairs_measured": len(self._figures),
            "smoothness": measures.summary(self._figures) or None,
        }

    def _ends(self) -> Iterator[tuple[int, End]]:
        """Each frame of the clip, with its time; one that repeats the last is not computed again."""
        last: tuple[bytes, End] | None = None
        for ticks, picture in self._reader.frames():
            if not self._read and (picture.height, picture.width) != self._pipe.manifest.image_size:
                height, width = self._pipe.manifest.image_size
                found = f"{picture.width}x{picture.height}"
                tell(f"note: the video ({found}) is scaled and cut to {width}x{height}, the bundle's size")
            self._read += 1
            data = picture.tobytes()
            if last is None or data != last[0]:
                last = data, self.way.end(Start(picture, self._prompt, self._seed))
            yield ticks, last[1]

    def _write_pair(self, writer: Writer, a: tuple[int, End], b: tuple[int, End], origin: int) -> None:
        """Writes the first of the two and what is between; the second is the first of the next pair.

        Times are in output ticks, count + 1 per tick of the clip: whole numbers, whatever the rate does.
        """
        step = b[0] - a[0]
        for i, picture in enumerate(self._between(a[1], b[1])):
            writer.add(picture, (a[0] - origin) * (self._count + 1) + i * step, step)

    def _between(self, a: End, b: End) -> list[Image.Image]:
        if a is b:
            self._same += 1
            return [a.image] * (self._count + 1)
        pictures = [a.image, *(self.way.picture(a, b, t) for t in uniform_places(self._count))]
        last = b.image
        if len(self._figures) < _MEASURED and pictures[0].tobytes() != last.tobytes():
            self._figures.append(measures.compared([*pictures, last]))
        return pictures

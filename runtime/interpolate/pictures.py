"""Frames between two picture files: read, made, written to a folder with an animation and a report."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from runtime import arguments
from runtime.command import tell
from runtime.files import write_whole
from runtime.image_files import png_bytes, settings_text, used_of
from runtime.interpolate import animation, smoothness
from runtime.interpolate import path as interpolate_path
from runtime.interpolate.folder import ANIMATION, frame_name, new_folder, write_report
from runtime.interpolate.inputs import Source, read_source
from runtime.interpolate.path import Frame, Start, known_strength
from runtime.manifest import Manifest
from runtime.noise import check_seed
from runtime.pipeline import Pipeline, load
from runtime.progress import Progress

FRAMES = 8
FPS = 12.0


def run_pictures(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Makes the folder; returns the report for `--json` and the files to name. `args`: of `runtime.interpolate`."""
    args.frames = FRAMES if args.frames is None else args.frames
    interpolate_path.check_count(args.frames)
    if args.animation == "none" and args.fps is not None:
        raise ValueError("--fps is for the animation, which --animation none leaves out")
    fps = animation.check_fps(FPS if args.fps is None else args.fps)
    sources = [read_source(path) for path in args.inputs]
    with load(args.bundle, args.provider) as pipe:
        report = _settings(args, sources, pipe)
        for text in report["fitted"]:
            tell(f"note: {text}")
        frames = _frames(args, sources, pipe, report)
        with new_folder(args.out, args.overwrite) as folder:
            pictures = _write_frames(folder, frames, args.frames + 2, sources, pipe.manifest, report)
            _write_animation(folder, pictures, args.animation or "webp", fps, pipe.manifest, report)
            same = pictures[0].tobytes() == pictures[-1].tobytes()
            report["smoothness"] = None if same else smoothness.compared(pictures)
            write_report(folder, report)
    names = [frame["path"] for frame in report["frames"]]
    return {"out": args.out, **report}, names + [name for name in [report["animation"]] if name]


def _settings(args: argparse.Namespace, sources: Sequence[Source], pipe: Pipeline) -> dict[str, Any]:
    """What the frames depend on, for the report. Raises ValueError for a seed or strength that is not allowed."""
    prompts = _prompts(args, sources)
    seeds = [check_seed(args.seed), check_seed(args.seed if args.seed_b is None else args.seed_b)]
    a, b = (Start(sources[i].image, prompts[i], seeds[i]) for i in (0, 1))
    strength = known_strength(pipe, a, b) if args.strength is None else args.strength
    (step,) = arguments.steps(pipe.manifest, 1, strength, True)
    return {
        "bundle": pipe.manifest.name,
        "provider": pipe.provider,
        "inputs": args.inputs,
        "fitted": [text for one in sources for text in used_of(one.path, one.image, pipe.manifest.image_size)],
        "prompts": prompts,
        "seeds": seeds,
        "strength": strength,
        "timestep": step.timestep,
    }


def _prompts(args: argparse.Namespace, sources: Sequence[Source]) -> list[str]:
    """What the two show: as the user says, else as their files do."""
    first, last = (source.prompt if args.prompt is None else args.prompt for source in sources)
    return [first, last if args.prompt_b is None else args.prompt_b]


def _frames(
    args: argparse.Namespace, sources: Sequence[Source], pipe: Pipeline, report: dict[str, Any]
) -> Iterator[Frame]:
    return interpolate_path.between(
        pipe,
        sources[0].image,
        sources[1].image,
        args.frames,
        prompt=report["prompts"][0],
        prompt_b=report["prompts"][1],
        seed=report["seeds"][0],
        seed_b=report["seeds"][1],
        strength=report["strength"],
        even=args.timing != "uniform",
    )


def _write_frames(
    folder: Path,
    frames: Iterator[Frame],
    total: int,
    sources: Sequence[Source],
    manifest: Manifest,
    report: dict[str, Any],
) -> list[Image.Image]:
    """Writes the frames as they come, and returns the pictures. Their names and places go into the report."""
    pictures: list[Image.Image] = []
    report["frames"] = []
    with Progress(total) as progress:
        for i, frame in enumerate(frames):
            write_whole(folder / frame_name(i), _file(frame, sources, manifest, report))
            pictures.append(frame.image)
            report["frames"].append({"path": frame_name(i), "t": round(frame.t, 6)})
            progress.done(len(pictures))
    return pictures


def _file(frame: Frame, sources: Sequence[Source], manifest: Manifest, report: dict[str, Any]) -> bytes:
    if frame.t in (0, 1):
        return sources[int(frame.t)].as_png(frame.image)
    return png_bytes(frame.image, _parameters(manifest, report, f"{frame.t:.6f}"))


def _write_animation(
    folder: Path,
    pictures: Sequence[Image.Image],
    format: str,
    fps: float,
    manifest: Manifest,
    report: dict[str, Any],
) -> None:
    """Writes it, unless the format is none; its name goes into the report."""
    report["animation"] = None
    if format != "none":
        text = _parameters(manifest, report, "0 to 1")
        report["animation"] = ANIMATION + animation.SUFFIXES[format]
        write_whole(folder / report["animation"], animation.encode_animation(pictures, format, fps, text))


def _parameters(manifest: Manifest, report: dict[str, Any], where: str) -> str:
    """The `parameters` text of a frame; `where`: its place between the two."""
    prompt, other = report["prompts"]
    text = settings_text(
        prompt, report["seeds"][0], model=manifest.name, size=manifest.image_size, strength=report["strength"]
    )
    second = f", Prompt B: {json.dumps(other, ensure_ascii=False)}" if other != prompt else ""
    return f"{text}, Interpolation: {where}{second}"

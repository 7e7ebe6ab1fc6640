"""Figures and the contact sheet of docs/interpolation.md: `python -m scripts.interpolation --out docs/figures`.

Twelve pairs of stickers, their words and seeds fixed in advance, are joined by eight frames in several ways and by a
cross-fade. A clip of a sticker that moves is halved in rate and filled up again, and compared with what was left out.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import runtime
from export.checks.measure import psnr_db
from runtime.command import Parser, command_parser, run_command
from runtime.files import check_writable, write_whole
from runtime.interpolate import smoothness as measures
from runtime.interpolate.path import Start, Way, between, known_strength
from runtime.progress import Rate

THINGS = (
    "red fox", "pizza", "tiger", "sunflower", "red apple", "owl", "rocket", "house", "cat", "strawberry", "car",
    "mushroom", "robot", "cake", "whale", "guitar", "dog", "crown", "penguin", "ice cream", "bee", "donut", "frog",
    "umbrella",
)  # fmt: skip
STYLES = ("3d style", "flat style", "cartoon style")
FIRST_SEED, NOISE, OTHER_NOISE, FRAMES, PAIRS = 100, 0, 1, 8, 12
DRAWN = Path("train/demo_shard/held_out-00000.tar")  # stickers that people drew, which the student has not seen
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "noise from one seed to another": {"seed_b": OTHER_NOISE},
    "uniform timing": {"even": False},
    "strength 0.75": {"strength": 0.75},
    "strength 0.5": {"strength": 0.5},
    "strength 0.25": {"strength": 0.25},
    "no prompts": {"prompt": "", "prompt_b": ""},
}
DRAWN_WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "strength 0.75": {"strength": 0.75},
    "no prompts": {"prompt": "", "prompt_b": ""},
}
CLIP, SHIFT = 25, (2, 1)  # frames; pixels a frame
SHEET_SIDE, BEST = 80, 3


EXAMPLES = """examples:
  python -m scripts.interpolation --out docs/figures"""


def parser() -> Parser:
    """The command line."""
    made = command_parser("scripts.interpolation", __doc__, EXAMPLES, json=False)
    made.add_argument("--out", type=Path, default=Path("docs/figures"), help="default docs/figures")
    made.add_argument("--bundle", help="default sticker-128")
    return made


def work(args: argparse.Namespace) -> None:
    """Writes interpolation.json and interpolation.webp, and prints the tables."""
    for name in ("interpolation.json", "interpolation.webp"):
        check_writable(args.out / name)
    with runtime.load(args.bundle, "cpu") as pipe:
        pairs = stickers(pipe)
        ways, frames = figures(pipe, pairs, WAYS)
        drawn, drawn_frames = figures(pipe, drawings(), DRAWN_WAYS)
        report = {"generated": ways, "drawn": drawn, "clip": clip(pipe, pairs[0][0][1])}
    write_whole(args.out / "interpolation.json", (json.dumps(report, indent=1) + "\n").encode())
    write_whole(args.out / "interpolation.webp", sheet(frames, drawn_frames[0]))
    show(report)


def stickers(pipe: runtime.Pipeline) -> list[list[tuple[str, Image.Image]]]:
    """[[(prompt, picture), (prompt, picture)], ...]"""
    prompts = [f"{thing}, {STYLES[i % 3]}" for i, thing in enumerate(THINGS)]
    made = [(prompt, pipe(prompt, seed=FIRST_SEED + i)[0]) for i, prompt in enumerate(prompts)]
    return [made[i : i + 2] for i in range(0, len(made), 2)]


def drawings() -> list[list[tuple[str, Image.Image]]]:
    """The first twelve pairs of the held-out shard, in its order, as `stickers`."""
    with tarfile.open(DRAWN) as tar:
        files = {member.name: member for member in tar}
        names = [name[:-4] for name in files if name.endswith(".png")][: 2 * PAIRS]
        made = []
        for name in names:
            picture, facts = (tar.extractfile(files[name + suffix]) for suffix in (".png", ".json"))
            assert picture is not None and facts is not None
            made.append((json.load(facts)["captions"][0], Image.open(io.BytesIO(picture.read())).convert("RGB")))
    return [made[i : i + 2] for i in range(0, len(made), 2)]


def figures(
    pipe: runtime.Pipeline, pairs: Any, wanted: dict[str, dict[str, Any]]
) -> tuple[dict[str, Any], list[list[Image.Image]]]:
    """min, median, max of every way's figures over the pairs; the default way's frames of each pair."""
    ways: dict[str, Any] = {}
    kept, made = [], 0
    with Rate(len(wanted) * len(pairs), what="morphs") as progress:
        for name, options in wanted.items():
            rows, used = [], []
            for (prompt, a), (prompt_b, b) in pairs:
                given = {"prompt": prompt, "prompt_b": prompt_b, "strength": None, **options}
                ends = Start(a, given["prompt"], NOISE), Start(b, given["prompt_b"], NOISE)
                given["strength"] = given["strength"] or known_strength(pipe, *ends)
                frames = [frame.image for frame in between(pipe, a, b, FRAMES, seed=NOISE, **given)]
                rows.append(measures.compared(frames))
                used.append(round(given["strength"], 3))
                kept += [frames] if name == "default" else []
                made += 1
                progress.done(made)
            summary = measures.summary(rows)
            ways.setdefault("cross-fade", summary["cross_fade"])
            ways[name] = {**summary["ours"], "won": won(rows), "strengths": dict(sorted(Counter(used).items()))}
    return ways, kept


def won(rows: Sequence[dict[str, dict[str, float]]]) -> dict[str, int]:
    """For how many pairs the figure is better than the cross-fade's; only crispness is better when it is more."""
    signs = {name: 1 if name == "crispness" else -1 for name in measures.MEASURES}
    return {
        name: sum(sign * row["ours"][name] > sign * row["cross_fade"][name] for row in rows)
        for name, sign in signs.items()
    }


def clip(pipe: runtime.Pipeline, sticker: Image.Image) -> dict[str, dict[str, float]]:
    """PSNR in dB, over the frames that were left out, of what fills the gaps: by strength, and by a cross-fade."""
    small = sticker.resize((76, 76), Image.Resampling.LANCZOS)
    frames = []
    for i in range(CLIP):
        frame = Image.new("RGB", sticker.size, "white")
        frame.paste(small, (i * SHIFT[0], 10 + i * SHIFT[1]))
        frames.append(frame)
    made = {"cross-fade": [Image.blend(frames[i - 1], frames[i + 1], 0.5) for i in range(1, CLIP, 2)]}
    for strength in (0.25, 0.5, 0.75):
        way = Way(pipe, strength)
        ends = [way.end(Start(frame, "", NOISE)) for frame in frames[::2]]
        made[f"strength {strength}"] = [way.picture(a, b, 0.5) for a, b in itertools.pairwise(ends)]
    return {name: against(frames, filled) for name, filled in made.items()}


def against(frames: Sequence[Image.Image], filled: Sequence[Image.Image]) -> dict[str, float]:
    """Means over the gaps, which are every second of `frames`."""
    likeness = [psnr_db(np.asarray(x), np.asarray(y), peak=255.0) for x, y in zip(filled, frames[1::2], strict=True)]
    gaps = zip(frames[:-1:2], filled, frames[2::2], strict=True)
    crispness = [measures.measure(gap)["crispness"] for gap in gaps]
    return {"psnr_db": round(float(np.mean(likeness)), 2), "crispness": round(float(np.mean(crispness)), 3)}


def sheet(kept: Sequence[list[Image.Image]], drawn: list[Image.Image]) -> bytes:
    """The three pairs with the least double exposure, the least crisp one, and `drawn`, each above its cross-fade."""
    rated = [(measures.measure(frames), frames) for frames in kept]
    rated.sort(key=lambda one: one[0]["crispness"])
    worst, *others = rated
    others.sort(key=lambda one: one[0]["double_exposure"])
    chosen = [*(frames for _, frames in (*others[:BEST], worst)), drawn]
    rows = [row for frames in chosen for row in (frames, measures.cross_fade(frames[0], frames[-1], FRAMES))]
    picture = Image.new("RGB", (SHEET_SIDE * (FRAMES + 2), (SHEET_SIDE + 4) * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, frame in enumerate(row):
            small = frame.resize((SHEET_SIDE, SHEET_SIDE), Image.Resampling.LANCZOS)
            picture.paste(small, (x * SHEET_SIDE, y * (SHEET_SIDE + 4)))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=88, method=6)
    return buffer.getvalue()


def show(report: dict[str, Any]) -> None:
    """The tables, in Markdown."""
    print("| way |", " | ".join(measures.MEASURES), "|")
    for group in ("generated", "drawn"):
        for name, row in report[group].items():
            cells = [f"{row[m]['median']:.2f} ({row[m]['min']:.2f}..{row[m]['max']:.2f})" for m in measures.MEASURES]
            print(f"| {group}: {name} |", " | ".join(cells), "|", row.get("won", ""), row.get("strengths", ""))
    for name, row in report["clip"].items():
        print(f"| {name} | {row['psnr_db']} | {row['crispness']} |")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())

"""`make demo`: the whole path at laptop scale, through the same commands that a user types.

A short ADD distillation from the bundled teacher on a bundled part of the world of stickers, in which a caption has
many pictures, its export to ONNX int8 and to Core ML, pictures by the runtime, a contact sheet and a table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from runtime.files import whole_file
from scripts.make_demo_world import ANIMALS

OUT = Path("out/demo")
PROMPTS = ("a fox", "a strawberry", "an animal")
SEEDS = range(7, 15)


@dataclass
class Finished:
    """What one command printed as JSON, and what it cost."""

    facts: dict[str, Any]
    seconds: float
    peak_mb: float


def run(title: str, *arguments: str, parse: bool = True) -> Finished:
    """Run `python -m ...` with its progress shown; stop the demo with its own message when it fails."""
    print(f"\n== {title}\n   python -m {' '.join(arguments)}", file=sys.stderr)
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        command = [sys.executable, "-W", "ignore", "-m", *arguments]
        process = subprocess.Popen(command, stdout=output, env={**os.environ, "PYTHONWARNINGS": "ignore"})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        if status:
            sys.exit(f"error: {title} failed (see above)")
        output.seek(0)
        facts = json.load(output) if parse else {}
    return Finished(facts, seconds, usage.ru_maxrss / 1024)


def pictures(bundle: str, folder: Path) -> Finished:
    """The demo's prompts by one bundle, eight seeds each, one step."""
    folder.mkdir(parents=True, exist_ok=True)
    return run(
        f"pictures by {bundle}",
        "runtime",
        *PROMPTS,
        *("--seed", str(SEEDS[0]), "--num-images", str(len(SEEDS)), "--bundle", bundle, "--json"),
        *("-o", str(folder / "{i}.png")),
    )


def real_pictures(prompt: str) -> list[Image.Image]:
    """Pictures that the data hold of what a prompt names, spread over all of them."""
    from train.config import DEMO_WORLD
    from train.data.shards import read_records

    named = {"an animal": ANIMALS}.get(prompt, (prompt.removeprefix("a "),))
    found = [picture for record, picture in read_records(Path(DEMO_WORLD), "train") if record.unit in named]
    return [Image.fromarray(found[len(found) * row // len(SEEDS)]) for row in range(len(SEEDS))]


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], target: Path) -> None:
    """A labelled row of pictures each."""
    side, label = 128, 18
    sheet = Image.new("RGB", (len(SEEDS) * (side + 4) + 4, len(rows) * (side + label + 4) + 4), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (title, images) in enumerate(rows):
        top = 4 + row * (side + label + 4)
        pen.text((4, top), title, fill="black")
        for column, image in enumerate(images):
            sheet.paste(image.convert("RGB").resize((side, side)), (4 + column * (side + 4), top + label))
    with whole_file(target) as partial:
        sheet.save(partial)


def differing(images: Sequence[Image.Image]) -> float:
    """How far pictures of one prompt are from their mean, of 255."""
    values = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images])
    return float(np.abs(values - values.mean(axis=0)).mean())


def table(rows: list[tuple[str, str, str, str, str]]) -> str:
    header = ("model", "size MB", "picture parity", "ms per picture", "peak MB")
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def folder_mb(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e6:.1f}"


def parity_of(facts: Mapping[str, Any]) -> str:
    picture = facts["picture"]
    return f"{picture['psnr_db']:.1f} dB {picture['status']}"


def row_of(label: str, folder: Path, parity: str, made: Finished) -> tuple[str, str, str, str, str]:
    times = sorted(image["ms"]["total"] for image in made.facts["images"])
    return label, folder_mb(folder), parity, f"{times[len(times) // 2]:.0f}", f"{made.peak_mb:.0f}"


def main() -> None:
    started = time.monotonic()
    run_dir = OUT / "run"
    run("ADD distillation", "train", "--preset", "demo", f"run_dir={run_dir}", parse=False)
    student = str(run_dir / "pipeline")
    exported = ("--overwrite", "--json")
    onnx = run(
        *("export to ONNX int8", "export.onnx", student, "--out", str(OUT / "onnx"), "--precision", "int8"), *exported
    )
    coreml = run(
        *("export to Core ML, 6-bit", "export.coreml", student, "--out", str(OUT / "coreml")),
        *("--quantize-nbits", "6"),
        *exported,
    )
    own = pictures(str(OUT / "onnx"), OUT / "pictures" / "demo")
    release = pictures("sticker-128", OUT / "pictures" / "release")
    drawn = [Image.open(image["path"]) for image in own.facts["images"]]
    rows: list[tuple[str, Sequence[Image.Image]]] = []
    moved = []
    for number, prompt in enumerate(PROMPTS):
        images = drawn[number * len(SEEDS) : (number + 1) * len(SEEDS)]
        real = real_pictures(prompt)
        rows += [(f"{prompt}: the data's own pictures", real), (f"{prompt}: one step of this demo's student", images)]
        moved.append(f"{prompt} {differing(images):.0f} (data {differing(real):.0f})")
    contact_sheet(rows, OUT / "sheet.png")
    from runtime.bundle import open_bundle, resolve_bundle

    shipped = resolve_bundle("sticker-128")
    shipped_parity = open_bundle(shipped).manifest.parity
    lines = [
        row_of("demo student, ONNX int8", OUT / "onnx", parity_of(onnx.facts), own),
        ("demo student, Core ML 6-bit", folder_mb(OUT / "coreml"), parity_of(coreml.facts), "not run: needs macOS", ""),
        row_of("sticker-128, ONNX int8", shipped, parity_of(shipped_parity), release),
    ]
    print()
    print(table(lines))
    print(f"\nhow far eight seeds of a prompt are apart, of 255: {', '.join(moved)}")
    print(f"sheet: {OUT / 'sheet.png'}   {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()

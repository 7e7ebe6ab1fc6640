"""`make demo`: the whole path at laptop scale, through the same commands that a user types.

A short ADD distillation from the bundled teacher on a bundled shard of real data, its export to ONNX int8 and to
Core ML, pictures by that student and by the release student, a contact sheet and a table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from runtime.files import whole_file

OUT = Path("out/demo")
PROMPTS = (
    "pizza, 3d style",
    "fox, flat style",
    "green apple, 3d style",
    "octopus, flat style",
    "sunflower, 3d style",
    "birthday cake, flat style",
    "tiger face, 3d style",
    "avocado, flat style",
)


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
    """The demo's prompts by one bundle, seed 7, one step."""
    folder.mkdir(parents=True, exist_ok=True)
    return run(
        f"pictures by {bundle}",
        "runtime",
        *PROMPTS,
        "--seed",
        "7",
        "--bundle",
        bundle,
        "--json",
        "-o",
        str(folder / "{i}.png"),
    )


def side_by_side(before: Path, after: Path, target: Path) -> None:
    """The first and the last sample grid of the run, labelled."""
    images = [Image.open(path).convert("RGB") for path in (before, after)]
    width, height = images[0].size
    sheet = Image.new("RGB", (width, 2 * (height + 18)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (image, label) in enumerate(zip(images, ("before distillation", "after distillation"), strict=True)):
        top = index * (height + 18)
        pen.text((4, top + 3), label, fill="black")
        sheet.paste(image, (0, top + 18))
    with whole_file(target) as partial:
        sheet.save(partial)


def contact_sheet(rows: dict[str, list[str]], target: Path) -> None:
    """One row of pictures per model, one column per prompt."""
    sheet = Image.new("RGB", (8 * 132 + 4, len(rows) * 166 + 4), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (label, paths) in enumerate(rows.items()):
        pen.text((4, row * 166 + 3), label, fill="black")
        for column, path in enumerate(paths):
            sheet.paste(Image.open(path).convert("RGB"), (4 + column * 132, row * 166 + 18))
            pen.text((6 + column * 132, row * 166 + 148), PROMPTS[column][:21], fill="black")
    with whole_file(target) as partial:
        sheet.save(partial)


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
    student = run_dir / "pipeline"
    onnx = run(
        "export to ONNX int8",
        "export.onnx",
        str(student),
        "--out",
        str(OUT / "onnx"),
        "--precision",
        "int8",
        "--overwrite",
        "--json",
    )
    coreml = run(
        "export to Core ML, 6-bit",
        "export.coreml",
        str(student),
        "--out",
        str(OUT / "coreml"),
        "--quantize-nbits",
        "6",
        "--overwrite",
        "--json",
    )
    own = pictures(str(OUT / "onnx"), OUT / "pictures" / "demo")
    release = pictures("sticker-128", OUT / "pictures" / "release")
    samples = sorted((run_dir / "samples").glob("step-*.png"))
    side_by_side(samples[0], samples[-1], OUT / "progress.png")
    sheet_rows = {"student of this demo, int8, one step": own, "release student sticker-128, int8, one step": release}
    paths = {label: [image["path"] for image in made.facts["images"]] for label, made in sheet_rows.items()}
    contact_sheet(paths, OUT / "sheet.png")
    from runtime.bundle import open_bundle, resolve_bundle

    shipped = resolve_bundle("sticker-128")
    shipped_parity = open_bundle(shipped).manifest.parity
    rows = [
        row_of("demo student, ONNX int8", OUT / "onnx", parity_of(onnx.facts), own),
        ("demo student, Core ML 6-bit", folder_mb(OUT / "coreml"), parity_of(coreml.facts), "not run: needs macOS", ""),
        row_of("sticker-128, ONNX int8", shipped, parity_of(shipped_parity), release),
    ]
    print()
    print(table(rows))
    print(
        f"\nsheet: {OUT / 'sheet.png'}   before and after: {OUT / 'progress.png'}   {time.monotonic() - started:.0f} s"
    )


if __name__ == "__main__":
    main()

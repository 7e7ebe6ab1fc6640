"""How often the watermark is read, and read where there is none: the figures of docs/watermark.md.

`python -m scripts.watermark_rates --out FOLDER` draws the emoji art of the sticker set at 512 pixels (fetched by npm,
see train/sticker/packages.py), marks 2,000 pictures of it and of the shipped model, and reads real pictures that
nobody marked. Counts go to FOLDER/rates.json after every part.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from runtime.command import Parser, command_parser, print_result, run_command, tell, whole
from runtime.files import write_json
from runtime.watermark import THRESHOLD, embedded, read_mark
from runtime.watermark.embed import psnr_db

SIDE = 512
DRAWN = ("noto", "fluent-emoji-flat", "fluent-emoji", "fxemoji", "streamline-emojis")
STICKER_BYTES = 100_000
EXAMPLES = """examples:
  python -m scripts.watermark_rates --out rates
  python -m scripts.watermark_rates --out rates --pictures 100 --real 500 --photos my_photos
"""
Change = Callable[[Image.Image], Image.Image]


def flat(image: Image.Image, colour: str = "white") -> Image.Image:
    """On one colour, RGB."""
    made = Image.new("RGBA", image.size, colour)
    made.alpha_composite(image.convert("RGBA"))
    return made.convert("RGB")


def coded(image: Image.Image, format: str, quality: int) -> Image.Image:
    """Through a file of that format."""
    buffer = io.BytesIO()
    image.save(buffer, format, quality=quality)
    return Image.open(buffer)


def as_sticker(image: Image.Image) -> Image.Image:
    """WebP of the highest quality that takes at most 100 KB."""
    for quality in (95, 90, 85, 80, 70, 60, 50, 40, 30, 20, 10):
        buffer = io.BytesIO()
        image.save(buffer, "webp", quality=quality)
        if buffer.tell() <= STICKER_BYTES:
            break
    return Image.open(buffer)


def scaled(image: Image.Image, side: int) -> Image.Image:
    """Brought to side x side."""
    return image.resize((side, side), Image.Resampling.BICUBIC)


def cropped(image: Image.Image, pixels: int) -> Image.Image:
    """Without so many pixels at each edge."""
    return image.crop((pixels, pixels, image.width - pixels, image.height - pixels))


ASKED: dict[str, Change] = {
    "as written": lambda image: image,
    "JPEG 75": lambda image: coded(flat(image), "jpeg", 75),
    "512 to 256 to 512": lambda image: scaled(scaled(image, 256), SIDE),
    "WebP of 100 KB": as_sticker,
}
BREAKING: dict[str, Change] = {
    "JPEG 50": lambda image: coded(flat(image), "jpeg", 50),
    "JPEG 30": lambda image: coded(flat(image), "jpeg", 30),
    "WebP quality 50": lambda image: coded(image, "webp", 50),
    "256, then JPEG 75": lambda image: coded(flat(scaled(image, 256)), "jpeg", 75),
    "to 384": lambda image: scaled(image, 384),
    "to 128": lambda image: scaled(image, 128),
    "to 96": lambda image: scaled(image, 96),
    "on black": lambda image: flat(image, "black"),
    "on green": lambda image: flat(image, "green"),
    "blur, radius 2": lambda image: flat(image).filter(ImageFilter.GaussianBlur(2)),
    "blur, radius 8": lambda image: flat(image).filter(ImageFilter.GaussianBlur(8)),
    "crop of 2 pixels a side": lambda image: cropped(image, 2),
    "crop of 8 pixels a side": lambda image: cropped(image, 8),
    "crop of 32 pixels a side": lambda image: cropped(image, 32),
    "rotation by 1 degree": lambda image: flat(image).rotate(1, Image.Resampling.BICUBIC, fillcolor="white"),
    "rotation by 5 degrees": lambda image: flat(image).rotate(5, Image.Resampling.BICUBIC, fillcolor="white"),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "gray": lambda image: flat(image).convert("L").convert("RGB"),
    "screenshot, 40 pixels of white around": lambda image: _framed(image, 40),
    "palette of 64 colours": lambda image: flat(image).quantize(64),
}


def _framed(image: Image.Image, pixels: int) -> Image.Image:
    made = Image.new("RGB", (image.width + 2 * pixels, image.height + 2 * pixels), "white")
    made.paste(flat(image), (pixels, pixels))
    return made


def drawings(most: int) -> Iterator[tuple[str, Image.Image]]:
    """(set, RGBA 512x512) of the emoji art, set after set in turn, shuffled."""
    import resvg_py

    from train.data.pictures import icon_svg
    from train.registry import fetch
    from train.sticker.packages import PACKAGES

    rows: list[tuple[str, str | Path]] = []
    for name in DRAWN:
        icons = json.loads((fetch(PACKAGES[f"@iconify-json/{name}"]) / "package" / "icons.json").read_text())
        rows += [(name, icon_svg(icons, icon)) for _, icon in sorted(icons["icons"].items())]
    rendered = fetch(PACKAGES["@lobehub/fluent-emoji-3d"]) / "package" / "assets"
    rows += [("fluent-emoji-3d", path) for path in sorted(rendered.glob("*.webp"))]
    for i in np.random.default_rng(0).permutation(len(rows))[:most]:
        name, source = rows[i]
        if isinstance(source, Path):
            yield name, scaled(Image.open(source).convert("RGBA"), SIDE)
        else:
            data = bytes(resvg_py.svg_to_bytes(svg_string=source, width=SIDE, height=SIDE))
            yield name, scaled(Image.open(io.BytesIO(data)).convert("RGBA"), SIDE)


def generated(count: int) -> Iterator[tuple[str, Image.Image]]:
    """("generated", RGB 512x512): pictures of the shipped model, enlarged from 128 by bicubic interpolation."""
    from runtime.pipeline import load
    from train.sticker.prompts import SHEET_PROMPTS

    prompts = list(SHEET_PROMPTS)
    with load() as pipe:
        for i in range(count):
            (image,) = pipe(prompts[i % len(prompts)], seed=i, watermark=False)
            yield "generated", scaled(image, SIDE)


def photos(folder: Path, side: int = 256) -> Iterator[tuple[str, Image.Image]]:
    """("photos", ...): every picture of a folder, and its squares of `side` pixels enlarged to 512."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            image = Image.open(path).convert("RGB")
        except (OSError, ValueError):
            continue
        if min(image.size) < side:
            continue
        yield "photos", scaled(image, SIDE)
        for top in range(0, image.height - side + 1, side // 2):
            for left in range(0, image.width - side + 1, side // 2):
                yield "photos", scaled(image.crop((left, top, left + side, top + side)), SIDE)


def of_marked(pictures: Iterator[tuple[str, Image.Image]], changes: dict[str, Change]) -> dict[str, Any]:
    """Counts of pictures marked, and read with the right code after each change; the worst PSNR and the times."""
    right: dict[str, Counter[str]] = {name: Counter() for name in changes}
    marked: Counter[str] = Counter()
    decibels, embed_ms, read_ms, wrong = [], [], [], 0
    for i, (kind, image) in enumerate(pictures):
        code = i * 40503 % 65536
        start = time.perf_counter()
        made = embedded(image, code)
        embed_ms.append((time.perf_counter() - start) * 1000)
        marked[kind] += 1
        decibels.append(_decibels(image, made))
        for name, change in changes.items():
            changed = change(made)
            start = time.perf_counter()
            found = read_mark(changed).code
            read_ms.append((time.perf_counter() - start) * 1000)
            right[name][kind] += found == code
            wrong += found not in (None, code)
    return {
        "marked": marked,
        "read": {name: dict(counts) for name, counts in right.items()},
        "percent": {name: round(100 * counts.total() / max(1, marked.total()), 2) for name, counts in right.items()},
        "wrong_code": wrong,
        "psnr_db": {
            name: _least_and_median(column)
            for name, column in zip(("on_white", "visible"), zip(*decibels, strict=True), strict=True)
        },
        "ms": {"embed": round(float(np.median(embed_ms)), 1), "read": round(float(np.median(read_ms)), 1)},
    }


def _least_and_median(values: Sequence[float]) -> dict[str, float]:
    return {"least": round(min(values), 2), "median": round(float(np.median(values)), 2)}


def _decibels(before: Image.Image, after: Image.Image) -> tuple[float, float]:
    """Of the picture on white, and over its visible pixels; 99 where nothing changed."""
    one, two = np.asarray(before), np.asarray(after)
    visible = (one[..., 3:] / 255 if one.shape[2] == 4 else np.ones((1, 1, 1))).astype(np.float32)
    whole, part = psnr_db(one[..., :3], two[..., :3], visible)
    return min(99.0, whole), min(99.0, part)


def of_unmarked(pictures: Iterator[tuple[str, Image.Image]]) -> dict[str, Any]:
    """How many read as marked, and the highest scores, right checksum or not."""
    seen: Counter[str] = Counter()
    scores, false = [], 0
    for kind, image in pictures:
        reading = read_mark(image)
        seen[kind] += 1
        scores.append(reading.score)
        false += reading.code is not None
    order = np.sort(np.array(scores))[::-1]
    over = {f"{level:.1f}": int((order >= level).sum()) for level in (5.0, 5.5, 6.0, THRESHOLD)}
    return {"read": seen, "false": false, "highest": [float(one) for one in order[:5]], "scores_at_or_over": over}


def parser() -> Parser:
    made = command_parser("scripts.watermark_rates", "The watermark's rates on art, the model's and photos.", EXAMPLES)
    made.add_argument("--out", required=True, metavar="DIR", help="where rates.json goes")
    made.add_argument("--pictures", type=whole(2), default=2000, metavar="N", help="to mark: half art, half generated")
    made.add_argument("--real", type=whole(1), default=10_000, metavar="N", help="drawings to read unmarked")
    made.add_argument("--breaking", type=whole(2), default=200, metavar="N", help="pictures for what may break it")
    made.add_argument("--photos", type=Path, metavar="DIR", help="real photos to read as well")
    return made


def work(args: argparse.Namespace) -> None:
    if args.photos is not None and not args.photos.is_dir():
        raise ValueError(f"--photos {args.photos} is no folder: name one with pictures")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    half = args.pictures // 2
    few = args.breaking // 2
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "art": lambda: of_marked(drawings(half), ASKED),
        "generated": lambda: of_marked(generated(half), ASKED),
        "unmarked_real": lambda: of_unmarked(drawings(args.real)),
        "unmarked_generated": lambda: of_unmarked(generated(half)),
        "breaking_art": lambda: of_marked(drawings(few), BREAKING),
        "breaking_generated": lambda: of_marked(generated(few), BREAKING),
    }
    if args.photos is not None:
        parts["unmarked_photos"] = lambda: of_unmarked(photos(args.photos))
    rates: dict[str, Any] = {}
    for name, part in parts.items():
        rates[name] = part()
        tell(f"{name}: {json.dumps(rates[name])}")
        write_json(out / "rates.json", rates)
    print_result(json.dumps(rates) if args.json else str(out / "rates.json"))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())

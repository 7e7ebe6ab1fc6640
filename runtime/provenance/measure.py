"""What marking and signing a picture costs: bytes and milliseconds, per format, on this machine."""

from __future__ import annotations

import io
import time
import zlib
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from runtime.image_files import DEFAULT_QUALITY, SUFFIXES, encode, settings_text
from runtime.provenance.certificates import load_packages, new_identity
from runtime.provenance.claim import Facts
from runtime.provenance.identity import identity_of, now
from runtime.provenance.sign import Signer

SIDE = 128  # pixels, as the shipped model's pictures
PROMPT = "words of a length that people type, with a comma"


def measured(turns: int) -> dict[str, Any]:
    """Medians over `turns` pictures, with a key made for the measurement. NotSigned where packages are missing.

    - marks: the text `parameters` and the XMP packet, which every picture carries
    - signature: the manifest, once the packages are imported and the key is there
    """
    packages_ms = _ms(load_packages)
    made: list[Signer] = []
    key_ms = _ms(lambda: made.append(Signer(identity_of(new_identity(now()), "measurement"))))
    image = _picture()
    text = settings_text(PROMPT, 7, model="sticker-128", size=(SIDE, SIDE))
    facts = Facts("sticker-128", "0" * 64, PROMPT)
    formats = {}
    for format in SUFFIXES:
        marked = encode(image, text, format)
        signed = made[0].signed(marked, format, facts)
        formats[format] = {
            "marks_bytes": len(marked) - len(_bare(image, format)),
            "marks_ms": _marks_ms(turns, image, text, format),
            "signature_bytes": len(signed) - len(marked),
            "signature_ms": _usual(turns, lambda d=marked, f=format: made[0].signed(d, f, facts)),  # type: ignore[misc]
        }
    return {"turns": turns, "import_ms": packages_ms, "new_key_ms": key_ms, "formats": formats}


def table(figures: dict[str, Any]) -> str:
    """The figures as lines."""
    lines = [f"once: {figures['import_ms']} ms for imports, {figures['new_key_ms']} ms for a new key"]
    lines.append("format   marks: bytes      ms   signature: bytes      ms")
    for format, one in figures["formats"].items():
        marks = f"{one['marks_bytes']:14} {one['marks_ms']:7.3f}"
        lines.append(f"{format:6} {marks} {one['signature_bytes']:18} {one['signature_ms']:7.3f}")
    return "\n".join(lines)


def _ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return round((time.perf_counter() - start) * 1000, 3)


def _usual(turns: int, call: Callable[[], object]) -> float:
    return round(median(_ms(call) for _ in range(turns)), 3)


def _marks_ms(turns: int, image: Image.Image, text: str, format: str) -> float:
    """How much longer a file with marks takes than the same without, both made in turns."""
    pairs = [(_ms(lambda: encode(image, text, format)), _ms(lambda: _bare(image, format))) for _ in range(turns)]
    return round(median(marked - bare for marked, bare in pairs), 3)


def _picture() -> Image.Image:
    """A soft picture with an edge, as a sticker has."""
    y, x = np.mgrid[:SIDE, :SIDE]
    inside = (x - SIDE / 2) ** 2 + (y - SIDE / 2) ** 2 < (SIDE / 3) ** 2
    shades = np.stack([x * 2, y * 2, (x + y)], axis=-1) % 256
    return Image.fromarray(np.where(inside[..., None], shades, 255).astype(np.uint8))


def _bare(image: Image.Image, format: str) -> bytes:
    """The same file without a word on how it was made."""
    options: dict[str, dict[str, Any]] = {
        "png": {"compress_type": zlib.Z_RLE},
        "webp": {"quality": DEFAULT_QUALITY},
        "jpeg": {"quality": DEFAULT_QUALITY, "subsampling": "4:4:4", "optimize": True},
    }
    file = io.BytesIO()
    image.save(file, format, **options[format])
    return file.getvalue()

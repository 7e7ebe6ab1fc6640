"""Which file of the built web app an address means, and how it is sent: type, caching, compression, parts."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

# Written out, because the system's own table differs from machine to machine.
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}
COMPRESSED = {".css", ".html", ".js", ".json", ".map", ".mjs", ".svg", ".txt", ".webmanifest"}
COMPRESSED_BYTES = 8 << 20  # a larger text is sent as it is, since it is compressed in memory
# Their names carry a hash of what they hold, so that a name never means other bytes.
HASHED = ("assets/", "models/pieces/")
FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Asset:
    """One file of the app: its path in the app's folder, its size in bytes and its ETag without quotes."""

    path: Path
    name: str
    size: int
    tag: str

    @property
    def type(self) -> str:
        return TYPES.get(self.path.suffix.lower(), "application/octet-stream")

    @property
    def caching(self) -> str:
        """Cached forever where the name has a hash; everything else is revalidated by its ETag."""
        return FOREVER if self.name.startswith(HASHED) else "no-cache"

    @property
    def shrinks(self) -> bool:
        """Whether it is text that is sent compressed."""
        return self.path.suffix.lower() in COMPRESSED and self.size <= COMPRESSED_BYTES


def find_asset(folder: Path, target: str) -> Asset | None:
    """The file that a request's target means, for a folder its index.html; None where `folder` has no such file.

    `folder` is resolved. Links that lead out of it, hidden files and everything that is not a plain file do not count.
    """
    parts = [part for part in unquote(target.partition("?")[0]).split("/") if part]
    if any(part.startswith(".") or set(part) & set("\\:\0") for part in parts):
        return None
    try:
        path = folder.joinpath(*parts)
        path = (path / "index.html" if path.is_dir() else path).resolve(strict=True)
        facts = path.stat()
    except OSError:
        return None
    if not path.is_file() or not path.is_relative_to(folder):
        return None
    return Asset(path, "/".join(parts), facts.st_size, f"{facts.st_mtime_ns:x}-{facts.st_size:x}")


@lru_cache(maxsize=64)
def compressed(asset: Asset) -> bytes:
    """The file, gzipped; kept until the file changes, because phones come back for the same one."""
    return gzip.compress(asset.path.read_bytes(), compresslevel=6, mtime=0)


def accepts_gzip(header: str | None) -> bool:
    """Whether an Accept-Encoding header accepts gzip, that is, names it with a weight above 0."""
    for one in (header or "").lower().split(","):
        name, _, weight = one.partition(";")
        if name.strip() == "gzip":
            return not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", weight)
    return False


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The first byte and the one after the last that a Range header asks for; None for the whole file.

    Several ranges and what cannot be read mean the whole file, as RFC 9110 allows. ValueError where the file has no
    such bytes.
    """
    match = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", (header or "").strip())
    if not match or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start == stop:
        raise ValueError(f"a file of {size} bytes has no bytes {header}")
    return start, stop

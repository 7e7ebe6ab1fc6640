"""A bundle -> the 16 bits of its mark."""

from __future__ import annotations

import hashlib

from runtime.manifest import Manifest


def code_of(manifest: Manifest) -> int:
    """The first 16 bits of the sha256 of the bundle's list of files: path, sha256, newline, by path.

    Bundles with the same files have the same code; two others have the same one by a chance of 1 in 65,536.
    """
    listed = "".join(f"{name} {facts.sha256}\n" for name, facts in sorted(manifest.files.items()))
    return int.from_bytes(hashlib.sha256(listed.encode()).digest()[:2], "big")

"""The tiny bundle with the small table of variation."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from runtime.bundle import open_bundle, write_manifest
from runtime.variation import Variation
from scripts.variation_cases import table

TINY = Path(__file__).parents[1] / "golden" / "tiny_bundle"


def varied_bundle(folder: Path) -> Path:
    """Makes it as a new folder, and returns that."""
    shutil.copytree(TINY, folder)
    write_manifest(folder, replace(open_bundle(TINY).manifest, variation=Variation.from_json(table())))
    return folder

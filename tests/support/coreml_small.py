"""The small checkpoint as Core ML packages with everything that the exporter can write, made once a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.shared import once
from tests.support.tiny import small_checkpoint


def small_coreml() -> tuple[Path, str, str]:
    """(folder, stdout, stderr) of the command, for iOS17."""
    folder = once("coreml", _export)
    return folder / "out", (folder / "stdout").read_text(), (folder / "stderr").read_text()


def _export(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "export.coreml",
        str(small_checkpoint()),
        "--out",
        str(folder / "out"),
        "--chunk-unet",
        "--bundle-resources-for-swift-cli",
        "--check-output-correctness",
        "--min-deployment-target",
        "iOS17",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)

"""The small checkpoint as Core ML packages with everything that the exporter can write, made once per process."""

from __future__ import annotations

import atexit
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tests.support.tiny import small_checkpoint


@cache
def small_coreml() -> tuple[Path, str, str]:
    """(folder, stdout, stderr) of the command, for iOS17; the folder goes at the end of the process."""
    folder = tempfile.TemporaryDirectory(prefix="small-coreml-")
    atexit.register(folder.cleanup)
    out = Path(folder.name) / "out"
    command = [
        sys.executable,
        "-m",
        "export.coreml",
        str(small_checkpoint()),
        "--out",
        str(out),
        "--chunk-unet",
        "--bundle-resources-for-swift-cli",
        "--check-output-correctness",
        "--min-deployment-target",
        "iOS17",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out, done.stdout, done.stderr

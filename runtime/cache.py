"""The one cache folder of all packages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "ADDKIT_CACHE"


def cache_folder() -> Path | None:
    """The folder, which need not exist; None when nothing is to be kept."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return None if named.lower() in ("", "off", "0") else Path(named)
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home
        return None
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "addkit"
    local = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(local) if local else home / ".cache") / "addkit"

"""Where an installation keeps its key: a folder that lasts, unlike the cache.

ADDKIT_CONFIG=DIR names another folder. Without it: XDG_CONFIG_HOME/addkit, or ~/.config/addkit; on macOS
~/Library/Application Support/addkit; on Windows APPDATA/addkit.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from runtime.provenance.errors import NotSigned

VARIABLE = "ADDKIT_CONFIG"


def config_folder() -> Path:
    """The folder, which need not exist; NotSigned for a user without a home."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser()
    try:
        home = Path.home()
    except RuntimeError as error:
        raise NotSigned(f"there is no home folder to keep a key in: set {VARIABLE} to a folder") from error
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "addkit"
    given = Path(os.environ.get("APPDATA" if sys.platform == "win32" else "XDG_CONFIG_HOME", ""))
    return (given if given.is_absolute() else home / ".config") / "addkit"  # XDG: relative paths are ignored


def installation_file() -> Path:
    """The one file with an installation's key and certificates; raises as `config_folder`."""
    return config_folder() / "provenance" / "installation.pem"

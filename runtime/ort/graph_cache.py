"""The user's cache folder: graphs as ONNX Runtime optimized them for this machine, so that the next start is fast.

What is kept can be deleted at any time. ADDKIT_CACHE names another folder; ADDKIT_CACHE=off keeps nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from runtime.cache import cache_folder
from runtime.errors import BundleError, OutputError
from runtime.files import kept_folder

_log = logging.getLogger("runtime")
UNUSED_DAYS = 60  # after which a kept graph is removed
_GRAPH, _WEIGHTS = "model.onnx", "model.onnx_data"
_INSIDE = 1024  # bytes of the largest tensor that stays in the graph's own file


def optimized_copy(fingerprint: str, version: str, options: Any, create: Callable[[Path | None, Any], Any]) -> Any:
    """A session of the graph's kept form, or of the graph itself, which is then kept.

    fingerprint, version: of the graph's files and of ONNX Runtime. create: makes a session of a file (None: the
    graph's own) with options. What cannot be read or written is not an error: the graph itself is opened.
    """
    root = cache_folder()
    if root is None:
        return create(None, options)
    entry = root / "graphs" / _key(fingerprint, version)
    kept = _opened(entry, options, create)
    return kept if kept is not None else _made(entry, options, create)


def _opened(entry: Path, options: Any, create: Callable[[Path | None, Any], Any]) -> Any:
    """A session of what is kept; None when there is nothing, or nothing that opens: that is removed."""
    if not (entry / _GRAPH).is_file():
        return None
    level = options.graph_optimization_level
    try:
        options.graph_optimization_level = type(level).ORT_DISABLE_ALL  # that is done
        session = create(entry / _GRAPH, options)
    except (BundleError, OSError):
        _log.info("%s could not be opened and is made again", entry)
        shutil.rmtree(entry, ignore_errors=True)
        return None
    finally:
        options.graph_optimization_level = level
    with suppress(OSError):
        os.utime(entry)
    return session


def _made(entry: Path, options: Any, create: Callable[[Path | None, Any], Any]) -> Any:
    """A session of the graph itself, whose optimized form is kept where the folder can be written."""
    session = None
    try:
        with kept_folder(entry) as partial:
            with suppress(OSError):
                _sweep(entry.parent)
            options.optimized_model_filepath = os.fspath(partial / _GRAPH)
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", _WEIGHTS)
            options.add_session_config_entry(
                "session.optimized_model_external_initializers_min_size_in_bytes", str(_INSIDE)
            )
            session = create(None, options)
    except (OutputError, BundleError):  # to a library, a full disk looks like a bad model
        options.optimized_model_filepath = ""
    return create(None, options) if session is None else session


def _sweep(folder: Path) -> None:
    """Removes what has not been used for long, and what a killed process left unfinished."""
    oldest = time.time() - UNUSED_DAYS * 86_400
    for path in folder.iterdir():
        with suppress(OSError):
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)


def _key(fingerprint: str, version: str) -> str:
    """The name of an entry: an optimized graph is of one graph, one ONNX Runtime and one kind of processor."""
    return hashlib.sha256("\n".join((fingerprint, version, _processor())).encode()).hexdigest()[:32]


@cache
def _processor() -> str:
    """Tells apart processors whose best kernels and layouts differ."""
    facts = [platform.machine(), platform.processor(), sys.platform]
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "flags", "Features", "CPU part")):
                facts.append(line)
            elif not line:
                break  # the first processor tells for all
    return "\n".join(facts)

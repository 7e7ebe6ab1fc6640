"""One-step text to image from an ONNX bundle; needs only numpy, Pillow and ONNX Runtime.

    import runtime
    image = runtime.generate("a red fox", seed=7)              # PIL.Image.Image
    pipe = runtime.load("path/to/bundle", provider="auto")      # reusable, thread-safe
    images = pipe(["a fox", "a pizza"], seed=[1, 2]).images     # a list, as in diffusers' pipelines

Importing it is cheap: numpy and Pillow are loaded on first use, ONNX Runtime with the first session.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from runtime.errors import (
    BundleError,
    Cancelled,
    ClosedError,
    Error,
    MemoryLimitError,
    OutputError,
    ProviderError,
    ProviderWarning,
    TruncationWarning,
)

if TYPE_CHECKING:
    from runtime.cancel import CancelToken
    from runtime.generation import Generation, Images
    from runtime.interpolate.path import Frame, between
    from runtime.pipeline import Pipeline, generate, load
    from runtime.stream import Stream

__version__ = "0.2.0"

__all__ = [
    "BundleError",
    "CancelToken",
    "Cancelled",
    "ClosedError",
    "Error",
    "Frame",
    "Generation",
    "Images",
    "MemoryLimitError",
    "OutputError",
    "Pipeline",
    "ProviderError",
    "ProviderWarning",
    "Stream",
    "TruncationWarning",
    "__version__",
    "between",
    "generate",
    "load",
]


_LATE = {
    **dict.fromkeys(("Frame", "between"), "runtime.interpolate.path"),
    **dict.fromkeys(("Generation", "Images"), "runtime.generation"),
    **dict.fromkeys(("Pipeline", "generate", "load"), "runtime.pipeline"),
    "CancelToken": "runtime.cancel",
    "Stream": "runtime.stream",
}


def __getattr__(name: str) -> Any:
    """Fetches the names of _LATE from their modules when they are first used (PEP 562)."""
    if name in _LATE:
        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""One-step text to image from an ONNX bundle, with numpy, Pillow and ONNX Runtime alone.

    import runtime
    image = runtime.generate("a red fox, 3d style", seed=7)     # PIL.Image.Image
    pipe = runtime.load("path/to/bundle", provider="auto")      # reusable, thread-safe

Importing it is cheap: numpy and Pillow come with the first use, ONNX Runtime with the first session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.errors import (
    BundleError,
    Error,
    OutputError,
    ProviderError,
    ProviderWarning,
    TruncationWarning,
)

if TYPE_CHECKING:
    from runtime.pipeline import Generation, Pipeline, generate, load

__version__ = "0.1.0"

__all__ = [
    "BundleError",
    "Error",
    "Generation",
    "OutputError",
    "Pipeline",
    "ProviderError",
    "ProviderWarning",
    "TruncationWarning",
    "__version__",
    "generate",
    "load",
]


def __getattr__(name: str) -> Any:
    """Fetches the names of `runtime.pipeline` when they are first used (PEP 562)."""
    if name in ("Generation", "Pipeline", "generate", "load"):
        from runtime import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

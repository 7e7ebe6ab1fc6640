"""ADDKit: pictures in one step from ONNX bundles; needs only numpy, Pillow and ONNX Runtime.

    import addkit
    image = addkit.generate("a fox, 3d style", seed=7)          # PIL.Image.Image
    pipe = addkit.load("path/to/bundle", provider="auto")       # reusable, thread-safe
    images = pipe(["a fox", "a pizza"], seed=[1, 2]).images     # a list, as in diffusers' pipelines

The names are those of the package `runtime`, which can also be imported directly: `addkit.generate` is
`runtime.generate`. Importing either is cheap. A program with a file of its own called runtime.py hides ours; then the
first use of a name is an ImportError that says which file to rename.

On the command line: `addkit --help`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime import (
        BundleError,
        Cancelled,
        CancelToken,
        ClosedError,
        Error,
        Frame,
        Generation,
        Images,
        MemoryLimitError,
        OutputError,
        Pipeline,
        ProviderError,
        ProviderWarning,
        Stream,
        TruncationWarning,
        __version__,
        between,
        generate,
        load,
    )

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


def __getattr__(name: str) -> Any:
    """A name of the runtime's, when it is first used (PEP 562). Raises ImportError where another file hides ours."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from addkit.shadow import check_package

    check_package("runtime")
    import runtime

    return getattr(runtime, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

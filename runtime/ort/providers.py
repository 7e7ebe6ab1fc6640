"""ONNX Runtime: its execution providers, their options, and the sessions that it makes of a graph.

With `runtime.ort.device` the only file that uses onnxruntime; it is imported with the first session.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.cache import cache_folder
from runtime.errors import BundleError, Error, MemoryLimitError, ProviderError, ProviderWarning
from runtime.ort.graph_cache import optimized_copy
from runtime.ort.memory import limit_memory, starved

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
# For "auto". The others have to be asked for: Core ML compiles for minutes at its first start, and OpenVINO took three
# times as long as ONNX Runtime's own kernels with the 8-bit default bundle (onnxruntime-openvino 1.24.1).
BEST_FIRST = ("cuda", "cpu")
SMALL = 256_000_000  # bytes of a graph's files, up to which its optimized form is kept
_looked_at: dict[str, str] = {}
_warned: set[str] = set()
_warn_lock = threading.Lock()


def choose_provider(name: str = "auto") -> str:
    """The provider to use, a key of PROVIDERS: "auto" is the first of BEST_FIRST that is there.

    One that is not there is replaced by the CPU, with one warning. Raises ProviderError on an unknown name,
    or when ONNX Runtime is not installed.
    """
    if name != "auto" and name not in PROVIDERS:
        raise ProviderError(f"there is no provider {name!r}: choose auto, {', '.join(PROVIDERS)}")
    available = onnx_runtime().get_available_providers()
    if name == "auto":
        return next(best for best in BEST_FIRST if PROVIDERS[best] in available or best == "cpu")
    if PROVIDERS[name] in available:
        return name
    warn_once(f"provider {name} is not in this build of ONNX Runtime ({advice(name)}); using cpu")
    return "cpu"


def create(path: Path, provider: str, threads: int, fingerprint: str = "") -> Any:
    """An InferenceSession of a graph; BundleError when it cannot be made, MemoryLimitError when memory is short.

    threads: an operator's, 0 lets ONNX Runtime choose. fingerprint: of the graph's files, under which its optimized
    form is kept for the next start on the CPU; "" keeps none.
    """
    stored = sum(file.stat().st_size for file in path.parent.glob("*") if file.is_file())
    options = session_options(provider, threads, stored)
    if provider != "cpu" or not fingerprint or stored > SMALL:
        return _session(path, provider, options)
    return optimized_copy(fingerprint, _version(), options, lambda file, chosen: _session(file or path, "cpu", chosen))


def session_options(provider: str, threads: int, stored: int) -> Any:
    """What every session is made with; `stored`: bytes of the graph's files."""
    options = onnx_runtime().SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised or warned about here, once
    options.intra_op_num_threads = threads
    if provider == "cpu":
        # Between the networks of one picture the threads of the one before must not keep the cores busy.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        limit_memory(onnx_runtime(), options, stored)
    return options


def provider_entry(provider: str) -> str | tuple[str, dict[str, str]]:
    """A provider as InferenceSession takes it, with the options that one-step pictures want."""
    cache = cache_folder()
    folder = "" if cache is None else str(cache / provider)
    options: dict[str, dict[str, str]] = {
        # A graph captured once replays its hundreds of kernels in one launch; see runtime.ort.device.
        "cuda": {"enable_cuda_graph": "1", "arena_extend_strategy": "kSameAsRequested", "use_tf32": "1"},
        # ML programs compile for the Neural Engine when shapes are known; compiling takes long, so it is kept.
        "coreml": {
            "ModelFormat": "MLProgram",
            "MLComputeUnits": "ALL",
            "RequireStaticInputShapes": "1",
            "EnableOnSubgraphs": "0",
            "ModelCacheDirectory": folder,
        },
        "openvino": {"device_type": "CPU", "cache_dir": folder},
    }
    chosen = {key: value for key, value in options.get(provider, {}).items() if value}
    return (PROVIDERS[provider], chosen) if chosen else PROVIDERS[provider]


def onnx_runtime() -> Any:
    """The module, imported when the first session needs it: that takes longer than the rest of the start."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError(
            f"ONNX Runtime cannot be imported ({error}): pip install onnxruntime (or onnxruntime-gpu)"
        ) from error
    if _looked_at.get("file") != onnxruntime.__file__:
        _look_at(onnxruntime)
        _looked_at["file"] = onnxruntime.__file__
    return onnxruntime


def _look_at(onnxruntime: Any) -> None:
    """Once per process: no telemetry, since a program that embeds us did not ask for it; one distribution."""
    silence = getattr(onnxruntime, "disable_telemetry_events", None)
    if silence is not None:
        silence()
    both = installed_variants(Path(onnxruntime.__file__).parent.parent)
    if len(both) > 1:
        warn_once(
            f"{' and '.join(both)} are installed together and overwrite each other's files: "
            f"pip uninstall {' '.join(both)}, then install the one you want"
        )


def installed_variants(site_packages: Path) -> list[str]:
    """The distributions of ONNX Runtime installed in a folder; more than one is a broken installation."""
    names = {path.name.rsplit("-", 1)[0] for path in site_packages.glob("onnxruntime*.dist-info")}
    variants = {name.split("-", 1)[0].replace("_", "-").lower() for name in names}
    return sorted(variants & {"onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"})


def advice(provider: str) -> str:
    """What a missing provider needs."""
    packages: Mapping[str, str] = {
        "cuda": "it needs onnxruntime-gpu and matching CUDA and cuDNN libraries",
        "coreml": "it needs macOS",
        "openvino": "it needs onnxruntime-openvino",
    }
    return packages.get(provider, "it is part of every build")


def warn_once(text: str) -> None:
    """Gives a ProviderWarning, only the first time for each text."""
    with _warn_lock:
        fresh = text not in _warned
        _warned.add(text)
    if fresh:
        warnings.warn(text, ProviderWarning, stacklevel=2)


def brief(error: BaseException | None) -> str:
    """One line of ONNX Runtime's messages, which can be pages long."""
    return " ".join(str(error).split())[:300]


def failure(error: Exception, path: Path, otherwise: str) -> Error:
    """What to raise for an error of ONNX Runtime: MemoryLimitError, or BundleError that says `otherwise`."""
    if starved(error):
        remedy = "free some, run fewer processes at once, or use a smaller bundle"
        return MemoryLimitError(f"there is not enough memory for {path}: {remedy} ({brief(error)})")
    return BundleError(f"{path} {otherwise}: {brief(error)}")


def _session(path: Path, provider: str, options: Any) -> Any:
    names = [provider_entry(provider)] if provider == "cpu" else [provider_entry(provider), PROVIDERS["cpu"]]
    try:
        # Without its own fallback, which prints to standard output and tries the same once more.
        return onnx_runtime().InferenceSession(os.fspath(path), options, providers=names, enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise failure(error, path, "is not a model that ONNX Runtime can open") from error


def _version() -> str:
    return str(onnx_runtime().__version__)

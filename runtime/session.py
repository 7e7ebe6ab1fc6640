"""The only file that names onnxruntime: execution providers, sessions, and checks of what the graphs take."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import BundleError, ProviderError, ProviderWarning

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
# What a graph must take and give. Source: the names of optimum's ORTStableDiffusionPipeline.
INPUTS = {
    "text_encoder": ("input_ids",),
    "unet": ("sample", "timestep", "encoder_hidden_states"),
    "vae_decoder": ("latent_sample",),
    "vae_encoder": ("sample",),
}
OUTPUTS = {
    "text_encoder": ("last_hidden_state",),
    "unet": ("out_sample",),
    "vae_decoder": ("sample",),
    "vae_encoder": ("latent_sample", "latent_parameters"),  # either
}
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
_warned: set[str] = set()
_warn_lock = threading.Lock()


def choose_provider(name: str = "auto") -> str:
    """The provider to use, a key of PROVIDERS: "auto" is CUDA where it is there, else the CPU.

    One that is not there is replaced by the CPU, with one warning. Raises ProviderError on an unknown name,
    or when ONNX Runtime is not installed.
    """
    if name != "auto" and name not in PROVIDERS:
        raise ProviderError(f"there is no provider {name!r}: choose auto, {', '.join(PROVIDERS)}")
    available = _onnxruntime().get_available_providers()
    if name == "auto":
        return "cuda" if PROVIDERS["cuda"] in available else "cpu"
    if PROVIDERS[name] in available:
        return name
    _warn_once(f"provider {name} is not in this build of ONNX Runtime ({_advice(name)}); using cpu")
    return "cpu"


class Session:
    """One graph, opened on first use, then shared by all threads."""

    def __init__(self, component: str, path: Path, provider: str, threads: int = 0) -> None:
        """`component` is a key of INPUTS; `threads` per operator, 0 lets ONNX Runtime choose."""
        self.component, self.path, self.provider, self._threads = component, path, provider, threads
        self._lock = threading.Lock()
        self._session: Any = None
        self._dtypes: dict[str, Any] = {}
        self._shapes: dict[str, list[Any]] = {}
        self._output = ""

    @property
    def is_open(self) -> bool:
        """Whether the graph has been opened."""
        return self._session is not None

    def open(self) -> None:
        """Opens the graph unless it is open; BundleError when it is not what its folder's name says."""
        with self._lock:
            if self._session is None:
                self._session = self._opened()

    def run(self, **inputs: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """The graph's main output, f32, for inputs by name, each cast to the type that the graph takes."""
        self.open()
        feeds = {name: self._fitted(name, value) for name, value in inputs.items()}
        try:
            (output,) = self._session.run([self._output], feeds)
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise BundleError(f"{self.path} cannot be run on {self.provider}: {_brief(error)}") from error
        return np.asarray(output, np.float32)

    def _opened(self) -> Any:
        """The checked session, on the CPU when the provider cannot be used after all."""
        session = self._created()
        inputs, outputs = session.get_inputs(), [output.name for output in session.get_outputs()]
        self._check([node.name for node in inputs], outputs)
        self._dtypes = {node.name: _DTYPES.get(node.type, np.float32) for node in inputs}
        self._shapes = {node.name: list(node.shape) for node in inputs}
        self._output = next(name for name in OUTPUTS[self.component] if name in outputs)
        return session

    def _created(self) -> Any:
        """ONNX Runtime drops a provider that fails to start, or raises: either way the CPU takes over."""
        why = _advice(self.provider)
        try:
            session = _create(self.path, self.provider, self._threads)
            if session.get_providers()[0] == PROVIDERS[self.provider]:
                return session
        except BundleError as error:
            if self.provider == "cpu":
                raise
            session, why = _create(self.path, "cpu", self._threads), _brief(error.__cause__)
        _warn_once(f"provider {self.provider} could not be started ({why}); using cpu")
        self.provider = "cpu"
        return session

    def _check(self, inputs: list[str], outputs: list[str]) -> None:
        wanted = INPUTS[self.component]
        if set(inputs) != set(wanted):
            raise BundleError(
                f"{self.path} takes {', '.join(inputs)}; a {self.component} takes {', '.join(wanted)}"
            )
        wanted = OUTPUTS[self.component]
        if not set(outputs) & set(wanted):
            raise BundleError(f"{self.path} gives {', '.join(outputs)}; a {self.component} gives {wanted[0]}")

    def _fitted(self, name: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
        """The value in the graph's type; a scalar as rank 1 where the graph wants that (timestep)."""
        array = np.asarray(value, self._dtypes[name])
        return array.reshape(1) if array.ndim == 0 and len(self._shapes[name]) == 1 else array


def _create(path: Path, provider: str, threads: int) -> Any:
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised or warned about here, once
    options.intra_op_num_threads = threads
    names = [PROVIDERS[provider]] if provider == "cpu" else [PROVIDERS[provider], PROVIDERS["cpu"]]
    try:
        return runtime.InferenceSession(os.fspath(path), options, providers=names)
    except Exception as error:  # as in run
        raise BundleError(f"{path} is no model that ONNX Runtime can open: {_brief(error)}") from error


def _onnxruntime() -> Any:
    """The module, imported when the first session needs it: that takes longer than the rest of the start."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError(
            f"ONNX Runtime cannot be imported ({error}): pip install onnxruntime (or onnxruntime-gpu)"
        ) from error
    silence = getattr(onnxruntime, "disable_telemetry_events", None)  # a program that embeds us did not ask for any
    if silence is not None:
        silence()
    both = installed_variants(Path(onnxruntime.__file__).parent.parent)
    if len(both) > 1:
        _warn_once(
            f"{' and '.join(both)} are installed together and overwrite each other's files: "
            f"pip uninstall {' '.join(both)}, then install the one you want"
        )
    return onnxruntime


def installed_variants(site_packages: Path) -> list[str]:
    """The distributions of ONNX Runtime installed in a folder; more than one is a broken installation."""
    names = {path.name.rsplit("-", 1)[0] for path in site_packages.glob("onnxruntime*.dist-info")}
    variants = {name.split("-", 1)[0].replace("_", "-").lower() for name in names}
    return sorted(
        variants & {"onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"}
    )


def _advice(provider: str) -> str:
    packages: Mapping[str, str] = {
        "cuda": "it needs onnxruntime-gpu and matching CUDA and cuDNN libraries",
        "coreml": "it needs macOS",
        "openvino": "it needs onnxruntime-openvino",
    }
    return packages.get(provider, "it is part of every build")


def _warn_once(text: str) -> None:
    with _warn_lock:
        fresh = text not in _warned
        _warned.add(text)
    if fresh:
        warnings.warn(text, ProviderWarning, stacklevel=2)


def _brief(error: BaseException | None) -> str:
    """ONNX Runtime's messages can be pages long: one line of them."""
    return " ".join(str(error).split())[:300]

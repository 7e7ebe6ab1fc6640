"""The packages of `python -m export.coreml` on macOS, through coremltools: the way to the Neural Engine.

A `CoremlSession` stands where a `Session` does: the same inputs and outputs by name, computed by Core
ML. Apple's interfaces differ from diffusers': half precision, text states as [1, width, 1, tokens], epsilon for v, and
latents in units of 0.18215, whatever the autoencoder's own.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.cancel import CancelToken
from runtime.errors import BundleError, ClosedError, MemoryLimitError, ProviderError
from runtime.manifest import MARKER, Manifest

F32 = npt.NDArray[np.float32]
Predict = Callable[[Mapping[str, npt.NDArray[Any]]], Mapping[str, npt.NDArray[Any]]]
APPLE_SCALING = 0.18215  # by which Apple's pipelines divide latents before they decode them
NO_NOISE = -30.0  # log-variance that stands for none: the least that Apple's Encoder.swift keeps, a deviation of 3e-7
_SAME = ("image_size", "latent_shape", "max_tokens", "scaling_factor")  # that packages share with their bundle


class CoremlSession:
    """One package. Predictions run one at a time."""

    provider = "coreml"

    def __init__(self, component: str, path: Path, scaling_factor: float, compute_unit: str = "CPU_AND_NE") -> None:
        """compute_unit: ALL, CPU_AND_NE, CPU_AND_GPU or CPU_ONLY, as coremltools names them."""
        self.component, self.path = component, path
        self._scaling, self._unit = scaling_factor, compute_unit
        self._lock = threading.Lock()
        self._predict: Predict | None = None
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether Core ML has loaded the package."""
        return self._predict is not None

    def open(self) -> None:
        """Has Core ML load and compile the package, which takes long the first time."""
        with self._lock:
            self._opened()

    def close(self) -> None:
        """Releases the model; later calls are refused."""
        with self._lock:
            self._predict, self._closed = None, True

    def run(self, *, cancel: CancelToken | None = None, **inputs: npt.ArrayLike) -> F32:
        """The first of the package's outputs; see `run_all`."""
        return self.run_all(cancel=cancel, **inputs)[0]

    def width_of(self, name: str) -> int | None:
        """None: a package says it only when it predicts."""
        return None

    def run_all(self, *, cancel: CancelToken | None = None, **inputs: npt.ArrayLike) -> tuple[F32, ...]:
        """As `Session.run_all`, one picture at a time; a prediction that has begun is not cut short."""
        if cancel is not None:
            cancel.check()
        with self._lock:
            predict = self._opened()
            try:
                found = getattr(self, f"_{self.component}")(predict, {k: np.asarray(v) for k, v in inputs.items()})
            except MemoryError as error:
                raise MemoryLimitError(f"there is not enough memory for {self.path}: free some") from error
            except Exception as error:  # coremltools raises RuntimeError and more
                raise BundleError(f"{self.path} cannot be run by Core ML: {' '.join(str(error).split())}") from error
        return tuple(np.asarray(one, np.float32) for one in (found if isinstance(found, tuple) else (found,)))

    def _opened(self) -> Predict:
        if self._closed:
            raise ClosedError("the pipeline is closed: load the bundle again")
        if self._predict is None:
            self._predict = predictor(self.path, self._unit)
        return self._predict

    def _text_encoder(self, predict: Predict, inputs: Mapping[str, npt.NDArray[Any]]) -> Any:
        return predict({"input_ids": inputs["input_ids"].astype(np.float32)})["last_hidden_state"]

    def _unet(self, predict: Predict, inputs: Mapping[str, npt.NDArray[Any]]) -> Any:
        states = inputs["encoder_hidden_states"].transpose(0, 2, 1)[:, :, None]
        feed = {
            "sample": inputs["sample"].astype(np.float16),
            "timestep": np.array([inputs["timestep"]], np.float16),
            "encoder_hidden_states": states.astype(np.float16),
        }
        return predict(feed)["noise_pred"]

    def _vae_decoder(self, predict: Predict, inputs: Mapping[str, npt.NDArray[Any]]) -> Any:
        z = inputs["latent_sample"] * np.float32(self._scaling / APPLE_SCALING)
        return predict({"z": z.astype(np.float16)})["image"]

    def _vae_encoder(self, predict: Predict, inputs: Mapping[str, npt.NDArray[Any]]) -> Any:
        latent = predict({"x": inputs["sample"].astype(np.float16)})["latent"]
        mean, log_variance = np.split(np.asarray(latent, np.float32), 2, axis=1)
        scale = APPLE_SCALING / self._scaling
        if log_variance.max() <= NO_NOISE:
            return mean * np.float32(scale)
        return np.concatenate([mean * np.float32(scale), log_variance + np.float32(2 * np.log(scale))], axis=1)


def predictor(path: Path, compute_unit: str) -> Predict:
    """Core ML's prediction of a package. Raises ProviderError where there is no Core ML."""
    if sys.platform != "darwin":
        raise ProviderError(f"{path.name} needs macOS: Core ML predicts nowhere else")
    try:
        import coremltools
    except ImportError as error:
        raise ProviderError("Core ML packages need coremltools: pip install coremltools") from error
    model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit[compute_unit])
    predict: Predict = model.predict
    return predict


def sessions(folder: Path, manifest: Manifest, parts: list[str], compute_unit: str) -> dict[str, CoremlSession]:
    """A session for each package of an export; of `parts` the ones that are there.

    Raises BundleError when the folder is not an export, or is one of another model.
    """
    try:
        facts = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        found = {name: facts[name] for name in _SAME}
        model = str(facts["name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{folder} holds no Core ML export: give a folder of python -m export.coreml") from error
    for name, value in found.items():
        own = getattr(manifest, name)
        if (tuple(value) if isinstance(value, list) else value) != own:
            raise BundleError(f"{folder} belongs to another model than the bundle: {name} is {value}, not {own}")
    paths = {part: folder / f"Stable_Diffusion_version_{model}_{part}.mlpackage" for part in parts}
    missing = [path.name for part, path in paths.items() if not path.is_dir() and part != "vae_encoder"]
    if missing:
        raise BundleError(f"{folder} lacks {', '.join(missing)}: export it again")
    return {
        part: CoremlSession(part, path, manifest.scaling_factor, compute_unit)
        for part, path in paths.items()
        if path.is_dir()
    }

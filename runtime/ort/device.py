"""A session with its inputs and outputs bound to a device's memory, and its kernels captured in one CUDA graph.

A captured graph reads and writes the addresses that it was captured with: inputs are copied into the same tensors at
every call, and one call runs at a time. Source: ONNX Runtime's I/O binding and CUDA graph interfaces.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_NO_CAPTURE = "-1"  # the graph id of a run that is neither captured nor replayed


class BoundSession:
    """Runs a session through tensors of its own on a device ("cuda", or "cpu" where there is no copy to save)."""

    def __init__(self, session: Any, device: str = "cuda", capture: bool = True) -> None:
        """capture: the session was made with enable_cuda_graph."""
        self._session, self._device, self._capture = session, device, capture
        self._lock = threading.Lock()
        self._binding: Any = None
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, Any] = {}

    def run(self, names: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]], options: Any) -> list[npt.NDArray[Any]]:
        """Computes outputs, always the same ones; inputs are bound again when their shapes change."""
        with self._lock:
            if not self._fits(feeds):
                return self._first(names, feeds)
            for name, value in feeds.items():
                self._inputs[name].update_inplace(np.ascontiguousarray(value))
            self._session.run_with_iobinding(self._binding, options)
            return [np.array(self._outputs[name].numpy()) for name in names]

    def _fits(self, feeds: Mapping[str, npt.NDArray[Any]]) -> bool:
        return self._binding is not None and all(
            list(self._inputs[name].shape()) == list(value.shape) for name, value in feeds.items()
        )

    def _first(self, names: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """A plain run, whose outputs tell what to set aside for the next ones."""
        from onnxruntime import OrtValue, RunOptions

        options = RunOptions()
        if self._capture:
            options.add_run_config_entry("gpu_graph_id", _NO_CAPTURE)
        found = [np.asarray(one) for one in self._session.run(list(names), dict(feeds), options)]
        self._binding = self._session.io_binding()
        self._inputs = {
            name: OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), self._device, 0)
            for name, value in feeds.items()
        }
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        self._outputs = {
            name: OrtValue.ortvalue_from_shape_and_type(list(one.shape), one.dtype, self._device, 0)
            for name, one in zip(names, found, strict=True)
        }
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        return found

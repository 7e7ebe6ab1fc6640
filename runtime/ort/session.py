"""One graph of a bundle: opened when it is first used, checked against what its component takes and gives."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.cancel import CancelToken
from runtime.errors import BundleError, ClosedError, MemoryLimitError
from runtime.onnx_guard.component import Wanted, check_output, declared_output
from runtime.ort.device import BoundSession
from runtime.ort.providers import PROVIDERS, advice, brief, create, failure, onnx_runtime, warn_once
from runtime.threads import watch
from runtime.tokenizer.conditioning import SD, Conditioning


@dataclass(frozen=True)
class Ports:
    """What a graph must take and give. Names are those of optimum's ORTStableDiffusion(XL)Pipeline."""

    inputs: tuple[str, ...]
    outputs: tuple[tuple[str, ...], ...]  # of each output that is used the names it may have


def ports_of(conditioning: Conditioning) -> dict[str, Ports]:
    """Component -> its ports."""
    encoders = {
        one.component: Ports(("input_ids",), tuple((name,) for name in one.outputs))
        for one in conditioning.text_encoders
    }
    return encoders | {
        "unet": Ports(conditioning.unet_inputs, (("out_sample",),)),
        "vae_decoder": Ports(("latent_sample",), (("sample",),)),
        "vae_encoder": Ports(("sample",), (("latent_sample", "latent_parameters"),)),
    }


F32 = npt.NDArray[np.float32]
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
_log = logging.getLogger("runtime")
_abandoned: list[Any] = []  # sessions of a parent process: freeing one would wait for threads that are not there


class Session:
    """One graph, opened on first use, then shared by all threads; after a fork the child opens it again."""

    def __init__(
        self,
        component: str,
        path: Path,
        provider: str,
        threads: int = 0,
        fingerprint: str = "",
        conditioning: Conditioning = SD,
    ) -> None:
        """`component`: one of `conditioning`; `threads`: per operator, 0 lets ONNX Runtime choose.

        `fingerprint`: see `runtime.ort.providers.create`.
        """
        self.component, self.path, self.provider = component, path, provider
        self._ports = ports_of(conditioning)[component]
        self._threads, self._fingerprint = threads, fingerprint
        self._lock = threading.Lock()
        self._session: Any = None
        self._bound: BoundSession | None = None
        self._closed = False
        self._dtypes: dict[str, Any] = {}
        self._ranks: dict[str, int] = {}
        self._widths: dict[str, int] = {}
        self._outputs: dict[str, Wanted] = {}  # those that are used, and the sizes that the graph declares
        watch(self)

    @property
    def is_open(self) -> bool:
        """Whether the graph has been opened."""
        return self._session is not None

    def open(self) -> None:
        """Opens the graph unless it is open; BundleError when it is not what its folder's name says."""
        with self._lock:
            if self._closed:
                raise ClosedError("the pipeline is closed: load the bundle again")
            if self._session is None:
                start = time.perf_counter()
                self._session = self._opened()
                took = (time.perf_counter() - start) * 1000
                _log.info("%s opened on %s in %.0f ms", self.path, self.provider, took)

    def close(self) -> None:
        """Releases the graph and its memory; a call at work ends as usual, later ones are refused."""
        with self._lock:
            self._session, self._bound, self._closed = None, None, True

    def width_of(self, name: str) -> int | None:
        """The last side of an input, where the graph fixes it. Raises as `open`."""
        self.open()
        return self._widths.get(name)

    def run(self, *, cancel: CancelToken | None = None, **inputs: npt.ArrayLike) -> F32:
        """The first of the graph's outputs; see `run_all`."""
        return self.run_all(cancel=cancel, **inputs)[0]

    def run_all(self, *, cancel: CancelToken | None = None, **inputs: npt.ArrayLike) -> tuple[F32, ...]:
        """The graph's outputs that are used, f32, for inputs by name, each cast to the type that the graph takes.

        Raises BundleError when the graph fails, MemoryLimitError when memory is short, Cancelled when `cancel` stopped
        it, ClosedError after `close`.
        """
        self.open()
        feeds = {name: self._fitted(name, value) for name, value in inputs.items()}
        options = onnx_runtime().RunOptions()
        stopping = nullcontext() if cancel is None else cancel.stopping(lambda: setattr(options, "terminate", True))
        with stopping:
            try:
                outputs = self._run(feeds, options)
            except ClosedError:
                raise
            except Exception as error:  # onnxruntime's exceptions share no base but Exception
                if cancel is not None:
                    cancel.check()
                raise failure(error, self.path, f"cannot be run on {self.provider}") from error
        pairs = zip(outputs, self._outputs.values(), strict=True)
        return tuple(check_output(self.path, np.asarray(one, np.float32), declared) for one, declared in pairs)

    def _run(self, feeds: dict[str, npt.NDArray[Any]], options: Any) -> list[npt.NDArray[Any]]:
        session, bound, names = self._session, self._bound, list(self._outputs)
        if session is None:
            raise ClosedError("the pipeline was closed")
        if bound is not None:
            return bound.run(names, feeds, options)
        return [np.asarray(output) for output in session.run(names, feeds, options)]

    def _opened(self) -> Any:
        """The checked session, on the CPU when the provider cannot be used after all."""
        session = self._created()
        inputs, outputs = session.get_inputs(), [output.name for output in session.get_outputs()]
        self._check([node.name for node in inputs], outputs)
        self._dtypes = {node.name: _DTYPES.get(node.type, np.float32) for node in inputs}
        self._ranks = {node.name: len(node.shape) for node in inputs}
        self._widths = {node.name: node.shape[-1] for node in inputs if node.shape and isinstance(node.shape[-1], int)}
        used = [next(name for name in names if name in outputs) for names in self._ports.outputs]
        self._outputs = {name: declared_output(self.path, name) for name in used}
        self._bound = BoundSession(session) if self.provider == "cuda" else None
        return session

    def _created(self) -> Any:
        """ONNX Runtime drops a provider that fails to start, or raises: either way the CPU takes over."""
        why = advice(self.provider)
        try:
            session = create(self.path, self.provider, self._threads, self._fingerprint)
            if session.get_providers()[0] == PROVIDERS[self.provider]:
                return session
        except (BundleError, MemoryLimitError) as error:  # a GPU's memory may be full where there is room for the CPU
            if self.provider == "cpu":
                raise
            session, why = None, brief(error.__cause__)
        warn_once(f"provider {self.provider} could not be started ({why}); using cpu")
        self.provider = "cpu"
        return create(self.path, "cpu", self._threads, self._fingerprint) if session is None else session

    def _check(self, inputs: list[str], outputs: list[str]) -> None:
        wanted = self._ports.inputs
        if set(inputs) != set(wanted):
            raise BundleError(f"{self.path} takes {', '.join(inputs)}; a {self.component} takes {', '.join(wanted)}")
        for names in self._ports.outputs:
            if not set(outputs) & set(names):
                raise BundleError(f"{self.path} gives {', '.join(outputs)}; a {self.component} gives {names[0]}")

    def _fitted(self, name: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
        """The value in the graph's type; a scalar as rank 1 where the graph wants that (timestep)."""
        array = np.asarray(value, self._dtypes[name])
        return array.reshape(1) if array.ndim == 0 and self._ranks[name] == 1 else array

    def forked(self) -> None:
        """In a child process: the parent's session has threads that were not forked, and locks in any state."""
        self._lock = threading.Lock()
        if self._session is not None:
            _abandoned.append((self._session, self._bound))
        self._session = self._bound = None

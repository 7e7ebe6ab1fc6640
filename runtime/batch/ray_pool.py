"""The only file that uses Ray: an actor pool of workers on this machine or a cluster, and its reports as they come."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from types import TracebackType
from typing import Any

from runtime.batch.reports import Report
from runtime.batch.worker import Worker
from runtime.errors import Error

STORE_BYTES = 100 * 2**20  # of object store: chunks and reports are a few KB each, pictures never pass through
RETRIES = 3  # of a worker that dies, for example with its machine


def require() -> Any:
    """The modules of Ray; Error when they are not installed. It reports no usage statistics."""
    if sys.flags.optimize > 1:
        raise Error("Ray needs the docstrings that python -OO removes: start it without, or with -O")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise Error(f"Ray cannot be imported ({error}): pip install 'addkit[batch]'") from error
    return ray


class Pool:
    """Ray, for as long as the block lasts: started on this machine, or joined at an address.

    Where the program has started Ray already, that is used, and left running.
    """

    def __init__(self, address: str | None, workers: int | None, provider: str, debug: bool) -> None:
        """`workers`: None is one per core, or one per GPU with CUDA; ValueError when it is more than a cluster has."""
        self._ray = require()
        self._address, self._debug, self._cuda = address, debug, provider == "cuda"
        self._asked = workers
        self._owned = False
        self.workers = 1

    def __enter__(self) -> Pool:
        self._owned = not self._ray.is_initialized()
        if self._owned:
            self._start()
        try:
            self.workers = self._counted(self._ray.cluster_resources())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owned:
            self._ray.shutdown()

    def reports(self, chunks: Sequence[dict[str, int]], arguments: dict[str, Any]) -> Iterator[Report]:
        """Runs the chunks over the pool of `Worker(**arguments)`; Error when Ray gives up."""
        data = self._ray.data
        pool = data.ActorPoolStrategy(size=min(self.workers, len(chunks)))
        options: dict[str, Any] = {"max_restarts": RETRIES, "max_task_retries": RETRIES, **self._resources()}
        try:
            with _settings(data, self._debug):
                found = data.from_items(list(chunks), override_num_blocks=len(chunks)).map_batches(
                    Worker, fn_constructor_kwargs=arguments, batch_size=1, compute=pool, **options
                )
                for batch in found.iter_batches(batch_size=None, prefetch_batches=0):
                    yield from map(json.loads, batch["report"])
        except Exception as error:  # Ray's exceptions share no base but Exception
            raise Error(f"Ray stopped the run: {_brief(error)}; the same command resumes from here") from error

    def _start(self) -> None:
        where: dict[str, Any] = {"address": self._address}
        if self._address is None:  # "local": not a cluster that happens to run here
            where = {"address": "local", "num_cpus": self._asked, "object_store_memory": STORE_BYTES}
            where["include_dashboard"] = False
        level = logging.INFO if self._debug else logging.CRITICAL
        try:
            self._ray.init(**where, log_to_driver=self._debug, logging_level=level)
        except Exception as error:  # as above
            place = self._address or "on this machine"
            remedy = "; the name of TMPDIR is too long: set RAY_TMPDIR=/tmp" if "AF_UNIX" in str(error) else ""
            raise Error(f"Ray cannot be started or reached ({place}): {_brief(error)}{remedy}") from error

    def _counted(self, resources: dict[str, float]) -> int:
        """How many workers there will be."""
        cores, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        if self._asked is None:
            return max(1, gpus if self._cuda and gpus else cores)
        if self._asked > max(cores, 1):
            raise ValueError(f"--workers {self._asked} is more than Ray's cores: {cores} at most")
        return self._asked

    def _resources(self) -> dict[str, float]:
        """One core per worker, and with CUDA its share of the GPUs."""
        gpus = self._ray.cluster_resources().get("GPU", 0) if self._cuda else 0
        share = {"num_gpus": min(1.0, gpus / self.workers)} if gpus else {}
        return {"num_cpus": 1.0, **share}


@contextmanager
def quiet(debug: bool) -> Iterator[None]:
    """Keeps Ray's output off stdout, which is for results, and, without `debug`, off stderr."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stderr if debug and sys.stderr else nowhere):
        if debug or _descriptor() != 2:
            yield
        else:
            with _stderr_apart():
                yield


@contextmanager
def _stderr_apart() -> Iterator[None]:
    """Ray's native code writes to file descriptor 2, which is discarded meanwhile; sys.stderr writes to a copy."""
    kept, original = sys.stderr, os.dup(2)
    copy = os.fdopen(os.dup(2), "w", encoding=kept.encoding, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    sys.stderr = copy
    try:
        yield
    finally:
        sys.stderr = kept
        os.dup2(original, 2)
        os.close(original)
        with suppress(OSError):  # nobody may read what was written last
            copy.close()


@contextmanager
def _settings(data: Any, debug: bool) -> Iterator[None]:
    """Ray Data's global settings while we use it: no bars or log lines; every report is handed over at once."""
    context = data.DataContext.get_current()
    wanted = {
        "enable_progress_bars": False,
        "print_on_execution_start": debug,
        "target_max_block_size": 1,  # a report is a block of its own, not held back until 128 MB are full
    }
    before = {name: getattr(context, name) for name in wanted}
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    levels = [logger.level for logger in loggers]
    try:
        for name, value in wanted.items():
            setattr(context, name, value)
        for logger in loggers if not debug else []:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _descriptor() -> int:
    """The file descriptor of sys.stderr, -1 where it has none."""
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        return -1


def _brief(error: BaseException) -> str:
    """The first words of the root cause: Ray's messages are pages of tracebacks."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[-1].strip() if lines else type(error).__name__)[:300]

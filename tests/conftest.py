"""One thread per test process: toy networks gain nothing from two, and lose a lot when the machine is busy."""

import gc
import os
import shutil
import tempfile
from typing import Any

import pytest

from tests.support.shared import VARIABLE

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["ADDKIT_CACHE"] = "off"  # tests of the cache set their own folder; nobody's home folder is written to
os.environ["ADDKIT_PROVENANCE"] = "off"  # the same seed is the same file, and no key is made; its tests turn it on


# Files that take longest, first: processes take whole files, and a long one at the end would leave the others idle.
# Files that use the exports that test_export_parity.py makes for all come late, and need not wait for them.
LONGEST = (
    "test_export_parity.py",
    "test_runtime_batch.py",
    "test_train_settings.py",
    "test_train_loops.py",
    "test_train_run.py",
    "test_train_engine.py",
    "test_train_known_bugs.py",
    "test_train_doctor.py",
    "test_train_own_data.py",
    "test_train_resume.py",
    "test_export_quantize.py",
    "test_export_sdxl.py",
    "test_export_sizes.py",
    "test_export_graph_passes.py",
    "test_export_openvino.py",
    "test_export_brought.py",
    "test_whole_exports.py",
    "test_train_evaluate.py",
    "test_install.py",
    "test_readme.py",
    "test_examples.py",
    "test_export_onnx.py",
    "test_export_coreml_weights.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the tests by file; within a file they stay as they are."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


def written_soon(fd: Any) -> None:
    """In place of os.fsync: a disk takes its time to answer, and no test looks at the disk behind the system's back."""


def pytest_configure(config: pytest.Config) -> None:
    """The folder of what tests share; worker processes find it in their environment."""
    os.fsync = written_soon
    if not hasattr(config, "workerinput"):
        os.environ[VARIABLE] = tempfile.mkdtemp(prefix="addkit-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes it when the last test is done."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(VARIABLE), ignore_errors=True)


def pytest_collection_finish() -> None:
    """Spare the garbage collector the libraries, a million objects that stay: it took a fifth of a trace's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)

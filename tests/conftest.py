"""One thread per test process: toy networks gain nothing from two, and lose a lot when the machine is busy."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["ADDKIT_CACHE"] = "off"  # tests of the cache set their own folder; nobody's home folder is written to


# Files that take longest, first: processes take whole files, and a long one at the end would leave the others idle.
LONGEST = (
    "test_runtime_batch.py",
    "test_export_parity.py",
    "test_train_settings.py",
    "test_train_loops.py",
    "test_train_known_bugs.py",
    "test_train_doctor.py",
    "test_train_own_data.py",
    "test_export_quantize.py",
    "test_train_run.py",
    "test_train_resume.py",
    "test_examples.py",
    "test_export_graph_passes.py",
    "test_export_coreml_weights.py",
    "test_train_evaluate.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the tests by file; within a file they stay as they are."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))

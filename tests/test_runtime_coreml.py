"""Core ML packages in place of graphs: fed as Apple's interfaces require, here to the reference evaluator."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from export.mil.program import Program
from runtime import coreml
from runtime.manifest import MARKER
from tests.support.coreml_small import small_coreml
from tests.support.tiny import small_bundle


@pytest.fixture(scope="module")
def bundle() -> Path:
    return small_bundle()


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small checkpoint's packages, predicted by the evaluator in the place of Core ML."""

    def evaluated(path: Path, compute_unit: str) -> Any:
        assert compute_unit == "CPU_AND_NE"
        program = Program(path)
        wanted = {port.name for port in program.inputs}
        return lambda feed: program.run({name: value for name, value in feed.items() if name in wanted})

    monkeypatch.setattr(coreml, "predictor", evaluated)
    return small_coreml()[0]


def test_packages_draw_the_graphs_pictures(bundle: Path, packages: Path) -> None:
    graphs, pipe = runtime.load(bundle), runtime.load(bundle, coreml_packages=packages)
    assert pipe.provider == "coreml"
    every: list[dict[str, Any]] = [{}, {"num_inference_steps": 2}]
    for options in every:
        expected = np.asarray(graphs("a red fox", seed=7, output_type="np", **options))
        found = np.asarray(pipe("a red fox", seed=7, output_type="np", **options))
        assert 10 * np.log10(1 / np.mean((expected - found) ** 2)) > 35
    picture = graphs("a pizza", seed=1)[0]
    np.testing.assert_allclose(pipe.encode(picture), graphs.encode(picture), atol=0.05)
    expected = np.asarray(graphs("a fox", seed=7, image=picture, strength=0.5, output_type="np"))
    found = np.asarray(pipe("a fox", seed=7, image=picture, strength=0.5, output_type="np"))
    assert 10 * np.log10(1 / np.mean((expected - found) ** 2)) > 30
    pipe.close()
    with pytest.raises(runtime.ClosedError):
        pipe("a fox", seed=7)


def test_a_cancelled_token_is_seen(bundle: Path, packages: Path) -> None:
    token = runtime.CancelToken()
    token.cancel()
    with pytest.raises(runtime.Cancelled):
        runtime.load(bundle, coreml_packages=packages)("a fox", seed=7, cancel=token)


def test_other_folders_are_refused(bundle: Path, packages: Path, tmp_path: Path) -> None:
    with pytest.raises(runtime.BundleError, match="no Core ML export"):
        runtime.load(bundle, coreml_packages=tmp_path)
    facts = json.loads((packages / MARKER).read_text())
    (tmp_path / MARKER).write_text(json.dumps(facts))
    with pytest.raises(runtime.BundleError, match="lacks Stable_Diffusion_version_.*export it again"):
        runtime.load(bundle, coreml_packages=tmp_path)
    (tmp_path / MARKER).write_text(json.dumps(facts | {"latent_shape": [1, 2, 3]}))
    with pytest.raises(runtime.BundleError, match="another model than the bundle: latent_shape"):
        runtime.load(bundle, coreml_packages=tmp_path)


@pytest.mark.skipif(sys.platform == "darwin", reason="there Core ML predicts")
def test_elsewhere_it_says_that_it_needs_macos(bundle: Path) -> None:
    with pytest.raises(runtime.ProviderError, match="needs macOS"):
        runtime.load(bundle, coreml_packages=small_coreml()[0])("a fox", seed=7)

"""The benchmark of U-Nets: turns, ratios, and what cannot run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export import bench
from runtime.errors import UserError
from tests.support.tiny import SMALL, small_bundle


@pytest.fixture(scope="module")
def bundle() -> Path:
    return small_bundle()


def test_engines_take_turns_and_the_first_turn_does_not_count() -> None:
    order: list[str] = []

    def engine(name: str) -> bench.Engine:
        return bench.Engine(name, lambda _: order.append(name))

    engines = [engine(name) for name in "abc"]
    engines.insert(1, bench.Engine("x", None, "no such engine"))
    bench.race(engines, {}, turns=3)
    assert order == [*"abc", *"bca", *"cab", *"abc"]
    assert [len(engine.seconds) for engine in engines] == [3, 0, 3, 3]


def test_ratios_are_turn_by_turn() -> None:
    one, two = bench.Engine("one", print, seconds=[1.0, 2.0]), bench.Engine("two", print, seconds=[4.0, 4.0])
    facts = bench.report([one, two, bench.Engine("three", None, "why")], threads=1)
    assert facts["engines"][1]["ratio"] == {"min": 0.25, "median": 0.375, "max": 0.5}
    assert facts["engines"][1]["ms"]["median"] == 4000
    assert facts["engines"][2] == {"name": "three", "status": "not run", "why": "why"}
    assert "not run: why" in bench.show(facts) and "0.38" in bench.show(facts)


def test_two_bundles_race(bundle: Path, capsys) -> None:
    assert bench.main([str(bundle), str(bundle), "--turns", "2", "--threads", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["engines"][0]["ratio"]["median"] == 1
    assert all("fp32" in row["name"] and row["ms"]["min"] > 0 for row in facts["engines"])


def test_the_inputs_have_the_models_sizes(bundle: Path) -> None:
    sample = bench.feed_of(bundle)["sample"]
    assert sample.shape == (1, SMALL.latent_channels, 8, 8)


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="config.json"):
        bench.feed_of(tmp_path)
    with pytest.raises(UserError, match="give an export"):
        list(bench.engines(tmp_path, 1))

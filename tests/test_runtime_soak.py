"""A pipe that runs for a long time: constant memory, the same pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

import runtime
from scripts import soak

TINY = Path(__file__).parent / "golden" / "tiny_bundle"


def test_a_thousand_small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    with runtime.load(TINY, threads=1) as pipe:
        facts = soak.soak(pipe, 1000)
    assert facts["passed"] and facts["repetitions"] == 2, facts


def test_what_leaks_and_what_changes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = iter(range(100, 200, 10))
    monkeypatch.setattr(soak, "resident_mb", lambda: float(next(memory)))
    monkeypatch.setattr(soak, "EVERY", 50)
    drawn = iter(range(10_000))

    class Changing:
        def __call__(self, prompt: str, seed: int) -> list[object]:
            value = next(drawn)
            return [type("Image", (), {"tobytes": lambda self: str(value).encode()})()]

    facts = soak.soak(Changing(), 200)  # type: ignore[arg-type]
    assert facts["differing"] == [50, 100, 150, 200] and facts["growth"] == 1.1 and not facts["passed"]


@pytest.mark.slow
def test_five_thousand_pictures_of_the_release_model() -> None:
    with runtime.load() as pipe:
        facts = soak.soak(pipe, 5000)
    assert facts["passed"] and facts["repetitions"] == 10, facts

"""docs/ARCHITECTURE.md names files that exist, and its walks never step back up."""

from __future__ import annotations

import re

import pytest

from scripts.rooms import PAGE, ROOT, arrows

TEXT = PAGE.read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text under a heading, up to the next of its level or above."""
    level = title.split(" ", maxsplit=1)[0]
    _, _, rest = TEXT.partition(f"\n{title}\n")
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def module_of(path: str) -> str:
    """The dotted name of a file."""
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def test_every_row_of_where_to_go_names_something_that_exists() -> None:
    rows = [line for line in section("## I want to change X: go to Y").splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 25
    for row in rows:
        found = re.findall(r"`([\w./-]+/[\w./-]*)`", row)
        assert found, row
        for path in found:
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("walk", ["### A prompt", "### A seed", "### A checkpoint"])
def test_a_walk_goes_down(walk: str) -> None:
    files = re.findall(r"^\d+\. `([\w./]+)`: ", section(walk), flags=re.MULTILINE)
    assert len(files) >= 8
    modules, calls = [module_of(path) for path in files], arrows()
    for place, module in enumerate(modules):
        above = set(modules[:place])
        assert not calls[module] & above, f"{module} calls a file above it"
        if place > 1:
            assert any(module in calls[one] for one in above), f"nothing above calls {module}"

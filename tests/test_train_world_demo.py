"""The part of the world that `make demo` trains on, as it is in git, and the table that travels with a shard."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from runtime.errors import UserError
from runtime.variation import Variation
from scripts.demo import PROMPTS, SEEDS, contact_sheet, differing, real_pictures
from scripts.make_demo_world import ANIMALS, table
from train.config import DEMO_SHARD, DEMO_WORLD
from train.data.shards import read_facts
from train.data.sources import table_of
from train.folders import read_json

DEMO = Path(DEMO_WORLD)


def test_its_captions_are_what_prompts_are_completed_to() -> None:
    records = list(read_facts(DEMO, "train"))
    assert len(records) == 192
    assert set(Counter(record.unit for record in records).values()) == {8}
    captions = {record.captions[0] for record in records}
    made = table()
    assert made.to_json() == read_json(DEMO / "variation.json")
    completed = [made.complete("a fox", seed) for seed in range(200)]
    assert len(set(completed)) == 20  # two styles in ten colors, of which the data show eight
    assert len({caption for caption in captions if caption.startswith("a fox, ")} & set(completed)) == 8
    assert {made.drawn("an animal", seed)["thing"] for seed in range(200)} == set(ANIMALS)
    assert sum(path.stat().st_size for path in DEMO.iterdir()) < 3_000_000


def test_every_prompt_of_the_demo_has_many_pictures_there(tmp_path: Path) -> None:
    rows = [(prompt, real_pictures(prompt)) for prompt in PROMPTS]
    assert all(len(images) == len(SEEDS) and differing(images) > 10 for _, images in rows)
    contact_sheet(rows, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 50_000


def test_a_table_beside_shards_travels_and_a_damaged_one_is_one_line(tmp_path: Path) -> None:
    found = table_of(DEMO_WORLD)
    assert found is not None
    assert Variation.from_json(found).complete("a fox, 3d style, red", 1) == "a fox, 3d style, red"
    assert table_of(DEMO_SHARD) is None
    assert table_of("https://example.com/shard.tar") is None
    shutil.copytree(DEMO, tmp_path / "damaged")
    for text in ("{", '{"version": 2}'):
        (tmp_path / "damaged" / "variation.json").write_text(text)
        with pytest.raises(UserError, match="no table of variation"):
            table_of(str(tmp_path / "damaged"))

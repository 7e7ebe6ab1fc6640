"""train.sticker.compose and its parts: words, recolouring, cutouts, the list of compositions, their split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.errors import UserError
from tests.support.train_fixtures import png
from train.data import writer
from train.data.shards import read_records
from train.sticker.art import Source
from train.sticker.captions import STYLES, is_held_out, sticker_record
from train.sticker.compose import KINDS, WEARERS, WORN, Composition, compositions, sticker_splits
from train.sticker.recolour import recolour
from train.sticker.words import COLOURS, article, is_plural, plural, spoken, with_article, without_colour

SHAPES = {
    "1F98A": ("fox", "animals-nature", '<circle cx="16" cy="16" r="12" fill="#f80"/>'),
    "1F431": ("cat face", "animals-nature", '<rect x="4" y="8" width="24" height="20" fill="#fb0"/>'),
    "1F34E": ("red apple", "food-drink", '<circle cx="16" cy="18" r="10" fill="#d02"/>'),
    "1F697": ("automobile", "travel-places", '<rect x="2" y="12" width="28" height="10" fill="#c22"/>'),
    "1F451": ("crown", "objects", '<rect x="6" y="10" width="20" height="10" fill="#fc0"/>'),
    "1F576": ("sunglasses", "objects", '<rect x="4" y="14" width="24" height="6" fill="#223"/>'),
    "1F347": ("grapes", "food-drink", '<circle cx="16" cy="16" r="10" fill="#72c"/>'),
}
HELD_OUT = next(f"F{code:X}" for code in range(4096) if is_held_out(f"F{code:X}"))


def source(code: str, noun: str, group: str, body: str, style: str = "fluent-flat") -> Source:
    captions = (f"{noun}, {STYLES[style]}", f"a {noun}, {STYLES[style]}", noun)
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{body}</svg>'
    return Source(sticker_record(f"{style}_{code}", captions, style, code, group), None, svg)


def art() -> list[Source]:
    held_out = source(HELD_OUT, "blue cat", "animals-nature", '<circle cx="16" cy="16" r="9" fill="#00f"/>')
    return [held_out, *(source(code, *facts) for code, facts in SHAPES.items())]


@pytest.mark.parametrize(
    ("noun", "many"),
    [
        ("fox", "foxes"),
        ("cat face", "cat faces"),
        ("slice of pizza", "slices of pizza"),
        ("mouse", "mice"),
        ("wolf", "wolves"),
        ("fish", "fish"),
        ("strawberry", "strawberries"),
        ("potato", "potatoes"),
        ("key", "keys"),
        ("owl", "owls"),
        ("bow and arrow", "bows and arrow"),
        ("pair of scissors", "pairs of scissors"),
    ],
)
def test_plurals(noun: str, many: str) -> None:
    assert plural(noun) == many


def test_words_of_captions() -> None:
    assert (article("owl"), article("unicorn"), article("fox")) == ("an", "a", "a")
    assert [with_article(noun) for noun in ("fox", "grapes", "octopus", "glass")] == [
        "a fox",
        "grapes",
        "an octopus",
        "a glass",
    ]
    assert is_plural("socks") and not is_plural("cactus")
    assert (spoken("cat face"), spoken("automobile"), spoken("sun with face")) == ("cat", "car", "sun with face")
    assert (without_colour("red apple"), without_colour("orange")) == ("apple", "")


@pytest.mark.parametrize("colour", COLOURS)
def test_recolour_turns_the_main_part_and_keeps_the_rest(colour: str) -> None:
    picture = Image.new("RGBA", (32, 32))
    picture.paste((240, 140, 20, 255), (0, 0, 32, 24))
    picture.paste((255, 255, 255, 255), (0, 24, 32, 32))
    turned = np.asarray(recolour(picture, colour)).astype(int)
    hue, saturation, value = COLOURS[colour]
    wanted = Image.new("HSV", (1, 1), (round(hue / 360 * 255), round(saturation * 255), round(value * 255)))
    assert np.abs(turned[10, 10, :3] - np.asarray(wanted.convert("RGB"))[0, 0]).max() < 12
    assert turned[30, 10].tolist() == [255, 255, 255, 255]
    assert np.array_equal(turned[..., 3], np.asarray(picture)[..., 3])


def test_a_pale_thing_takes_a_colour_too() -> None:
    pale = Image.new("RGBA", (16, 16), (235, 235, 240, 255))
    red, green, blue = np.asarray(recolour(pale, "blue"))[8, 8, :3].astype(int)
    assert blue > red + 80 and blue > green


def test_cutouts_lose_their_border_in_either_kind_of_file(tmp_path: Path) -> None:
    raster = Image.new("RGBA", (60, 60))
    raster.paste((200, 0, 0, 255), (20, 30, 50, 40))
    (tmp_path / "a.webp").write_bytes(png(raster))
    record = sticker_record("a", ("bar",), "fluent-3d", "A", "objects")
    assert Source(record, tmp_path / "a.webp", None).cutout(128).size == (30, 10)
    assert source("1F451", *SHAPES["1F451"]).cutout(64).size == (40, 20)


def test_compositions_are_a_function_of_sources_and_seed() -> None:
    first, again, other = (compositions(art(), 60, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert [composed.record.key for composed in first] == sorted(composed.record.key for composed in first)
    assert set(Counter(composed.kind for composed in first)) == set(KINDS)


def test_no_composition_shows_or_names_a_held_out_concept() -> None:
    made = compositions(art(), 200)
    assert not any(is_held_out(part.record.unit) for composed in made for part in composed.parts)
    captions = [caption for composed in made for caption in composed.record.captions]
    assert "red cat, flat style" in captions
    assert not any(caption.startswith(("blue cat,", "a blue cat,")) for caption in captions)


def test_captions_say_what_is_drawn() -> None:
    captions = {caption for composed in compositions(art(), 300) for caption in composed.record.captions}
    for caption in (
        "two foxes",
        "three cat faces",
        "a fox wearing a crown",
        "a cat wearing sunglasses",
        "a blue apple",
        "a cat and a car",
        "a car next to grapes",
    ):
        assert f"{caption}, flat style" in captions
    assert any(caption.startswith("a fox on a") and "background" in caption for caption in captions)
    assert not any("grapeses" in caption or "two grapes" in caption for caption in captions)


def test_every_kind_is_drawn_at_any_size() -> None:
    drawn: dict[str, Composition] = {composed.kind: composed for composed in compositions(art(), 60)}
    for composed in drawn.values():
        for size in (32, 128):
            pixels = composed.draw(size)
            assert pixels.shape == (size, size, 3) and pixels.dtype == np.uint8
            assert pixels.std() > 5


def test_the_wearers_and_what_they_wear_are_in_the_training_split() -> None:
    assert not [code for code in (*WEARERS, *WORN) if is_held_out(code)]


def test_compositions_go_to_a_split_of_their_own(tmp_path: Path) -> None:
    composed = compositions(art(), 20)
    splits = sticker_splits(art(), composed)
    summary = writer.write_dataset(splits, tmp_path, 32, {})
    assert summary["pictures"] == {"train": len(SHAPES), "held_out": 1, "composed": len(composed)}
    assert [record for record, _ in read_records(tmp_path, "composed")] == [made.record for made in composed]
    assert writer.write_dataset(splits, tmp_path, 32, {}) == summary
    with pytest.raises(UserError, match="other pictures"):
        writer.write_dataset(sticker_splits(art(), composed[:-1]), tmp_path, 32, {})

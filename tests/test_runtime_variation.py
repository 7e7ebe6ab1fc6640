"""What a prompt leaves open: found, drawn by the seed with its frequency, and never against what the prompt says."""

from __future__ import annotations

import copy
from collections import Counter

import pytest

from runtime.variation import Variation, plain
from runtime.variation.draws import draw, fnv1a, philox, uniform
from scripts.variation_cases import table

ONES = 0xFFFFFFFF


VARIATION = Variation.from_json(table())


def test_philox_and_fnv_give_their_published_answers() -> None:
    """Random123's known answers of philox4x32-10, and the FNV page's of fnv1a 64."""
    assert philox((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert philox((ONES,) * 4, (ONES, ONES)) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    assert philox(*pi) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)
    assert fnv1a(b"") == 0xCBF29CE484222325
    assert fnv1a(b"foobar") == 0x85944171F73967E8


def test_words_come_with_their_frequencies() -> None:
    counts = Counter(draw({"a": 0.5, "b": 0.3, "c": 0.2, "never": 0.0}, seed, "x") for seed in range(4000))
    assert counts["never"] == 0
    for word, share in {"a": 0.5, "b": 0.3, "c": 0.2}.items():
        assert counts[word] / 4000 == pytest.approx(share, abs=0.03)
    assert uniform(7, "style") != uniform(7, "size") != uniform(8, "size")


def test_properties_are_drawn_apart_from_each_other() -> None:
    pairs = Counter(
        (words["style"], words["size"]) for words in (VARIATION.drawn("a fox", seed) for seed in range(4000))
    )
    assert pairs["3d style", "large"] / 4000 == pytest.approx(0.6 * 0.7, abs=0.03)


@pytest.mark.parametrize(
    ("prompt", "left_open"),
    [
        ("a fox", ["style", "colors", "facing", "size"]),
        ("A FOX!", ["style", "colors", "facing", "size"]),
        ("a big red fox facing left", ["style"]),
        ("a tiny fox, 3d", ["colors", "facing"]),
        ("a hot dog", ["style", "size"]),  # the longer name hides "dog"
        ("a blue dog", ["style", "colors", "facing", "size"]),  # its name is no color
        ("a blue blue dog", ["style", "facing", "size"]),
        ("a fox, blue, dog", ["style", "facing", "size"]),  # no blue dog: there is a pause in it
        ("a fox and a pizza", ["style"]),
        ("and a fox", ["style", "colors", "facing", "size"]),  # joins nothing
        ("a woman with glasses", ["style", "hair"]),  # of a woman, not of glasses
        ("a bald woman, toon style", []),  # nothing of her hair is open
        ("a fox with a pizza", ["style", "colors", "facing", "size"]),
        ("3d style, a fox", ["colors", "facing", "size"]),
        ("an animal", ["thing", "style", "colors", "facing", "size"]),
        ("an animal, fox", ["style", "colors", "facing", "size"]),
        ("something else", []),
        ("foxes", []),  # no table names it
        ("ein kleiner Fuchs", []),
        ("赤い fox", []),  # what the other word says is not known
        ("рыжая лиса, fox", []),
        ("un gar\u00e7on with a fox", ["style", "colors", "facing", "size"]),  # a word, not "gar", "on"
        ("", []),
    ],
)
def test_what_is_open(prompt: str, left_open: list[str]) -> None:
    found = [name for name in VARIATION.drawn(prompt, 2) if name != "hair color"]
    assert found == left_open


def test_a_word_inside_a_longer_phrase_says_no_other_property() -> None:
    said = table()
    said["kinds"]["animals"]["properties"]["background"] = {"words": {"on white": 0.5, "on blue": 0.5}}
    said["order"].append("background")
    made = Variation.from_json(said)
    assert [*made.drawn("a fox on blue", 1)] == ["style", "colors", "facing", "size"]
    assert [*made.drawn("a blue fox on blue", 1)] == ["style", "facing", "size"]
    assert [*made.drawn("a blue fox", 1)] == ["style", "facing", "size", "background"]


def test_the_completed_prompt_leaves_nothing_open() -> None:
    for prompt in ("a fox", "an animal", "a woman", "a fox and a pizza", "a hot dog, large"):
        for seed in range(50):
            complete = VARIATION.complete(prompt, seed)
            assert complete.startswith(prompt)
            assert VARIATION.complete(complete, seed) == complete
            assert VARIATION.complete(complete, seed + 1) == complete


def test_a_style_decides_what_else_is_open() -> None:
    for seed in range(20):
        words = VARIATION.drawn("a woman", seed)
        assert ("hair color" in words) == (words["style"] == "toon style" and words["hair"] != "bald")


def test_a_chosen_word_is_taken() -> None:
    assert VARIATION.drawn("a fox", 1, {"facing": "facing right"})["facing"] == "facing right"
    others = VARIATION.drawn("a fox", 1)
    chosen = VARIATION.drawn("a fox", 1, {"facing": others["facing"]})
    assert chosen == others
    assert VARIATION.drawn("a fox", 1, {"facing": "left"})["facing"] == "facing left"  # the only one with it
    for wrong, says in (
        ({"facing": "facing"}, "choose one of facing left, facing right"),  # both have it
        ({"facing": "!"}, "choose one of facing left, facing right"),
        ({"facing": "up"}, "choose one of facing left, facing right"),
        ({"wheels": "4"}, "there is no wheels"),
        ({"hair": "bald"}, "the prompt settles it"),
    ):
        with pytest.raises(ValueError, match=says):
            VARIATION.drawn("a fox", 1, wrong)


@pytest.mark.parametrize("typed", ["a fox, ", "A fox!", " a fox.\n", "a fox?!", "a fox ,;:"])
def test_the_separator_takes_the_place_of_what_the_prompt_ends_in(typed: str) -> None:
    words = ", ".join(VARIATION.drawn("a fox", 4).values())
    assert VARIATION.complete(typed, 4).lower().strip() == f"a fox, {words}"


def test_a_prompt_that_leaves_nothing_open_stays_as_it_is() -> None:
    for prompt in ("Something else! ", "", "...", "a bald woman, toon style.", "赤い fox."):
        assert VARIATION.complete(prompt, 4) == prompt


def test_words_without_room_are_left_out() -> None:
    whole = VARIATION.complete("a fox", 4)
    words = list(VARIATION.drawn("a fox", 4).values())
    for most in range(len(whole) + 1):

        def fits(text: str, most: int = most) -> bool:
            return len(text) <= most

        found = VARIATION.complete("a fox", 4, fits=fits)
        kept = found.split(", ")[1:]
        assert kept == words[: len(kept)]
        assert len(found) <= max(most, len("a fox"))
        assert len(found) + len(", ") + len([*words, ""][len(kept)]) > most or found == whole
        assert VARIATION.complete(found, 4, fits=fits) == found
    with pytest.raises(ValueError, match="the prompt is too long for it"):
        VARIATION.complete("a fox", 4, {"size": "large"}, fits=lambda text: len(text) <= len(whole) - 1)


def test_the_table_survives_its_json() -> None:
    again = Variation.from_json(VARIATION.to_json())
    assert again.to_json() == VARIATION.to_json()
    assert again.complete("a fox", 9) == VARIATION.complete("a fox", 9)


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        (["version"], 2, "version 2"),
        (["kinds"], [], "kinds is list"),
        (["order"], ["style"], "order lacks"),
        (["order"], "style", "order is no list"),
        (["separator"], "", "separator"),
        (["kinds", "food", "words"], [1], "words of food"),
        (["kinds", "food", "rank"], "high", "rank of food"),
        (["kinds", "animal", "properties"], {}, "animal is coarse"),
        (["kinds", "food", "properties", "size", "words"], {}, "no word of a frequency above 0"),
        (["kinds", "food", "properties", "size", "words"], {"small": -1}, "frequency of 'small'"),
        (["kinds", "food", "properties", "size", "words"], {"small": float("nan")}, "frequency of 'small'"),
        (["kinds", "food", "properties", "size", "words"], {"small": "1"}, "frequency of 'small'"),
        (["kinds", "food", "properties", "size", "words"], {"small": 10**400}, "frequency of 'small'"),
        (["kinds", "food", "properties", "size", "words"], {"small": True}, "frequency of 'small'"),
        (["kinds", "food", "properties", "size", "words"], {"large": 1, "2": 1}, "'2' is a number alone"),
        (["kinds", "food", "properties", "size", "words"], {"!": 1}, "frequency of '!'"),
        (["kinds", "food", "properties", "size", "names"], [""], "names of size of"),
        (["kinds", "food", "properties", "size", "words"], {"x" * 101: 1}, "at most 100 letters"),
        (["kinds", "food", "properties", "size", "words"], {"big\n": 1}, "at most 100 letters"),
        (["kinds", "food", "properties", "size", "weights"], {}, "size of animals has an unknown field weights"),
        (["kinds", "food", "properties", "wheels"], {"words": {"four": 1}}, "order lacks wheels"),
        (["kinds", "food", "words"], ["hot, dog"], "has a pause"),
        (["kinds", "food", "color"], "red", "food has an unknown field color"),
        (["kinds", "animal", "properties", "thing", "words"], {"unicorn": 1}, "'unicorn' is no word of a kind"),
        (["kinds", "woman, ink", "requires"], ["black hair"], "order: hair must come after hair color, whose 'black"),
        (["kinds"], {f"kind {i}": {"words": ["a"], "properties": {}} for i in range(2001)}, "2001 kinds are too many"),
        (["kinds", "food", "words"], [f"pizza {i}" for i in range(100_000)], "words are too many"),
        (["order"], ["style", "style"], "order has a property twice"),
        (["order"], [f"property {i}" for i in range(101)], "more than 100"),
        (["separator"], " ", "not a pause"),
        (["separator"], " and, ", "not a pause"),
        (["separator"], ",\n", "not a pause"),
        (["seperator"], ",", "the table has an unknown field seperator"),
    ],
)
def test_a_damaged_table_is_refused(where: list[str], value: object, says: str) -> None:
    damaged = copy.deepcopy(table())
    inner = damaged
    for step in where[:-1]:
        inner = inner[step]
    inner[where[-1]] = value
    with pytest.raises(ValueError, match=says):
        Variation.from_json(damaged)


def test_kinds_that_wait_for_each_other_are_refused() -> None:
    damaged = table()
    damaged["kinds"]["woman, ink"]["requires"] = ["black hair"]
    damaged["kinds"]["woman, toon"]["requires"] = ["bald"]
    with pytest.raises(
        ValueError, match="requires is cyclic: woman, ink and woman, toon can only be reached from each"
    ):
        Variation.from_json(damaged)


def test_plain_text_is_the_same_in_every_language() -> None:
    assert plain("A Big,  red FOX!") == " a big red fox "
    assert plain("İstanbul fox") == " stanbul fox "  # letters beyond ASCII have other lower cases elsewhere
    assert plain("") == " "

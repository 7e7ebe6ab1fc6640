"""The world of stickers: what a caption says is in its picture, and the frequencies are the table's."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizerFast

from runtime.errors import UserError
from tests.support.world import Squares, prepared, small_world, thing
from train.checkpoint import load_part
from train.data.encoders import Encoders, token_ids
from train.random_teacher import make_random_teacher
from train.world import looks
from train.world.art import SHARES, Drawing
from train.world.captions import caption
from train.world.drawing import GROUND_COLORS, background, cutout, draw
from train.world.portraits import COVERED, MENS_HAIR, PORTRAIT_STYLES, WOMENS_HAIR
from train.world.prepare import read_portraits, read_things
from train.world.reading import Reader
from train.world.scenes import HELD_OUT, KINDS, Scene, World, called, choose
from train.world.sprites import Portrait, StoredSprites, art_sprite, read_sprites, write_sprites
from train.world.stream import Painter, WorldStream
from train.world.ways import Ways

SIZE = 64
RED_SQUARE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><path fill="#d01818" d="M1 1h6v6H1z"/></svg>'


@pytest.fixture(scope="module")
def world() -> World:
    return small_world()


def scenes(world: World, count: int = 400) -> list[Scene]:
    rng = np.random.default_rng(0)
    kinds = [choose(KINDS, rng) for _ in range(count)]
    return [world.scene(k, ("woman",), rng) if k == "portrait" else world.any_thing(rng) for k in kinds]


# ---- scenes and the table --------------------------------------------------------------------------------------


def test_a_scenes_prompt_leaves_nothing_open(world: World) -> None:
    for scene in scenes(world):
        assert world.table.drawn(scene.prompt, 1) == {}, scene.prompt
        assert set(scene.words) <= set(looks.ORDER)


def test_the_data_has_the_tables_frequencies(world: World) -> None:
    rng = np.random.default_rng(1)
    drawn = [world.scene("thing", ("goose",), rng) for _ in range(2000)]
    for name, words in {"size": looks.SIZES, "facing": looks.FACINGS, "tilt": looks.TILTS}.items():
        counts = Counter(scene.words[name] for scene in drawn)
        for word, share in words.items():
            assert counts[word] / 2000 == pytest.approx(share, abs=0.04)
    styles = Counter(scene.style for scene in drawn)
    total = sum(SHARES[style] for style in world.by_name["goose"].styles)
    assert set(styles) == set(world.by_name["goose"].styles)
    assert styles["3d style"] / 2000 == pytest.approx(SHARES["3d style"] / total, abs=0.04)


def test_what_a_thing_cannot_have_is_not_drawn(world: World) -> None:
    rng = np.random.default_rng(2)
    apple, doctor = (world.scene("thing", (name,), rng).words for name in ("red apple", "doctor"))
    assert "colors" not in apple and "facing" not in apple
    assert "colors" not in doctor and doctor["skin"] and doctor["gender"]


def test_every_portrait_that_is_drawn_can_be_drawn(world: World) -> None:
    rng = np.random.default_rng(3)
    for number in range(400):
        subject = ("person", "man", "woman")[number % 3]
        scene = world.scene("portrait", (subject,), rng)
        style = PORTRAIT_STYLES[scene.style]
        style.options(Portrait.of(scene).words)  # no KeyError
        others = {"man": WOMENS_HAIR, "woman": MENS_HAIR}.get(subject, frozenset())
        assert scene.words["hair"] not in others
        assert (scene.words["hair"] in COVERED) == ("hair color" not in scene.words)
        assert subject != "woman" or "beard" not in scene.words


def test_parts_that_are_not_named_are_not_drawn() -> None:
    """DiceBear draws a beard now and then where its options say nothing of one."""
    for style in PORTRAIT_STYLES.values():
        for name in ("beard", "wearing", "earrings"):
            for options in [*style.parts.get(name, {}).values()][:1]:
                left_out = {key for key in options if key.endswith("Probability")}
                assert left_out <= style.base.keys() or name != "beard"


def test_held_out_are_combinations_and_no_part(world: World) -> None:
    many = scenes(world, 2000)
    held = [scene for scene in many if world.is_held_out(scene)]
    assert 0.01 < len(held) / len(many) < max(HELD_OUT.values())
    kept = [scene for scene in many if not world.is_held_out(scene)]
    for name in world.by_name:
        assert any(name in scene.subjects for scene in kept)
    words = {(name, word) for scene in kept for name, word in scene.words.items() if name != "style"}
    assert {pair for scene in held for pair in scene.words.items() if pair[0] != "style"} <= words
    assert not world.is_held_out(Scene("pair", ("a", "b"), {})) or world.is_held_out(Scene("pair", ("b", "a"), {}))


# ---- captions --------------------------------------------------------------------------------------------------


def test_a_caption_never_contradicts_its_picture(world: World) -> None:
    """What the runtime would not draw any more because the caption says it is what the picture shows."""
    rng = np.random.default_rng(4)
    for scene in scenes(world):
        for _ in range(4):
            said = caption(scene, world, rng, ways=Ways(0, 0.4))
            left = world.table.drawn(said, 3)
            settled = set(scene.words) - set(left)
            for name in settled & {"size", "facing", "arrangement"}:
                allowed = {scene.words[name], *looks.SAID.get(name, {}).get(scene.words[name], ())}
                others = {
                    phrase
                    for word, phrases in looks.SAID.get(name, {}).items()
                    if word != scene.words[name]
                    for phrase in (word, *phrases)
                } - allowed
                assert not any(f" {phrase}" in f" {said}" for phrase in others), (said, scene.prompt)


def test_captions_of_each_way_occur(world: World) -> None:
    rng = np.random.default_rng(5)
    scene = world.scene("thing", ("fox",), rng)
    captions = [caption(scene, world, rng) for _ in range(600)]
    assert scene.prompt in captions
    assert any(text.startswith(("animal", "an animal", "a mammal", "mammal")) for text in captions)
    assert "" in captions
    assert any(text in ("a fox", "fox") for text in captions)
    assert len(set(captions)) > 100
    assert all("fox" in caption(scene, world, rng, ways=Ways(0, 0.4)) for _ in range(100))


def test_counts_and_pairs_are_said(world: World) -> None:
    rng = np.random.default_rng(6)
    count = Scene("count", ("goose",), {"style": "3d style", "background": "on white"}, 3)
    assert count.prompt == "three geese, 3d style, on white"
    assert Scene("pair", ("fox", "grapes"), {}).base == "a fox and grapes"
    assert all("three geese" in caption(count, world, rng, ways=Ways(0, 0.4)) for _ in range(50))


# ---- pictures --------------------------------------------------------------------------------------------------


def plain_scene(**words: str) -> Scene:
    plainly = {
        "style": "3d style",
        "colors": looks.NATURAL,
        "facing": "facing left",
        "size": "large",
        "tilt": "upright",
    }
    plainly |= {"outline": "no outline", "light": "plain light", "background": "on white"}
    return Scene("thing", ("fox",), plainly | words)


def pixels(scene: Scene, world: World) -> np.ndarray:
    return np.asarray(draw(scene, world, Squares(), SIZE)).astype(int)


def test_every_word_changes_the_picture(world: World) -> None:
    plainly = pixels(plain_scene(), world)
    for name, words in {
        "size": looks.SIZES,
        "tilt": looks.TILTS,
        "facing": looks.FACINGS,
        "outline": looks.OUTLINES,
        "light": looks.LIGHTS,
        "background": looks.BACKGROUNDS,
        "colors": looks.COLORS,
    }.items():
        pictures = {word: pixels(plain_scene(**{name: word}), world) for word in words}
        seen = {picture.tobytes() for picture in pictures.values()}
        assert len(seen) == len(words), name
        assert any((picture == plainly).all() for picture in pictures.values()), name


def test_facing_left_is_as_drawn_and_right_its_mirror(world: World) -> None:
    left, right = (pixels(plain_scene(facing=word), world) for word in ("facing left", "facing right"))
    assert (left[:, ::-1] == right).all()
    assert left[SIZE // 2, SIZE // 4].tolist() == [255, 0, 0]


def test_sizes_are_sides(world: World) -> None:
    for word, side in {"small": 0.5, "large": 0.9}.items():
        alpha = np.asarray(cutout(plain_scene(size=word), world, Squares(), SIZE))[..., 3]
        assert (alpha > 128).any(axis=0).sum() == pytest.approx(side * SIZE, abs=1.5)


def test_backgrounds(world: World) -> None:
    corner = pixels(plain_scene(background="on blue", size="small"), world)[0, 0]
    assert tuple(corner) == GROUND_COLORS["blue"]
    for word in looks.BACKGROUNDS:
        assert background(word, SIZE).size == (SIZE, SIZE)


def test_light_leaves_white_white(world: World) -> None:
    assert pixels(plain_scene(light="warm light", size="small"), world)[0, 0].tolist() == [255, 255, 255]


def test_counts_and_arrangements_are_seen(world: World) -> None:
    words = {"style": "3d style", "colors": looks.NATURAL, "outline": "no outline", "light": "plain light"}
    for number in (2, 3, 4):
        shown = cutout(Scene("count", ("fox",), words, number), world, Squares(), SIZE)
        assert shown_parts(shown) == number
    for arrangement, axis in {"side by side": 0, "one above the other": 1}.items():
        pair = Scene("pair", ("fox", "car"), words | {"arrangement": arrangement})
        covered = (np.asarray(cutout(pair, world, Squares(), SIZE))[..., 3] > 128).any(axis=axis)
        assert np.diff(covered.astype(int)).clip(0).sum() == 2  # two parts with a gap, along the other axis


def shown_parts(picture: Image.Image) -> int:
    """Connected regions of red: each part has one."""
    red = np.asarray(picture)[..., 0] > 200
    red &= np.asarray(picture)[..., 3] > 200
    seen, parts = np.zeros_like(red), 0
    for start in zip(*np.nonzero(red), strict=True):
        if seen[start]:
            continue
        parts += 1
        stack = [start]
        while stack:
            y, x = stack.pop()
            if 0 <= y < SIZE and 0 <= x < SIZE and red[y, x] and not seen[y, x]:
                seen[y, x] = True
                stack += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return parts


# ---- the prepared folder ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Path:
    return prepared(world, tmp_path)


def test_a_number_is_always_the_same_picture(folder: Path) -> None:
    one, other = Painter(folder, SIZE, seed=3), Painter(folder, SIZE, seed=3)
    tokenizer = load_part(CLIPTokenizerFast, make_random_teacher(folder / "teacher", "tiny") / "tokenizer")
    first, later = one.paint(range(8), tokenizer, 3), other.paint(range(4, 8), tokenizer, 3)
    assert first.prompts[4:] == later.prompts and first.captions[4:] == later.captions
    assert (first.pixels[4:] == later.pixels).all() and (first.ids[4:] == later.ids).all()
    assert (token_ids(tokenizer, first.captions[2]).numpy() == first.ids[2]).all()
    assert max(len(set(several)) for several in first.captions) == 3
    assert Painter(folder, SIZE, seed=4).paint(range(8), tokenizer, 3).prompts != first.prompts
    assert {one.numbered(number).kind for number in range(60)} == set(KINDS)


def test_nothing_held_out_is_trained_on(folder: Path) -> None:
    painter = Painter(folder, SIZE)
    assert not any(painter.world.is_held_out(painter.numbered(number)) for number in range(200))
    rng = np.random.default_rng(0)
    assert all(painter.world.is_held_out(painter.scene(rng, held_out=True)) for _ in range(5))


def stream(folder: Path, **changes: Any) -> WorldStream:
    parts = make_random_teacher(folder / "teacher", "tiny") if not (folder / "teacher").exists() else folder / "teacher"
    vae = load_part(AutoencoderTiny, parts / "vae")
    text = load_part(CLIPTextModel, parts / "text_encoder"), load_part(CLIPTokenizerFast, parts / "tokenizer")
    return WorldStream(folder, Encoders(vae, *text, SIZE), **({"pool": 32, "reuse": 2} | changes))


def taken(source: WorldStream, count: int, times: int) -> list[tuple[str, str, bytes]]:
    """(scene, caption, latents) of what comes next."""
    rows: list[tuple[str, str, bytes]] = []
    for number in range(times):
        given = source.take(count, slice(0, count), np.random.default_rng(number), 0.0)
        rows += zip(given.keys, given.captions, (row.numpy().tobytes() for row in given.latents), strict=True)
    return rows


def test_the_stream_goes_on_exactly(folder: Path) -> None:
    whole = taken(stream(folder), 12, 8)
    first = stream(folder)
    before = taken(first, 12, 3)
    second = stream(folder)
    second.restore(json.loads(json.dumps(first.state())))
    assert before + taken(second, 12, 5) == whole


def test_a_window_of_pools_goes_on_exactly(folder: Path) -> None:
    whole = taken(stream(folder, window=3), 24, 12)
    first = stream(folder, window=3)
    before = taken(first, 24, 7)
    second = stream(folder, window=3)
    second.restore(first.state())
    assert before + taken(second, 24, 5) == whole
    old = {row[0] for row in whole[:64]}
    assert {row[0] for row in whole[64:128]} & old  # the first pool's pictures come again beside the second's
    assert not {row[0] for row in whole[192:]} & old - {row[0] for row in whole[64:192]}


def test_processes_draw_the_same(folder: Path) -> None:
    alone, ahead = stream(folder), stream(folder, workers=1)
    assert taken(alone, 16, 5) == taken(ahead, 16, 5)
    ahead.close()


def test_a_picture_comes_again_with_other_words(folder: Path) -> None:
    rows = taken(stream(folder), 32, 4)
    first, again, others = rows[:32], rows[32:64], rows[64:96]
    assert sorted(row[2] for row in first) == sorted(row[2] for row in again)
    assert [row[2] for row in first] != [row[2] for row in again]
    assert {row[0] for row in first}.isdisjoint(row[0] for row in others)
    said = {(row[0], row[1]) for row in first}
    assert sum((row[0], row[1]) not in said for row in again) > 16


def test_dropped_captions_and_other_ranks(folder: Path) -> None:
    source = stream(folder)
    given = source.take(40, slice(0, 20), np.random.default_rng(1), 0.5)
    assert 3 < given.captions.count("") < 17 and given.latents.shape == (20, *source.latent_shape)
    other = stream(folder, rank=1)
    assert other.take(20, slice(0, 20), np.random.default_rng(1), 0.0).keys != given.keys
    with pytest.raises(UserError, match="another's data position"):
        other.restore(source.state())
    for wrong in ({"reuse": 0}, {"window": 0}, {"pool": 40}):
        with pytest.raises(UserError, match="must be"):
            stream(folder, **wrong)


def test_a_run_whose_encoder_learns_gets_no_states(folder: Path) -> None:
    bare, full = (stream(folder, states=states) for states in (False, True))
    one, other = (source.take(8, slice(0, 8), np.random.default_rng(1), 0.2) for source in (bare, full))
    assert one.captions == other.captions and torch.equal(one.latents, other.latents)
    assert one.text.numel() == one.pooled.numel() == 0 and other.text.shape[0] == 8


@pytest.mark.parametrize(("general", "partial"), [(2.0, 0.0), (0.6, 0.6), (-0.1, 0.5), (float("nan"), 0.1)])
def test_shares_of_captions_fit_together(general: float, partial: float) -> None:
    with pytest.raises(UserError, match="shares of at most 1"):
        Ways(general, partial)


def test_bad_folders_are_told(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(UserError, match="missing: make it with `python -m train.data world"):
        read_things(empty)
    with pytest.raises(UserError, match="no art-"):
        StoredSprites(empty)
    (folder / "dataset.json").write_text(json.dumps({"set": "world", "version": 0}))
    with pytest.raises(UserError, match="another version"):
        read_things(folder)
    (folder / "dataset.json").write_text(json.dumps({"set": "sticker"}))
    with pytest.raises(UserError, match="holds no world"):
        read_things(folder)
    (folder / "portraits.json").write_text("[")
    with pytest.raises(UserError, match="cannot be read"):
        read_portraits(folder)
    (folder / "art-00000.tar").write_bytes(b"not a tar" * 100)
    with pytest.raises(UserError, match="delete it and prepare again"):
        StoredSprites(folder)


def test_a_drawing_is_cut_out_and_kept(tmp_path: Path) -> None:
    key, data = art_sprite(Drawing("flat style", "1F7E5", None, RED_SQUARE))
    assert key == "flat_1F7E5" and data
    write_sprites(tmp_path / "art-00000.tar", [(key, data)])
    assert dict(read_sprites(tmp_path / "art-00000.tar")) == {key: data}
    picture = StoredSprites(tmp_path).art(key)
    assert picture.size == (128, 128) and picture.getchannel("A").getextrema()[1] == 255
    assert art_sprite(Drawing("flat style", "0", None, "<svg"))[1] is None


def test_articles_are_those_that_people_say() -> None:
    said = ("people", "clothing", "baguette bread", "woman surfing", "men wrestling", "women with bunny ears", "grapes")
    assert [called(name) for name in said] == list(said)
    assert [called(name) for name in ("wing", "seedling", "office building", "owl", "person")] == [
        "a wing",
        "a seedling",
        "an office building",
        "an owl",
        "a person",
    ]


def test_a_name_with_a_pause_is_not_drawn_for_no_prompt_can_ask_for_it() -> None:
    world = World([thing("fox", "animal-mammal"), thing("mrs. fox", "animal-mammal")])
    rng = np.random.default_rng(0)
    assert all(world.any_thing(rng).words for _ in range(50))
    assert "mrs. fox" not in world.table.kinds["animal"].properties["thing"].words
    assert not any("mrs. fox" in kind.words for kind in world.table.kinds.values())


def test_a_things_own_name_settles_nothing() -> None:
    named = World(
        [thing(name, "sky-weather") for name in ("night with stars", "side view mirror", "fox", "oil painting")]
    )
    every = {"size", "tilt", "outline", "light", "background", "style", "colors"}
    for name in ("night with stars", "side view mirror", "oil painting"):
        assert set(named.scene("thing", (name,), np.random.default_rng(1)).words) == every


def test_two_words_of_a_portrait_are_no_things_name() -> None:
    named = World([thing("winking face", "face-smiling"), thing("fox", "animal-mammal")])
    said = "a woman, cheeky style, winking, face mask, bowl cut, black hair, brown skin"
    assert {"expression", "wearing", "hair", "hair color", "skin"}.isdisjoint(named.table.drawn(said, 5))
    words = Reader(named).read(said).words  # type: ignore[union-attr]
    assert (words["expression"], words["wearing"]) == ("winking", "face mask")


@pytest.mark.parametrize(
    ("subject", "prompt", "settled"),
    [
        ("fox", "a white fox", "colors"),
        ("car", "a scarlet car", "colors"),
        ("goose", "a left-facing goose", "facing"),
        ("goose", "a goose from behind", "facing"),
        ("fox", "a giant fox", "size"),
        ("fox", "a fox at night", "light"),
        ("fox", "a fox at night", "background"),
        ("pizza", "a pizza on a beach", "background"),
        ("fox", "a photo of a fox", "style"),
        ("fox", "a fox in the style of van gogh", "style"),
        ("goose", "a cartoon goose", "style"),
        ("car", "an upside-down car", "tilt"),
        ("woman", "a sleepy woman", "expression"),
        ("man", "a ginger man", "hair color"),
    ],
)
def test_words_that_the_world_does_not_know_settle_what_they_say(
    world: World, subject: str, prompt: str, settled: str
) -> None:
    often = [settled in world.table.drawn(subject, seed) for seed in range(20)]
    assert any(often)  # a bald man has no hair color
    assert not any(settled in world.table.drawn(prompt, seed) for seed in range(20))

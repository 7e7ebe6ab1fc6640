"""Makes the folder that the world is drawn from: cut-outs, the list of things, the table of variation."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import UserError
from runtime.files import write_json
from train.progress import progress
from train.registry import fetch
from train.sticker.captions import load_emoji
from train.sticker.packages import PACKAGES
from train.world.art import SETS, Drawing, drawings
from train.world.portraits import PORTRAIT_STYLES
from train.world.scenes import PORTRAYED, World
from train.world.sprites import SHARD, Portrait, art_sprite, in_processes, portrait_sprite, portrait_svgs, write_sprites
from train.world.things import Thing, things

NAME = "world"
VERSION = 1
PORTRAITS = 60_000
BYTES_EACH = 8_000  # of a cut-out, at most, on average


def prepare_world(out: Path, portraits: int = PORTRAITS, seed: int = 0) -> dict[str, Any]:
    """Write the folder and return what its dataset.json says; goes on where it was stopped.

    Raises UserError where npm, Node or the network is missing, the disk is full, or the folder holds something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    table = load_emoji(fetch(PACKAGES["emojibase-data"]), fetch(PACKAGES["emojilib"]))
    drawn = drawings(table)
    world = World(things(table, drawn))
    wanted = {key for thing in world.things for key in thing.keys.values()}
    art = [drawing for drawing in drawn if drawing.key in wanted]
    facts = {"set": NAME, "version": VERSION, "seed": seed, "portraits": portraits, "art": len(art)}
    _claim(out, facts)
    _check_space(out, len(art) + portraits)
    _write_shards(out, "art", art, _draw_art)
    faces = random_portraits(world, portraits, seed)
    _write_shards(out, "portraits", faces, _draw_portraits)
    write_json(out / "portraits.json", [dataclasses.asdict(face) for face in faces])
    write_json(out / "things.json", [_to_json(thing) for thing in world.things])
    write_json(out / "variation.json", world.table.to_json())
    summary = {**facts, "things": len(world.things), "licences": licences()}
    write_json(out / "dataset.json", summary)
    return summary


def random_portraits(world: World, count: int, seed: int) -> list[Portrait]:
    """`count` different portraits with the frequencies of the world."""
    rng = np.random.default_rng([seed, 1])
    subjects, shares = list(PORTRAYED), list(PORTRAYED.values())
    found: dict[str, Portrait] = {}
    with progress("choosing portraits", count) as advance:
        while len(found) < count:
            before = len(found)
            scene = world.scene("portrait", (str(rng.choice(subjects, p=shares)),), rng)
            found.setdefault((face := Portrait.of(scene)).key, face)
            advance(len(found) - before)
    return list(found.values())


def read_things(folder: Path) -> list[Thing]:
    """The things of a prepared folder. Raises UserError where it is none, or of another version."""
    facts = _read(folder / "dataset.json")
    if not isinstance(facts, dict) or facts.get("set") != NAME:
        raise UserError(f"{folder} holds no world; make it with `python -m train.data world --out DIR`")
    if facts.get("version") != VERSION:
        raise UserError(
            f"{folder} was made by another version ({facts.get('version')}, not {VERSION}): prepare a new one"
        )
    return [_from_json(said) for said in _read(folder / "things.json")]


def read_portraits(folder: Path) -> list[Portrait]:
    """The portraits of a prepared folder."""
    return [Portrait(said["subject"], said["words"]) for said in _read(folder / "portraits.json")]


def check_table(folder: Path, world: World) -> str | None:
    """What is to be said of a folder's table of variation, None where it is this version's own.

    Raises UserError where it is missing or damaged.
    """
    path = folder / "variation.json"
    said = _read(path)
    if not isinstance(said, dict) or not isinstance(said.get("kinds"), dict):
        raise UserError(f"{path} is no table of variation: prepare again")
    if said["kinds"] == world.table.to_json()["kinds"]:
        return None
    return f"{path} has other words than this version draws: models that were trained with it know these"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: make it with `python -m train.data world --out {path.parent}`") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): prepare again") from error


def _to_json(thing: Thing) -> dict[str, Any]:
    return dataclasses.asdict(thing) | {"keys": [[*look, key] for look, key in thing.keys.items()]}


def _from_json(said: dict[str, Any]) -> Thing:
    keys = {(style, gender, skin): key for style, gender, skin, key in said["keys"]}
    return Thing(**{**said, "keys": keys, "others": tuple(said["others"])})


def licences() -> dict[str, str]:
    """The packages that the pictures come from, and their licences."""
    return {name: PACKAGES[name].licence for name in (*SETS.values(), *_avatar_packages())}


def _avatar_packages() -> list[str]:
    return [f"@dicebear/{name}" for name in ("core", *(style.package for style in PORTRAIT_STYLES.values()))]


def _claim(out: Path, facts: dict[str, Any]) -> None:
    """Refuse to mix two worlds in one folder."""
    mark = out / ".making.json"
    found = _read(mark) if mark.is_file() else None
    if found is None and any(out.glob("*.tar")):
        raise UserError(f"{out} holds other shards; choose another --out, or delete that folder")
    if found is not None and found != facts:
        raise UserError(f"{out} was begun with other settings or by another version; choose another --out")
    write_json(mark, facts)


def _check_space(out: Path, count: int) -> None:
    needed = count * BYTES_EACH - sum(path.stat().st_size for path in out.glob("*.tar"))
    free = shutil.disk_usage(out).free
    if free < needed:
        raise UserError(f"{out}: {needed / 2**20:.0f} MiB are needed there, {free / 2**20:.0f} MiB are free")


def _write_shards(out: Path, name: str, members: Sequence[Any], draw: Callable[[Sequence[Any]], Any]) -> None:
    """Shards of cut-outs, those that exist kept. Raises UserError at one that cannot be drawn."""
    with progress(f"drawing {name}", len(members)) as advance:
        for start in range(0, len(members), SHARD):
            part, path = members[start : start + SHARD], out / f"{name}-{start // SHARD:05d}.tar"
            if path.is_file():
                advance(len(part))
                continue
            made: list[tuple[str, bytes]] = []
            for key, data in draw(part):
                if data is None:
                    raise UserError(f"the drawing {key} could not be made: resvg-py may be too old")
                made.append((key, data))
                advance(1)
            write_sprites(path, made)


def _draw_art(part: Sequence[Drawing]) -> Any:
    return in_processes(art_sprite, part)


def _draw_portraits(part: Sequence[Portrait]) -> Any:
    keys = [portrait.key for portrait in part]
    return in_processes(portrait_sprite, list(zip(keys, portrait_svgs(part), strict=True)))

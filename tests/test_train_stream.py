"""Data sources: the same update for any number of processes, exact resuming, URLs, and errors."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import json
import logging
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.errors import UserError
from tests.support.train_fixtures import COLOURS, make_data, make_encoders, picture, png
from train.data.encoders import Encoders
from train.data.examples import DataSource, Examples
from train.data.shards import Record, _reason, write_shard
from train.data.sources import MemorySource, open_source
from train.data.stream import ShardStream
from train.latents import encode_latents

SIZES = (5, 3, 4, 6, 2, 5, 1)  # pictures of each shard


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    return make_encoders(tmp_path_factory.mktemp("tokenizer"))


def write_shards(folder: Path, sizes: tuple[int, ...] = SIZES, weight: float = 1.0) -> Path:
    """Shards train-N.tar of pictures "N-i", each with a colour and a place of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, size in enumerate(sizes):
        pairs = []
        for index in range(size):
            image = picture(COLOURS[index], "disc" if shard % 2 else "square", 32)
            image.paste("yellow", (4 * shard, 0, 4 * shard + 4, 4 * index + 4))
            captions = (f"{COLOURS[index]} {shard}", f"a {COLOURS[index]}", "a thing")
            pairs.append((Record(f"{shard}-{index}", captions, weight), png(image)))
        write_shard(folder / f"train-{shard:05d}.tar", pairs)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def update(source: DataSource, step: int, total: int, rows: slice, drop: float = 0.3) -> Examples:
    """What the trainer does: one rng for all processes, made of the step."""
    return source.take(total, rows, np.random.default_rng([7, step]), drop)


def keys(source: DataSource, count: int, batch: int = 4) -> list[str]:
    return [key for step in range(count) for key in update(source, step, batch, slice(0, batch)).keys]


def assert_same(first: Examples, second: Examples) -> None:
    assert first.keys == second.keys and first.captions == second.captions
    for name in ("latents", "text", "pooled"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def join(parts: list[Examples]) -> Examples:
    latents, text, pooled = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("latents", "text", "pooled")
    )
    keys, captions = ([item for part in parts for item in getattr(part, name)] for name in ("keys", "captions"))
    return Examples(keys, latents, text, pooled, captions)


# ---- in memory --------------------------------------------------------------------------------------------------


def test_the_update_is_the_same_for_any_number_of_processes(data: Path, cache: Path, encoders: Encoders) -> None:
    whole = open_source(str(data), encoders, cache)
    assert isinstance(whole, MemorySource) and whole.latent_shape == encoders.latent_shape and whole.state() == {}
    for world in (1, 2, 4):
        sources = [open_source(str(data), encoders, cache, rank=rank, world=world) for rank in range(world)]
        for step in range(3):
            share = 12 // world
            parts = [
                update(source, step, 12, slice(rank * share, (rank + 1) * share)) for rank, source in enumerate(sources)
            ]
            assert_same(join(parts), update(whole, step, 12, slice(None)))


def test_examples_belong_to_their_keys(data: Path, cache: Path, encoders: Encoders) -> None:
    """Latents, captions and pooled states are those of the pictures that the keys name, from either source."""
    with torch.no_grad():
        for streaming in ("true", "false"):
            source = open_source(str(data), encoders, cache, streaming=streaming)
            examples = update(source, 0, 20, slice(0, 20), drop=0.0)
            plain = 0
            for key, latents, text, pooled in zip(
                examples.keys, examples.latents, examples.text, examples.pooled, strict=True
            ):
                shard, index = map(int, key.split("-"))
                image = picture(COLOURS[index], "disc" if shard % 2 else "square", 32)
                image.paste("yellow", (4 * shard, 0, 4 * shard + 4, 4 * index + 4))
                pixels = torch.from_numpy(np.asarray(image) / np.float32(127.5) - np.float32(1)).permute(2, 0, 1)
                expected = encode_latents(encoders.vae, pixels[None])[0]
                torch.testing.assert_close(latents, expected, rtol=0.01, atol=0.01)
                captions = [f"{COLOURS[index]} {shard}", f"a {COLOURS[index]}", "a thing"]
                states, pools = (tensor.float() for tensor in encoders.captions(captions))
                errors = (states - text).abs().amax(dim=(1, 2)) + (pools - pooled).abs().amax(dim=1)
                assert errors.min() < 0.05
                plain += int(errors.argmin()) == 0
            assert 7 <= plain < 20


def composed(folder: Path) -> Path:
    """The sixteen pictures of make_data, and one "composed" picture."""
    make_data(folder)
    record = Record("composed", ("a disc",))
    write_shard(folder / "composed-00000.tar", [(record, png(picture("gray", "disc")))])
    return folder


def test_compositions_are_the_share_that_is_asked_for(tmp_path: Path, encoders: Encoders) -> None:
    data = str(composed(tmp_path / "data"))
    for share in (0.0, 0.25, 0.5):
        source = open_source(data, encoders, tmp_path / "cache", compositions=share)
        drawn = keys(source, 100, batch=20)
        assert drawn.count("composed") / len(drawn) == pytest.approx(share, abs=0.04)


def test_a_stream_refuses_compositions_and_a_folder_may_lack_them(tmp_path: Path, encoders: Encoders) -> None:
    data = composed(tmp_path / "data")
    with pytest.raises(UserError, match="compositions needs all pictures in memory"):
        open_source(str(data), encoders, tmp_path / "cache", streaming="true", compositions=0.2)
    (data / "composed-00000.tar").unlink()
    with pytest.raises(UserError, match="no composed-.* or set compositions=0"):
        open_source(str(data), encoders, tmp_path / "cache", compositions=0.2)


@pytest.mark.parametrize("streaming", ["auto", "false"])
def test_compositions_need_a_folder(tmp_path: Path, encoders: Encoders, streaming: str) -> None:
    """A URL or a list of shards has no splits: its shards would be read twice."""
    data = composed(tmp_path / "data")
    for shards in (f"{data}/train-00000.tar", f"file:{data}/train-00000.tar"):
        with pytest.raises(UserError, match="compositions needs a folder"):
            open_source(shards, encoders, tmp_path / "cache", streaming=streaming, compositions=0.2)


def test_a_composed_split_without_compositions_is_refused(tmp_path: Path, encoders: Encoders) -> None:
    data = make_data(tmp_path / "data")
    record = Record("composed", ("a disc",), 0.0)
    write_shard(data / "composed-00000.tar", [(record, png(picture("gray", "disc")))])
    with pytest.raises(UserError, match="a share of 0.2 for"):
        open_source(str(data), encoders, tmp_path / "cache", compositions=0.2)


def test_text_is_dropped_as_often_as_asked(data: Path, cache: Path, encoders: Encoders) -> None:
    for streaming in ("true", "false"):
        source = open_source(str(data), encoders, cache, streaming=streaming)
        for drop, low, high in ((0.0, 0, 0), (0.4, 25, 55), (1.0, 100, 100)):
            examples = update(source, 1, 100, slice(0, 100), drop)
            empty = [bool((text == source.no_text).all()) for text in examples.text]
            assert low <= sum(empty) <= high
            assert empty == [bool((pooled == source.no_text_pooled).all()) for pooled in examples.pooled]


# ---- the stream -------------------------------------------------------------------------------------------------


def stream(data: Path | str, cache: Path, encoders: Encoders, **settings: Any) -> ShardStream:
    source = open_source(str(data), encoders, cache, streaming="true", **{"shuffle_shards": 2, **settings})
    assert isinstance(source, ShardStream)
    return source


def test_every_epoch_shows_every_picture_once_in_another_order(data: Path, cache: Path, encoders: Encoders) -> None:
    for world in (1, 2, 3, 7):
        epochs: dict[int, list[str]] = {0: [], 1: []}
        for rank in range(world):
            source = stream(data, cache, encoders, rank=rank, world=world)
            while (epoch := source.state()["epoch"]) < 2:
                epochs[epoch] += update(source, 0, 1, slice(0, 1)).keys
            source.close()
        everything = Counter(f"{shard}-{index}" for shard, size in enumerate(SIZES) for index in range(size))
        assert Counter(epochs[0]) == Counter(epochs[1]) == everything
        assert epochs[0] != epochs[1]


def test_pictures_are_shuffled_across_the_shards_of_a_group(data: Path, cache: Path, encoders: Encoders) -> None:
    drawn = keys(stream(data, cache, encoders, shuffle_shards=7), 6)
    changes = sum(a.split("-")[0] != b.split("-")[0] for a, b in pairwise(drawn))
    assert changes > 12  # would be six if the shards were read one after the other
    assert drawn != keys(stream(data, cache, encoders, shuffle_shards=7, seed=1), 6)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.integers(0, 40),
    batch=st.integers(1, 9),
    world=st.integers(1, 3),
    rank=st.integers(0, 2),
    shuffle_shards=st.integers(1, 8),
)
def test_a_stream_goes_on_exactly_where_it_was(
    before: int, batch: int, world: int, rank: int, shuffle_shards: int, data: Path, cache: Path, encoders: Encoders
) -> None:
    place: dict[str, Any] = {"rank": rank % world, "world": world, "shuffle_shards": shuffle_shards, "seed": 3}
    rows, total = slice(rank % world * batch, (rank % world + 1) * batch), batch * world
    first = stream(data, cache, encoders, **place)
    for step in range(before):
        update(first, step, total, rows)
    saved = json.loads(json.dumps(first.state()))
    expected = [update(first, step, total, rows) for step in range(before, before + 6)]
    second = stream(data, cache, encoders, **place)
    second.restore(saved)
    assert second.state() == saved
    for step, examples in enumerate(expected, before):
        assert_same(update(second, step, total, rows), examples)
    assert second.state() == first.state()
    first.restore(saved)  # also within a process
    assert_same(update(first, before, total, rows), expected[0])


def test_the_position_at_the_borders(data: Path, cache: Path, encoders: Encoders) -> None:
    """A group that is used up is not read again to learn so."""
    source = stream(data, cache, encoders, shuffle_shards=3)
    sizes = [sum(SIZES[int(shard[-9:-4])] for shard in group) for group in source._groups(0)]
    assert len(sizes) == 3 and sum(sizes) == sum(SIZES)
    for number, size in enumerate(sizes):
        assert (source.state()["epoch"], source.state()["group"], source.state()["offset"]) == (0, number, 0)
        update(source, 0, size, slice(0, size))
    assert (source.state()["epoch"], source.state()["group"], source.state()["offset"]) == (1, 0, 0)


def test_resuming_reads_one_group_only(tmp_path: Path, encoders: Encoders, data: Path) -> None:
    source = stream(data, tmp_path / "first", encoders, shuffle_shards=1)
    for step in range(9):
        update(source, step, 1, slice(0, 1))
    saved, group = source.state(), source.state()["group"]
    resumed = stream(data, tmp_path / "second", encoders, shuffle_shards=1)
    resumed.restore(saved)
    update(resumed, 9, 1, slice(0, 1))
    resumed.close()
    labels = {path.name.split("-")[1] for path in (tmp_path / "second").glob("train-*.latents.safetensors")}
    groups = [Path(shards[0]).stem.split("-")[1] for shards in (*source._groups(0), *source._groups(1))]
    assert groups[group] in labels and labels <= set(groups[group : group + 2])  # and perhaps the one ahead


def test_weights_are_numbers_of_copies(tmp_path: Path, encoders: Encoders) -> None:
    counts = {}
    for weight in (0.25, 2.0):
        folder = write_shards(tmp_path / str(weight), (8, 8, 8, 8), weight)
        source = stream(folder, tmp_path / "cache", encoders)
        drawn = 0
        while source.state()["epoch"] < 10:
            drawn += len(update(source, 0, 1, slice(0, 1)).keys)
        counts[weight] = drawn / 10 / 32
    assert 0.18 < counts[0.25] < 0.32 and counts[2.0] == 2.0


def test_captions_can_be_encoded_per_batch(data: Path, cache: Path, tmp_path: Path, encoders: Encoders) -> None:
    kept = open_source(str(data), encoders, cache, streaming="true")
    fresh = open_source(str(data), encoders, tmp_path / "cache", cache_text=False)
    assert isinstance(fresh, ShardStream)
    for step in range(4):
        one, other = update(kept, step, 5, slice(0, 5)), update(fresh, step, 5, slice(0, 5))
        assert one.keys == other.keys
        torch.testing.assert_close(one.text, other.text, rtol=0.02, atol=0.02)
        torch.testing.assert_close(one.pooled, other.pooled, rtol=0.02, atol=0.02)
    assert not list((tmp_path / "cache").glob("*.text.safetensors"))
    with pytest.raises(UserError, match="cache_text=true"):
        open_source(str(data), encoders, cache, streaming="false", cache_text=False)


def test_auto_streams_many_shards(data: Path, cache: Path, encoders: Encoders, monkeypatch: pytest.MonkeyPatch) -> None:
    for most, kind in ((len(SIZES), MemorySource), (len(SIZES) - 1, ShardStream)):
        monkeypatch.setattr("train.data.sources.MEMORY_SHARDS", most)
        assert isinstance(open_source(str(data), encoders, cache), kind)


# ---- what changed since the checkpoint --------------------------------------------------------------------------


def test_another_number_of_processes_begins_the_epoch_again(
    data: Path, cache: Path, encoders: Encoders, caplog: pytest.LogCaptureFixture
) -> None:
    source = stream(data, cache, encoders)
    for step in range(9):
        update(source, step, 4, slice(0, 4))
    saved = source.state()
    assert saved["epoch"] == 1 and (saved["group"], saved["offset"]) != (0, 0)
    drawn = []
    for rank in range(2):
        other = stream(data, cache, encoders, rank=rank, world=2)
        with caplog.at_level(logging.WARNING):
            other.restore(saved)
        while other.state()["epoch"] == 1:
            drawn += update(other, 0, 1, slice(0, 1)).keys
    assert len(drawn) == len(set(drawn)) == sum(SIZES)
    assert caplog.messages == ["world changed since the checkpoint: epoch 1 begins again"] * 2


def test_another_processs_position_and_nonsense_are_refused(data: Path, cache: Path, encoders: Encoders) -> None:
    saved = stream(data, cache, encoders, rank=0, world=2).state()
    with pytest.raises(UserError, match="process 1 was given the data position of process 0"):
        stream(data, cache, encoders, rank=1, world=2).restore(saved)
    with pytest.raises(UserError, match="position cannot be read"):
        stream(data, cache, encoders).restore({"epoch": None})
    fresh = stream(data, cache, encoders)
    fresh.restore({})
    assert fresh.state()["epoch"] == fresh.state()["offset"] == 0


def test_changed_pictures_begin_the_group_again(
    tmp_path: Path, encoders: Encoders, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_shards(tmp_path / "data", (4, 4))
    source = stream(folder, tmp_path / "cache", encoders)
    update(source, 0, 3, slice(0, 3))
    saved = source.state()
    write_shards(folder, (4, 6))
    resumed = stream(folder, tmp_path / "cache", encoders)
    resumed.restore(saved)
    assert resumed.state() == saved
    drawn = [key for step in range(5) for key in update(resumed, step, 2, slice(0, 2)).keys]
    assert len(set(drawn)) == 10 and resumed.state()["epoch"] == 1
    assert caplog.messages == ["the shards' pictures changed since the checkpoint: their group begins again"]


# ---- URLs -------------------------------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files of a folder; "short" in a name sends half of what it promises."""

    def log_message(self, *arguments: object) -> None:
        pass

    def copyfile(self, source: Any, outputfile: Any) -> None:
        data = source.read()
        outputfile.write(data[: len(data) // 2] if "short" in self.path else data)


@pytest.fixture
def served(data: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(address, folder) of a server on this machine."""
    if shutil.which("curl") is None:
        pytest.skip("webdataset reads http through curl, which is not installed")
    folder = tmp_path / "served"
    shutil.copytree(data, folder)
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", folder
    server.shutdown()
    server.server_close()


def test_shards_come_over_http(
    served: tuple[str, Path], data: Path, cache: Path, tmp_path: Path, encoders: Encoders
) -> None:
    address, folder = served
    pattern = f"{address}/train-{{00000..00006}}.tar"
    remote = open_source(pattern, encoders, tmp_path / "cache", shuffle_shards=2)
    assert isinstance(remote, ShardStream)
    local = stream(data, cache, encoders)
    for step in range(12):
        assert_same(update(remote, step, 4, slice(0, 4)), update(local, step, 4, slice(0, 4)))
    remote.close()
    shutil.rmtree(folder)  # encoded shards need no server
    again = open_source(pattern, encoders, tmp_path / "cache", shuffle_shards=2)
    assert keys(again, 12) == keys(stream(data, cache, encoders), 12)


@pytest.mark.parametrize("name", ["missing", "short"])
def test_a_failed_download_is_one_clear_line_and_can_be_tried_again(
    name: str, served: tuple[str, Path], tmp_path: Path, encoders: Encoders
) -> None:
    address, folder = served
    if name == "short":
        shutil.copy(folder / "train-00000.tar", folder / "short.tar")
    source = open_source(f"{address}/{name}.tar", encoders, tmp_path / "cache")
    before = source.state()
    why = {
        "missing": "exit code 22, the server refuses it or has no such file",
        "short": "exit code 18, the transfer was cut",
    }[name]
    with pytest.raises(UserError, match=f"^{address}/{name}.tar cannot be read beyond .*{why}.*bad_data=skip"):
        update(source, 0, 2, slice(0, 2))
    assert source.state() == before
    if name == "missing":
        shutil.copy(folder / "train-00000.tar", folder / "missing.tar")
        assert len(update(source, 0, 2, slice(0, 2)).keys) == 2


def test_a_command_can_deliver_shards(data: Path, cache: Path, tmp_path: Path, encoders: Encoders) -> None:
    source = open_source(f"pipe:cat {data}/train-{{00000..00006}}.tar", encoders, tmp_path / "cache", shuffle_shards=2)
    assert keys(source, 6) == keys(stream(data, cache, encoders), 6)
    for command, why in (("no-such-command-here", "127"), (f"cat {data}/train-00000.tar; exit 3", "exit code 3")):
        with pytest.raises(UserError, match=why):
            update(open_source(f"pipe:{command}", encoders, tmp_path / "cache"), 0, 1, slice(0, 1))


def test_a_command_that_failed_before_it_was_read_is_still_named() -> None:
    """Its pipe may be closed by the time that the reason is asked for."""
    from webdataset.gopen import gopen, set_options

    stream = gopen("pipe:exit 3")
    set_options(stream, ignore_errors=True)
    stream.close()
    assert _reason(stream, ValueError("read of closed file")) == "exit code 3"


def test_s3_goes_through_the_aws_command(
    data: Path, tmp_path: Path, encoders: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for `aws` that understands `s3 cp s3://bucket/KEY -` alone."""
    fake = tmp_path / "aws"
    fake.write_text(f'#!/bin/sh\n[ "$1 $2 $4" = "s3 cp -" ] && exec /bin/cat "{data}/${{3#s3://bucket/}}"\nexit 9\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    source = open_source("s3://bucket/train-{00000..00006}.tar", encoders, tmp_path / "cache", shuffle_shards=7)
    assert Counter(keys(source, 13, 2)) == Counter(f"{s}-{i}" for s, size in enumerate(SIZES) for i in range(size))


# ---- bad input --------------------------------------------------------------------------------------------------


def test_more_processes_than_shards(data: Path, cache: Path, encoders: Encoders) -> None:
    with pytest.raises(UserError, match=r"^more processes \(8\) than shards \(7\): .*at most 7 processes"):
        stream(data, cache, encoders, rank=2, world=8)
    for name, value in (("shuffle_shards", 0), ("bad_data", "ignore")):
        with pytest.raises(UserError, match=name):
            stream(data, cache, encoders, **{name: value})


def test_a_corrupt_shard_stops_only_the_update_that_needs_it(tmp_path: Path, encoders: Encoders) -> None:
    """Pictures before it are given out, the position stays, and a mended shard lets the run go on."""
    folder = write_shards(tmp_path / "data", (4, 4, 4))
    source = stream(folder, tmp_path / "cache", encoders, shuffle_shards=1)
    second = Path(source._groups(0)[1][0])
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    first = update(source, 0, 3, slice(0, 3))
    saved = source.state()
    for _ in range(2):
        with pytest.raises(UserError, match=f"^{second.name} cannot be read beyond"):
            update(source, 1, 3, slice(0, 3))
        assert source.state() == saved
    second.write_bytes(whole)
    rest = [update(source, step, 3, slice(0, 3)).keys for step in (1, 2, 3)]
    assert Counter([*first.keys, *chain.from_iterable(rest)]) == Counter(f"{s}-{i}" for s in range(3) for i in range(4))


def test_bad_data_can_be_skipped(tmp_path: Path, encoders: Encoders, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_shards(tmp_path / "data", (4, 4, 4))
    (folder / "train-00001.tar").write_bytes(b"\x00garbage" * 200)
    source = stream(folder, tmp_path / "cache", encoders, bad_data="skip", shuffle_shards=3)
    assert Counter(keys(source, 2)) == Counter(f"{s}-{i}" for s in (0, 2) for i in range(4))
    source.close()
    assert "train-00001.tar cannot be read beyond its first 0 pictures" in caplog.messages[0]


def test_nothing_but_bad_data_ends_with_one_line(tmp_path: Path, encoders: Encoders) -> None:
    folder = write_shards(tmp_path / "data", (4,))
    (folder / "train-00000.tar").write_bytes(b"garbage" * 200)
    with pytest.raises(UserError, match="no usable picture"):
        keys(stream(folder, tmp_path / "cache", encoders, bad_data="skip"), 1)
    with pytest.raises(UserError, match="no usable picture"):
        open_source(str(folder), encoders, tmp_path / "cache", bad_data="skip")


# ---- the thread and the cache -----------------------------------------------------------------------------------


def test_the_next_group_is_read_ahead_and_close_ends_the_thread(
    data: Path, tmp_path: Path, encoders: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = stream(data, tmp_path / "cache", encoders, shuffle_shards=1)
    update(source, 0, 1, slice(0, 1))
    ahead = Path(source._groups(0)[1][0]).stem
    deadline = time.monotonic() + 10
    while not list(tmp_path.glob(f"cache/{ahead}-*.text.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(tmp_path.glob(f"cache/{ahead}-*.text.safetensors"))
    slow = stream(data, tmp_path / "other", encoders)

    def slowly(vae: Any, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.1)
        return encode_latents(vae, x)

    monkeypatch.setattr("train.data.corpus.encode_latents", slowly)
    update(slow, 0, 1, slice(0, 1))
    source.close()
    slow.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "shards"]
    assert len(update(slow, 1, 1, slice(0, 1)).keys) == 1
    slow.close()


def test_the_process_ends_while_a_group_is_read() -> None:
    """Were the thread to keep the process, this would wait for the end of `sleep`."""
    code = """
import threading, time
from train.data.stream import _Reader
reader, begun = _Reader(), threading.Event()
def make(job):
    begun.set()
    with job.bar("", 0) as advance:
        while True:
            time.sleep(0.05)
            advance(1)
import weakref
class Owner: pass
owner = Owner()
weakref.finalize(owner, reader.close)
reader.begin((0, 0), make)
assert begun.wait(5)
"""
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=root, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr


def test_both_sources_share_one_cache(data: Path, tmp_path: Path, encoders: Encoders) -> None:
    open_source(str(data), encoders, tmp_path / "cache")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/*.safetensors")}
    assert len(before) == 2 * len(SIZES)
    keys(stream(data, tmp_path / "cache", dataclasses.replace(encoders)), 12)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/*.safetensors")} == before


def test_concurrent_readers_encode_a_shard_once(
    data: Path, tmp_path: Path, encoders: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, encoded = encode_latents, []

    def counted(vae: Any, pictures: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pictures))
        return encode(vae, pictures)

    monkeypatch.setattr("train.data.corpus.encode_latents", counted)
    threads = [
        threading.Thread(
            target=open_source, args=(str(data), encoders, tmp_path / "cache"), kwargs={"rank": rank, "world": 3}
        )
        for rank in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(encoded) == sorted(SIZES)

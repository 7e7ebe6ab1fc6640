"""From any shards to encoded shards: members, captions, the cache, both autoencoders, bad input."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from runtime.errors import UserError
from tests.support.tiny import make_vae
from tests.support.train_fixtures import COLOURS, TEACHER, make_data, make_encoders, picture, png
from train.data.cache import read_tensors, write_tensors
from train.data.corpus import ShardEncoder, _Reading, load_corpus, load_pictures
from train.data.encoders import Encoders, encode_texts, fingerprint
from train.data.shards import DamagedShard, Record, list_shards, picture_of, read_records, read_shard, write_shard
from train.latents import decode_latents, encode_latents, to_tensor


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    return make_encoders(tmp_path_factory.mktemp("tokenizer"))


def small_kl() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        scaling_factor=0.25,
    ).eval()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """A tar of the named members, as any tool would write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def good(count: int = 6) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for index in range(count):
        members[f"{index:03d}.png"] = png(picture(COLOURS[index], "disc", 32))
        members[f"{index:03d}.txt"] = f"{COLOURS[index]} disc".encode()
    return members


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


# ---- members ----------------------------------------------------------------------------------------------------


def test_other_peoples_members_are_read(tmp_path: Path, encoders: Encoders) -> None:
    red = picture("red", "disc", 32)
    floats = np.asarray(red, np.float32) / 127.5 - 1
    transparent = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    shard = write_tar(
        tmp_path / "x.tar",
        {
            "a.png": png(red),
            "a.txt": b" a red disc \n",
            "b.image.jpg": jpeg(picture("red", "disc", 90).resize((180, 90))),
            "b.json": b'{"caption": "wide"}',
            "dir/c.webp": png(red),
            "dir/c.json": b'{"text": "sub folder", "width": 32}',
            "dir/c.cls": b"7",
            "d.npy": npy(np.asarray(red)),
            "d.txt": b"bytes",
            "e.npy": npy(floats),
            "e.txt": b"floats",
            "f.png": png(transparent),
            "f.json": b'{"captions": ["plain", "second"], "weight": 0.5, "style": "3d"}',
            "._a.png": b"what a file system leaves behind",
        },
    )
    encoded = ShardEncoder(encoders, None).load(str(shard))
    assert [record.key for record in encoded.records] == ["a", "b", "dir/c", "d", "e", "f"]
    assert [record.captions for record in encoded.records] == [
        ("a red disc",),
        ("wide",),
        ("sub folder",),
        ("bytes",),
        ("floats",),
        ("plain", "second"),
    ]
    assert encoded.records[5].weight == 0.5 and encoded.records[5].facts["style"] == "3d"
    assert encoded.latents.shape == (6, *encoders.latent_shape) and encoded.latents.dtype == torch.bfloat16
    for same in (2, 3, 4):  # one picture, stored in four ways
        torch.testing.assert_close(encoded.latents[same], encoded.latents[0], rtol=0.01, atol=0.01)
    white = encode_latents(encoders.vae, torch.ones(1, 3, 32, 32)).bfloat16()
    assert torch.equal(encoded.latents[5:], white)


def test_pictures_of_weight_nought_are_left_out(tmp_path: Path, encoders: Encoders) -> None:
    members = good(3) | {"001.json": b'{"captions": ["x"], "weight": 0}'}
    shard = write_tar(tmp_path / "x.tar", dict(sorted(members.items())))
    assert [record.key for record in ShardEncoder(encoders, None).load(str(shard)).records] == ["000", "002"]


def test_record_readers_and_corpus_agree(tmp_path: Path, encoders: Encoders) -> None:
    data = make_data(tmp_path / "data")
    corpus = load_corpus(data, "train", encoders.vae, encoders.text_encoder, encoders.tokenizer, tmp_path / "cache")
    records, pictures = load_pictures(data, "train")
    assert corpus.records == records and len(records) == 16
    expected = encode_latents(encoders.vae, to_tensor(pictures)).bfloat16()
    assert torch.equal(corpus.latents, expected)
    texts = ["", "red disc", "a disc"]
    states = encode_texts(encoders.text_encoder, encoders.tokenizer, texts).bfloat16()
    rows = [0, *corpus.caption_rows[0]]
    torch.testing.assert_close(corpus.text_states[rows], states, rtol=0.01, atol=0.01)
    ids = encoders.tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    pooled = encoders.text_encoder(ids).pooler_output.bfloat16()
    torch.testing.assert_close(corpus.pooled[rows], pooled, rtol=0.01, atol=0.01)
    latents, text, chosen = corpus.batch(corpus.draw(8, np.random.default_rng(0)), np.random.default_rng(1), 0.5)
    assert latents.dtype == text.dtype == torch.float32 and 0 in chosen and chosen.count_nonzero()
    assert torch.equal(text, corpus.text_states[chosen].float())


def test_a_corpus_of_empty_shards_is_one_line(tmp_path: Path, encoders: Encoders) -> None:
    write_shard(tmp_path / "train-00000.tar", [])
    with pytest.raises(UserError, match="train-00000.tar and the shards beside it hold no usable picture"):
        load_corpus(tmp_path, "train", encoders.vae, encoders.text_encoder, encoders.tokenizer)


def test_draws_follow_the_weights(tmp_path: Path, encoders: Encoders) -> None:
    data = make_data(tmp_path / "data")
    corpus = load_corpus(data, "train", encoders.vae, encoders.text_encoder, encoders.tokenizer)
    corpus.records = [dataclasses.replace(record, weight=float(i % 2)) for i, record in enumerate(corpus.records)]
    drawn = corpus.draw(4000, np.random.default_rng(0))
    counts = np.bincount(drawn, minlength=16)
    assert counts[::2].sum() == 0 and counts[1::2].min() > 400


# ---- the networks -----------------------------------------------------------------------------------------------


def test_kl_latents_are_the_scaled_mode_and_decode_back(encoders: Encoders) -> None:
    vae = small_kl()
    pictures = torch.rand(2, 3, 16, 16) * 2 - 1
    latents = encode_latents(vae, pictures)
    with torch.no_grad():
        mean = vae.encode(pictures).latent_dist.mean
        torch.testing.assert_close(latents, mean * 0.25)
        torch.testing.assert_close(decode_latents(vae, latents), vae.decode(mean).sample)
    assert Encoders(vae, encoders.text_encoder, encoders.tokenizer, 16).latent_shape == tuple(latents.shape[1:])


def test_tiny_latents_are_scaled_too(encoders: Encoders) -> None:
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    latents = encode_latents(encoders.vae, pictures)
    assert tuple(latents.shape[1:]) == encoders.latent_shape
    scaled = make_vae(TEACHER)
    scaled.load_state_dict(encoders.vae.state_dict())
    scaled.register_to_config(scaling_factor=0.5)
    torch.testing.assert_close(encode_latents(scaled, pictures), latents / 2)
    torch.testing.assert_close(decode_latents(scaled, latents / 2), decode_latents(encoders.vae, latents))


def test_decoding_lets_gradients_through(encoders: Encoders) -> None:
    latents = torch.zeros(1, *encoders.latent_shape, requires_grad=True)
    decode_latents(encoders.vae, latents).sum().backward()
    assert latents.grad is not None and latents.grad.abs().sum() > 0


def test_a_size_that_the_autoencoder_cannot_take(encoders: Encoders) -> None:
    with pytest.raises(UserError, match="image_size=30.*multiple of 8"):
        dataclasses.replace(encoders, image_size=30)


def test_the_fingerprint_reads_little_of_a_large_network_and_notices_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=2, num_attention_heads=16
    )
    network = CLIPTextModel(config)
    read: list[int] = []
    double = torch.Tensor.double
    monkeypatch.setattr(torch.Tensor, "double", lambda values: read.append(values.numel()) or double(values))
    before = fingerprint(network)
    assert 0 < sum(read) < sum(weight.numel() for weight in network.parameters()) / 100
    assert fingerprint(network) == before
    with torch.no_grad():
        network.text_model.final_layer_norm.bias[3] = 1e-3
    assert fingerprint(network) != before
    kl = small_kl()
    marked = fingerprint(kl)
    kl.register_to_config(scaling_factor=0.5)
    assert fingerprint(kl) != marked


# ---- the cache --------------------------------------------------------------------------------------------------


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that grows with every batch that the autoencoder encodes."""
    calls: list[Any] = []

    def counted(vae: Any, pictures: torch.Tensor) -> torch.Tensor:
        calls.append(len(pictures))
        return encode_latents(vae, pictures)

    monkeypatch.setattr("train.data.corpus.encode_latents", counted)
    return calls


def test_a_shard_is_encoded_once(tmp_path: Path, encoders: Encoders, monkeypatch: pytest.MonkeyPatch) -> None:
    shard, calls = write_tar(tmp_path / "x.tar", good()), count_calls(monkeypatch)
    first = ShardEncoder(encoders, tmp_path / "cache").load(str(shard))
    again = ShardEncoder(encoders, tmp_path / "cache", bad_data="skip").load(str(shard))
    assert calls == [6]
    assert again.records == first.records and again.texts == first.texts
    for name in ("latents", "text_states", "pooled"):
        assert torch.equal(getattr(again, name), getattr(first, name))
    other = dataclasses.replace(encoders, image_size=24)
    assert ShardEncoder(other, tmp_path / "cache").load(str(shard)).latents.shape[-1] == 3
    write_tar(tmp_path / "x.tar", good(4))
    assert len(ShardEncoder(encoders, tmp_path / "cache").load(str(shard)).records) == 4
    assert calls == [6, 6, 4]


def test_text_states_are_left_out_where_asked(tmp_path: Path, encoders: Encoders) -> None:
    shard = write_tar(tmp_path / "x.tar", good())
    encoded = ShardEncoder(encoders, tmp_path / "cache", cache_text=False).load(str(shard))
    assert encoded.text_states is None and len(encoded.texts) == 6
    assert [path.name.split(".")[1] for path in tmp_path.glob("cache/*.safetensors")] == ["latents"]


@pytest.mark.parametrize("damage", ["truncated", "one byte", "other tensors", "empty"])
def test_a_damaged_cache_file_is_made_again(
    damage: str, tmp_path: Path, encoders: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, calls = write_tar(tmp_path / "x.tar", good()), count_calls(monkeypatch)
    first = ShardEncoder(encoders, tmp_path / "cache").load(str(shard))
    (path,) = tmp_path.glob("cache/*.latents.safetensors")
    data = path.read_bytes()
    if damage == "other tensors":
        save_file({name: tensor * 0 for name, tensor in load_file(path).items()}, path)
    else:
        changed = bytes([data[-1] ^ 1])
        path.write_bytes({"truncated": data[:-9], "one byte": data[:-1] + changed, "empty": b""}[damage])
    assert torch.equal(ShardEncoder(encoders, tmp_path / "cache").load(str(shard)).latents, first.latents)
    assert calls == [6, 6] and read_tensors(path) is not None


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path: Path, encoders: Encoders) -> None:
    shard = write_tar(tmp_path / "x.tar", good())
    (tmp_path / "cache").write_text("a file where the folder must go")
    with pytest.raises(UserError, match="cache.*cannot be written"):
        ShardEncoder(encoders, tmp_path / "cache").load(str(shard))


# ---- bad input --------------------------------------------------------------------------------------------------

NAN = np.full((32, 32, 3), np.nan, np.float32)
BAD = {
    "NaN": ({"bad.npy": npy(NAN), "bad.txt": b"x"}, "NaN or Inf pixels"),
    "Inf": ({"bad.npy": npy(np.full((32, 32, 3), np.inf, np.float16)), "bad.txt": b"x"}, "NaN or Inf pixels"),
    "range": ({"bad.npy": npy(np.full((32, 32, 3), 255.0)), "bad.txt": b"x"}, r"floats must lie in \[-1, 1\]"),
    "shape": ({"bad.npy": npy(np.zeros((3, 32, 32), np.uint8)), "bad.txt": b"x"}, r"\[height, width, 3\]"),
    "kind": ({"bad.npy": npy(np.zeros((32, 32, 3), np.int64)), "bad.txt": b"x"}, "use uint8"),
    "pickle": ({"bad.npy": npy(np.array([{}], object)), "bad.txt": b"x"}, "npy member cannot be read"),
    "picture": ({"bad.png": b"\x89PNG oops", "bad.txt": b"x"}, "not a readable picture"),
    "cut": ({"bad.png": png(picture("red", "disc"))[:90], "bad.txt": b"x"}, "not all of its pixels can be read"),
    "none": ({"bad.txt": b"x"}, "no picture"),
    "caption": ({"bad.png": png(picture("red", "disc"))}, "no caption"),
    "json": ({"bad.png": png(picture("red", "disc")), "bad.json": b"{"}, "json member cannot be read"),
    "weight": ({"bad.png": png(picture("red", "disc")), "bad.json": b'{"captions": ["x"], "weight": -1}'}, "weight"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_picture_is_named_or_left_out(
    case: str, tmp_path: Path, encoders: Encoders, caplog: pytest.LogCaptureFixture
) -> None:
    members, why = BAD[case]
    shard = write_tar(tmp_path / "train-00007.tar", good(2) | members | {"z.png": good(1)["000.png"], "z.txt": b"z"})
    with pytest.raises(UserError, match=f"^train-00007.tar, picture bad: .*{why}.*bad_data=skip") as caught:
        ShardEncoder(encoders, tmp_path / "cache").load(str(shard))
    assert "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING):
        encoded = ShardEncoder(encoders, tmp_path / "cache", bad_data="skip").load(str(shard))
    assert [record.key for record in encoded.records] == ["000", "001", "z"]
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("train-00007.tar: 1 bad pictures left out")
    with pytest.raises(UserError, match="picture bad"):  # the cache remembers what was left out
        ShardEncoder(encoders, tmp_path / "cache").load(str(shard))


def test_latents_that_are_not_finite_are_bad(tmp_path: Path, encoders: Encoders) -> None:
    shard = write_tar(tmp_path / "x.tar", good(3))
    vae = make_vae(TEACHER)
    with torch.no_grad():
        next(vae.parameters()).fill_(float("nan"))
    broken = dataclasses.replace(encoders, vae=vae)
    with pytest.raises(UserError, match="x.tar, picture 000: its latents have NaN or Inf"):
        ShardEncoder(broken, None).load(str(shard))
    assert ShardEncoder(broken, None, bad_data="skip").load(str(shard)).records == []


def damaged(shard: Path, how: str) -> None:
    """Damage a tar of six pictures, two members each, from its third picture on."""
    with tarfile.open(shard) as archive:
        third = archive.getmembers()[4].offset
    data = shard.read_bytes()
    shard.write_bytes(
        {
            "in a member": data[: third + 540],
            "at a border": data[:third],
            "in a header": data[: third + 100],
            "garbage inside": data[:third] + b"\xa5" * 512 + data[third + 512 :],
            "garbage": b"\xa5" * 4000,
            "empty": b"",
            "a web page": b"<html>not found</html>",
        }[how]
    )


@pytest.mark.parametrize(
    ("how", "read"),
    [
        ("in a member", 1),
        ("at a border", 1),
        ("in a header", 1),
        ("garbage inside", 1),
        ("garbage", 0),
        ("empty", 0),
        ("a web page", 0),
    ],
)
def test_a_damaged_shard_is_named_or_used_as_far_as_it_goes(
    how: str, read: int, tmp_path: Path, encoders: Encoders, caplog: pytest.LogCaptureFixture
) -> None:
    """The sample before the damage is given up as well: whether it was whole cannot be known."""
    shard = write_tar(tmp_path / "train-00003.tar", good())
    damaged(shard, how)
    with pytest.raises(UserError, match=f"^train-00003.tar cannot be read beyond its first {read} pictures .*prepare"):
        ShardEncoder(encoders, tmp_path / "cache").load(str(shard))
    assert not list(tmp_path.glob("cache/*.safetensors"))
    with caplog.at_level(logging.WARNING):
        encoded = ShardEncoder(encoders, tmp_path / "cache", bad_data="skip").load(str(shard))
    assert len(encoded.records) == read and len(caplog.messages) == 1
    assert not list(tmp_path.glob("cache/*.latents.safetensors"))  # what is missing may exist next time
    with pytest.raises(UserError, match="cannot be read beyond"):
        list(read_records(tmp_path, "train"))


def test_a_compressed_shard_is_read_and_its_truncation_noticed(tmp_path: Path) -> None:
    plain = write_tar(tmp_path / "x.tar", good())
    packed = tmp_path / "y.tar"
    with tarfile.open(packed, "w:gz") as archive, tarfile.open(plain) as members:
        for member in members:
            archive.addfile(member, members.extractfile(member))
    assert [sample["__key__"] for sample in read_shard(str(packed))] == [f"{i:03d}" for i in range(6)]
    packed.write_bytes(packed.read_bytes()[:-200])
    with pytest.raises(DamagedShard):
        list(read_shard(str(packed)))


def test_twice_the_same_member_is_damage(tmp_path: Path) -> None:
    shard = tmp_path / "x.tar"
    with tarfile.open(shard, "w") as archive:
        for _ in range(2):
            info = tarfile.TarInfo("a.txt")
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(DamagedShard, match="duplicate"):
        list(read_shard(str(shard)))


def test_shards_are_listed_from_folders_files_and_patterns(tmp_path: Path) -> None:
    for index in range(3):
        write_tar(tmp_path / f"train-{index:05d}.tar", good(1))
    folder = [str(tmp_path / f"train-{index:05d}.tar") for index in range(3)]
    assert list_shards(str(tmp_path), "train") == folder
    assert list_shards(f"{tmp_path}/train-{{00000..00002}}.tar", "train") == folder
    assert list_shards("https://host/train-{00..02}.tar::s3://b/x.tar", "train") == [
        *(f"https://host/train-{index:02d}.tar" for index in range(3)),
        "s3://b/x.tar",
    ]
    for data, why in (
        (str(tmp_path / "nowhere"), "no folder, file or URL"),
        (f"{tmp_path}/train-{{00000..00003}}.tar", "00003"),
        ("https://host/{a.tar", "braces"),
    ):
        with pytest.raises(UserError, match=why):
            list_shards(data, "train")
    with pytest.raises(UserError, match="no held_out-"):
        list_shards(str(tmp_path), "held_out")


def test_pictures_are_turned_upright_and_oversize_ones_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.new("RGB", (40, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    upright = picture_of({"__key__": "a", "jpg": buffer.getvalue()})
    assert isinstance(upright, Image.Image) and upright.size == (20, 40)
    monkeypatch.setattr("runtime.decoding.files.MAX_PIXELS", 700)
    with pytest.raises(ValueError, match="too large: 40x20"):
        picture_of({"__key__": "a", "png": png(image)})


def test_json_facts_survive_the_cache(tmp_path: Path, encoders: Encoders) -> None:
    facts = {"captions": ["fox, 3d style", "fox"], "style": "3d", "concept": "1F98A", "group": "food", "weight": 0.25}
    shard = write_tar(tmp_path / "x.tar", {"f.png": good(1)["000.png"], "f.json": json.dumps(facts).encode()})
    fresh, cached = (ShardEncoder(encoders, tmp_path / "cache").load(str(shard)).records[0] for _ in range(2))
    assert fresh == cached
    said = {name: facts[name] for name in ("style", "concept", "group")}
    assert dataclasses.asdict(cached) == {
        "key": "f",
        "captions": ("fox, 3d style", "fox"),
        "weight": 0.25,
        "facts": said,
    }


def test_a_cache_of_an_earlier_version_is_read(tmp_path: Path, encoders: Encoders) -> None:
    """Its records were rows of key, captions, style, concept, group and weight."""
    shard = write_tar(tmp_path / "x.tar", good(1))
    ShardEncoder(encoders, tmp_path / "cache").load(str(shard))
    (path,) = (tmp_path / "cache").glob("*.latents.safetensors")
    found = read_tensors(path)
    assert found is not None
    row = {"key": "000", "captions": ["x"], "style": "", "concept": "c", "group": "g", "weight": 0.5}
    write_tensors(path, found[0], {"records": [row], "bad": []})
    (record,) = ShardEncoder(encoders, tmp_path / "cache").load(str(shard)).records
    assert record == Record("000", ("x",), 0.5, {"style": "", "concept": "c", "group": "g"})


def test_pictures_beside_a_samples_own_are_told(caplog: pytest.LogCaptureFixture) -> None:
    reading = _Reading("train-00000.tar", skip=False)
    reading.beside({"__key__": "a", "png": b"", "mask.png": b"", "depth.png": b"", "txt": b""})
    reading.beside({"__key__": "b", "image.png": b"", "txt": b""})
    reading.tell()
    assert caplog.messages == ["train-00000.tar: 2 pictures beside a sample's own left out, the first a.mask.png"]


def test_pictures_of_different_sizes_are_named(tmp_path: Path) -> None:
    pairs = [(Record(name, (name,)), png(picture("red", "disc", size))) for name, size in (("a", 64), ("b", 32))]
    write_shard(tmp_path / "train-00000.tar", pairs)
    with pytest.raises(UserError, match=r"train have different sizes \(a is 64x64, b is 32x32\): import them with one"):
        load_pictures(tmp_path, "train")

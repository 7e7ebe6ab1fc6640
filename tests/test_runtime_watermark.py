"""The watermark: its bits come back, it is faint, and a picture without one is not marked."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import runtime
from runtime.bundle import open_bundle
from runtime.detect.__main__ import main
from runtime.watermark import THRESHOLD, code_of, embedded, read_mark
from runtime.watermark.carriers import ADDED, BLUENESS, drawn, waves
from runtime.watermark.embed import LEAST_PSNR_DB, psnr_db
from runtime.watermark.words import checksum, most_likely, signs_of
from tests.support.mistakes import refused

TINY = Path(__file__).parent / "golden" / "tiny_bundle"
CODE = 0xBEEF


def sticker(mode: str = "RGBA", side: int = 512) -> Image.Image:
    """Flat art: an orange disc with a blue bar, the rest transparent, or white in RGB."""
    made = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(made)
    draw.ellipse((side // 8, side // 8, side * 7 // 8, side * 7 // 8), fill=(250, 160, 30, 255))
    draw.rectangle((side // 4, side * 2 // 5, side * 3 // 4, side // 2), fill=(40, 90, 200, 255))
    if mode == "RGBA":
        return made
    return Image.alpha_composite(Image.new("RGBA", made.size, "white"), made).convert(mode)


def through(image: Image.Image, format: str, **options: int) -> Image.Image:
    """The picture out of a file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return Image.open(buffer)


@pytest.fixture(scope="module")
def marked() -> Image.Image:
    return embedded(sticker(), CODE)


def test_words_have_a_checksum_and_differ_in_16_signs() -> None:
    codes = [0, 1, 2, 255, 256, 0x8000, 0xBEEF, 0xFFFF]
    words = np.stack([signs_of(code) for code in codes])
    assert set(np.unique(words)) == {-1.0, 1.0}
    agreement = words @ words.T
    assert (np.abs(agreement - 64 * np.eye(len(codes))) <= 32).all()  # 64 - 2 * 16 at most
    assert checksum(0) != 0  # an empty message is none


@pytest.mark.parametrize("code", [0, 1, 0x1234, CODE, 0xFFFF])
def test_bits_come_back_from_noisy_signs(code: int) -> None:
    noisy = signs_of(code) + np.random.default_rng(code).normal(0, 0.7, 64).astype(np.float32)
    assert most_likely(signs_of(code)) == (code, 64.0)
    assert most_likely(noisy)[0] == code


def test_a_word_with_a_wrong_checksum_is_none() -> None:
    x = np.arange(64)
    assert most_likely((1 - 2 * (x & 1)).astype(np.float32))[0] == -1


def test_a_code_has_16_bits() -> None:
    for code in (-1, 65536):
        with pytest.raises(ValueError, match="0 to 65535"):
            embedded(sticker(side=64), code)


def test_waves_are_read_as_they_are_drawn_and_leave_the_brightness() -> None:
    heights = np.random.default_rng(0).normal(0, 3, (1024, 2)).astype(np.float32)
    found, busy = waves(drawn(heights))
    np.testing.assert_allclose(found, heights, atol=1e-4)
    assert busy.max() < 1e-4
    assert pytest.approx(1, abs=1e-5) == ADDED @ BLUENESS
    assert ADDED @ np.array([0.299, 0.587, 0.114]) == pytest.approx(0, abs=1e-4)


def test_a_marked_sticker_is_read_after_what_stickers_go_through(marked: Image.Image) -> None:
    half = marked.resize((256, 256), Image.Resampling.BICUBIC)
    changed = {
        "as written": through(marked, "png"),
        "jpeg": through(embedded(sticker("RGB"), CODE), "jpeg", quality=75),
        "webp": through(marked, "webp", quality=80),
        "half": half.resize((512, 512), Image.Resampling.BICUBIC),
        "half, not enlarged": half,
        "on black": Image.alpha_composite(Image.new("RGBA", marked.size, "black"), marked),
    }
    assert {name: read_mark(image).code for name, image in changed.items()} == dict.fromkeys(changed, CODE)


def test_the_mark_is_faint_and_only_where_something_is_seen(marked: Image.Image) -> None:
    before, after = np.asarray(sticker()), np.asarray(marked)
    visible = before[..., 3:] > 0
    np.testing.assert_array_equal(before[..., 3], after[..., 3])
    np.testing.assert_array_equal(before * ~visible, after * ~visible)
    assert min(psnr_db(before[..., :3], after[..., :3], visible.astype(np.float32))) >= LEAST_PSNR_DB
    assert np.abs(before.astype(int) - after).max() <= 12


@pytest.mark.parametrize("size", [(512, 512), (768, 512), (300, 500), (1024, 1024)])
def test_any_size_is_marked(size: tuple[int, int]) -> None:
    image = sticker("RGB").resize(size)
    assert read_mark(embedded(image, 7)).code == 7


@pytest.mark.parametrize("kind", ["sticker", "white", "black", "noise", "gradient", "gray"])
def test_a_clean_picture_is_not_marked(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 255, 512)[:, None], (512, 512, 3)).astype(np.uint8)
    pictures = {
        "sticker": sticker(),
        "white": Image.new("RGB", (512, 512), "white"),
        "black": Image.new("RGB", (512, 512)),
        "noise": Image.fromarray(noise),
        "gradient": Image.fromarray(np.ascontiguousarray(ramp)),
        "gray": Image.fromarray(noise[..., 0]),
    }
    reading = read_mark(pictures[kind])
    assert reading.code is None and reading.score < THRESHOLD


def test_tiny_and_empty_pictures() -> None:
    for size in ((1, 1), (1, 300), (3, 2)):
        assert read_mark(Image.new("RGB", size, "red")).code is None
        assert embedded(Image.new("RGBA", size, "red"), CODE).size == size
    assert read_mark(Image.new("RGB", (0, 0))).code is None
    assert embedded(Image.new("RGB", (0, 5)), CODE).size == (0, 5)
    clear = Image.new("RGBA", (512, 512), (9, 9, 9, 0))
    assert embedded(clear, CODE).tobytes() == clear.tobytes()
    with pytest.raises(ValueError, match="RGB or RGBA"):
        embedded(Image.new("L", (8, 8)), CODE)


def test_palettes_gray_and_16_bits_are_read(marked: Image.Image) -> None:
    assert read_mark(embedded(sticker("RGB"), CODE).quantize(256)).code == CODE
    assert read_mark(Image.fromarray(np.full((300, 300), 40_000, np.uint16))).code is None
    assert read_mark(marked.convert("L")).code is None  # the mark is in the colours


def test_the_code_is_the_bundles() -> None:
    tiny, shipped = (open_bundle(folder, verify=False).manifest for folder in (TINY, runtime_bundle()))
    assert 0 <= code_of(tiny) < 65536 and code_of(tiny) != code_of(shipped)


def runtime_bundle() -> Path:
    return Path(runtime.__file__).parent / "bundles" / "sticker-128"


def test_calls_mark_when_asked_and_not_below_512_pixels() -> None:
    with runtime.load(TINY) as pipe:
        code = code_of(pipe.manifest)
        plain, unasked, asked = (pipe.run("a fox", seed=1, watermark=w)[0] for w in (False, None, True))
        assert (plain.mark, unasked.mark, asked.mark) == (None, None, code)
        assert plain.image.tobytes() == unasked.image.tobytes() != asked.image.tobytes()
        floats = pipe("a fox", seed=1, watermark=True, output_type="np")[0]
        levels = np.floor(floats * np.float32(255) + np.float32(0.5))
        np.testing.assert_array_equal(levels, np.asarray(asked.image))
        with pytest.raises(ValueError, match="True, False or None"):
            pipe.run("a fox", watermark="yes")  # type: ignore[arg-type]
        asked.picture = np.zeros((3, 512, 512), np.float32)
        assert pipe._mark(asked, None) == code
        assert pipe._mark(asked, False) is None


def test_detect_says_whose(marked: Image.Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with runtime.load(TINY) as pipe:
        code = code_of(pipe.manifest)
    paths = [str(tmp_path / name) for name in ("ours.png", "other.webp", "plain.png")]
    embedded(sticker(), code).save(paths[0])
    marked.save(paths[1], quality=90)
    sticker().save(paths[2])
    assert main(paths) == 0
    ours, other, plain = capsys.readouterr().out.splitlines()
    assert ours.startswith(f"{paths[0]}: marked, {code:04x}, by a bundle that is not known")
    assert other.startswith(f"{paths[1]}: marked, beef")
    assert plain == f"{paths[2]}: not marked"
    assert main([*paths, "--bundle", str(TINY), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["images"]
    assert [row["marked"] for row in rows] == [True, True, False]
    assert len(rows[0]["bundles"]) == 1 and rows[0]["code"] == code and rows[2]["code"] is None


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n damaged"])
def test_detect_refuses_damaged_files_in_one_line(
    data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    assert str(path) in refused(capsys, main, path)

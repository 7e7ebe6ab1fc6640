"""Picture files: lossless where promised, the same metadata in every format, the same bytes every time."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import runtime
from runtime import image_files

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8))
SMOOTH = Image.radial_gradient("L").resize((40, 48)).convert("RGB")
TEXT = image_files.settings_text('狐 fox 🦊, "3d" style', 7, model="tiny", size=(48, 40))


@pytest.mark.parametrize("format", image_files.SUFFIXES)
def test_every_format_says_how_it_was_made(format: str) -> None:
    data = image_files.encode(SMOOTH, TEXT, format)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == format.upper() and image.size == (40, 48)
        xmp = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
    assert image_files.SOURCE_TYPE.encode() in xmp and xmp.startswith(b"<?xpacket")
    assert image_files.read_parameters(data) == ((48, 40), TEXT)
    assert image_files.read_parameters(image_files.encode(SMOOTH, "", format)) == ((48, 40), "")


@pytest.mark.parametrize("format", image_files.SUFFIXES)
def test_the_same_picture_is_the_same_file(format: str) -> None:
    assert image_files.encode(NOISE, TEXT, format) == image_files.encode(NOISE.copy(), TEXT, format)


@pytest.mark.parametrize("image", [NOISE, SMOOTH])
def test_png_is_lossless(image: Image.Image) -> None:
    assert Image.open(io.BytesIO(image_files.encode(image))).tobytes() == image.tobytes()


@pytest.mark.parametrize("format", ["webp", "jpeg"])
def test_quality(format: str) -> None:
    sizes = [len(image_files.encode(NOISE, TEXT, format, quality)) for quality in (10, 90, 100)]
    assert sizes == sorted(set(sizes)) and len(image_files.encode(NOISE, TEXT, format)) == sizes[1]
    near = np.asarray(Image.open(io.BytesIO(image_files.encode(SMOOTH, "", format, 95)))).astype(int)
    assert np.abs(near - np.asarray(SMOOTH)).mean() < 3


def test_the_text_is_a1111s() -> None:
    text = image_files.settings_text(
        "a fox", 7, model="m", size=(32, 40), steps=2, guidance_scale=3.0, negative_prompt="cats", strength=0.5
    )
    settings = "Steps: 2, Sampler: DDIM, CFG scale: 3.0, Seed: 7, Size: 40x32, Model: m, Denoising strength: 0.5"
    assert text == f"a fox\nNegative prompt: cats\n{settings}, Version: addkit {runtime.__version__}"


def test_the_exif_comment_is_where_others_look_for_it() -> None:
    with Image.open(io.BytesIO(image_files.encode(SMOOTH, "a fox", "jpeg"))) as image:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment == b"UNICODE\0" + "a fox".encode("utf-16-be")


@pytest.mark.parametrize(
    ("format", "quality", "says"),
    [
        ("gif", None, "choose png, webp, jpeg"),
        ("png", 90, "lossless"),
        ("webp", 0, "1 to 100"),
        ("jpeg", 101, "1 to 100"),
    ],
)
def test_what_is_refused(format: str, quality: int | None, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        image_files.encode(SMOOTH, TEXT, format, quality)


def test_a_prompt_too_long_for_jpeg() -> None:
    with pytest.raises(ValueError, match="choose png or webp"):
        image_files.encode(SMOOTH, "x" * 40_000, "jpeg")
    assert image_files.read_parameters(image_files.encode(SMOOTH, "x" * 40_000, "webp"))[1] == "x" * 40_000


@pytest.mark.parametrize("format", image_files.SUFFIXES)
def test_a_damaged_file_is_no_picture(format: str) -> None:
    data = image_files.encode(NOISE, TEXT, format)
    for broken in (b"", data[: len(data) // 2], data[:-1], data[:-20], b"X" + data[1:]):
        with pytest.raises(ValueError, match="damaged"):
            image_files.read_parameters(broken)

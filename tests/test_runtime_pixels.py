"""Pixels and PNG files."""

from __future__ import annotations

import io
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from runtime import image_files, pixels


@given(arrays(np.float32, array_shapes(max_dims=3), elements=st.floats(width=32)))
def test_any_value_becomes_a_level(x: np.ndarray) -> None:
    found = pixels.to_uint8(x)
    assert found.shape == x.shape and found.dtype == np.uint8
    unit = pixels.to_unit(x)
    assert ((unit >= 0) & (unit <= 1)).all() and (np.abs(unit * 255 - found) <= 0.5001).all()


def test_every_level_survives_the_round_trip() -> None:
    levels = np.arange(256, dtype=np.uint8)
    assert (pixels.to_uint8(pixels.from_uint8(levels)) == levels).all()


def test_the_exact_half_goes_up() -> None:
    assert pixels.to_uint8([0.0, -0.0, np.nan, np.inf, -np.inf]).tolist() == [128, 128, 0, 255, 0]


def test_images_are_height_by_width() -> None:
    chw = np.full((3, 2, 5), -1, np.float32)
    chw[0, 1, 4] = 1
    image = pixels.to_image(chw)
    assert image.size == (5, 2) and image.getpixel((4, 1)) == (255, 0, 0) and image.getpixel((1, 1)) == (0, 0, 0)
    assert (pixels.from_image(image, (2, 5)) == chw).all()


def test_an_image_is_cut_about_its_middle() -> None:
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    found = pixels.to_uint8(pixels.from_image(image, (10, 10)))
    assert (found[:, :, 3:-3].reshape(3, -1).T == [0, 0, 255]).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16", "LA", "F"])
def test_any_mode_of_image(mode: str) -> None:
    found = pixels.from_image(Image.new(mode, (8, 8)), (4, 4))
    assert found.shape == (3, 4, 4) and np.isfinite(found).all()


def test_sixteen_bits_of_gray_are_scaled_to_eight() -> None:
    image = Image.fromarray(np.array([[0, 257, 0x8080, 0xFFFF]], np.uint16))
    assert image.mode == "I;16"
    assert pixels.to_uint8(pixels.from_image(image, (1, 4)))[:, 0].tolist() == [[0, 1, 128, 255]] * 3


@pytest.mark.parametrize("empty", [Image.new("RGB", (0, 4)), np.zeros((0, 4, 3)), np.zeros((4, 0, 3))])
def test_an_image_without_pixels_is_refused(empty: object) -> None:
    with pytest.raises(ValueError, match="empty"):
        pixels.from_image(empty, (4, 4))


def test_transparency_becomes_white() -> None:
    assert (pixels.from_image(Image.new("RGBA", (4, 4), (9, 9, 9, 0)), (4, 4)) == 1).all()


def test_the_rotation_tag_is_obeyed() -> None:
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate a quarter turn clockwise
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    found = pixels.to_uint8(pixels.from_image(Image.open(buffer), (4, 2)))
    assert found[0, 0, 1] == 255 and found.sum() == 3 * 255


def test_arrays_are_images_too() -> None:
    unit = np.random.RandomState(0).rand(4, 6, 3)
    levels = np.floor(unit * 255 + 0.5).astype(np.uint8)
    assert (pixels.from_image(unit, (4, 6)) == pixels.from_image(levels, (4, 6))).all()


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4)), np.zeros((4, 4, 4)), np.full((4, 4, 3), 2.0), np.zeros((4, 4, 3), int), "x", None],
)
def test_other_things_are_no_images(wrong: object) -> None:
    with pytest.raises(ValueError, match="image"):
        pixels.from_image(wrong, (4, 4))


def test_the_parameters_text() -> None:
    text = image_files.parameters_text("a fox\nred", "cats", Steps=1, **{"CFG scale": 0.0})
    assert text == "a fox\nred\nNegative prompt: cats\nSteps: 1, CFG scale: 0.0"
    assert image_files.parameters_text("a fox", Seed=7) == "a fox\nSeed: 7"


@pytest.mark.parametrize("prompt", ["a fox", "une étoile", "狐 🦊", "a\nb", "x" * 10_000])
def test_a_png_holds_its_parameters_and_its_mark(prompt: str) -> None:
    image = Image.effect_noise((16, 8), 50).convert("RGB")
    data = image_files.png_bytes(image, prompt)
    read = Image.open(io.BytesIO(data))
    assert read.tobytes() == image.tobytes() and read.size == (16, 8)
    assert read.info["parameters"] == prompt
    packet = ElementTree.fromstring(read.info["XML:com.adobe.xmp"].strip().encode())
    (description,) = packet.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    kind = description.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")
    assert kind == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def test_chunks_come_before_the_pixels_and_hold_no_date() -> None:
    data = image_files.png_bytes(Image.new("RGB", (4, 4)), "a fox")
    kinds, at = [], 8
    while at < len(data):
        size, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        assert zlib.crc32(data[at + 4 : at + 8 + size]) == int.from_bytes(data[at + 8 + size : at + 12 + size])
        kinds.append(kind)
        at += 12 + size
    assert kinds == [b"IHDR", b"tEXt", b"iTXt", b"IDAT", b"IEND"]
    assert data == image_files.png_bytes(Image.new("RGB", (4, 4)), "a fox")

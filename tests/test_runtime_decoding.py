"""One decoder for every command: mode, container, depth, orientation, profile, each with its right colours at named
points, read by generation from a picture, import, shards in training and in evaluation, and interpolation."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from runtime.decoding import MAX_PIXELS, BadPicture, decoded, on_white, opened
from runtime.image_files import read_picture
from runtime.interpolate.inputs import read_source
from runtime.pixels import from_image, to_uint8
from tests.support.pictures import huge_png_header
from train.data.encoders import fit_picture
from train.data.folder import read_folder
from train.data.pictures import decode
from train.data.shards import Record, picture_of, read_records, write_shard

SIDE = 32
RED, GREEN, BLUE, WHITE, GRAY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (128, 128, 128)
CORNERS = (RED, GREEN, BLUE, WHITE)  # upper left, upper right, lower left, lower right


def quarters() -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE))
    for place, colour in enumerate(CORNERS):
        image.paste(colour, (place % 2 * SIDE // 2, place // 2 * SIDE // 2, SIDE, SIDE if place > 1 else SIDE // 2))
    return image


def saved(image: Image.Image, container: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, container, **options)
    return buffer.getvalue()


def turned(orientation: int, container: str = "JPEG", **options: Any) -> bytes:
    """The quarters as a camera stores them whose orientation tag says how they are to be turned."""
    stored = {
        1: quarters(),
        2: quarters().transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: quarters().transpose(Image.Transpose.ROTATE_180),
        4: quarters().transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: quarters().transpose(Image.Transpose.TRANSPOSE),
        6: quarters().transpose(Image.Transpose.ROTATE_90),
        7: quarters().transpose(Image.Transpose.TRANSVERSE),
        8: quarters().transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(stored, container, exif=exif, **options)


def clear(mode: str) -> Image.Image:
    """The quarters whose upper left is transparent black."""
    image = quarters().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, SIDE // 2, SIDE // 2))
    if mode == "P":
        flat = image.convert("RGB").quantize(8)
        flat.info["transparency"] = flat.getpixel((0, 0))
        return flat
    return image.convert(mode)


def gray(values: tuple[int, ...], kind: type) -> Image.Image:
    """Four gray quarters."""
    pixels: np.ndarray = np.zeros((SIDE, SIDE), kind)
    half = SIDE // 2
    pixels[:half, :half], pixels[:half, half:], pixels[half:, :half], pixels[half:, half:] = values
    return Image.fromarray(pixels)


def in_profile(colours: Callable[[], Any], image: Image.Image) -> tuple[Image.Image, bytes]:
    """The picture in another profile's numbers, and the profile."""
    profile = ImageCms.ImageCmsProfile(colours())
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    made = ImageCms.profileToProfile(image, srgb, profile, outputMode="LAB")
    assert made is not None
    return made, profile.tobytes()


LOSSLESS, LOSSY = 0, 12  # levels of 255
NO_RED = (WHITE, GREEN, BLUE, WHITE)  # the transparent quarter is white
STEPS = ((0,) * 3, (85,) * 3, (170,) * 3, WHITE)
FILES: dict[str, tuple[bytes, tuple[tuple[int, ...], ...], int]] = {
    **{f"png {mode}": (saved(quarters().convert(mode), "PNG"), CORNERS, LOSSLESS) for mode in ("RGB", "RGBA", "P")},
    **{f"jpeg turned {way}": (turned(way, quality=95, subsampling=0), CORNERS, LOSSY) for way in range(1, 9)},
    **{f"png turned {way}": (turned(way, "PNG"), CORNERS, LOSSLESS) for way in (3, 6)},
    **{f"webp turned {way}": (turned(way, "WEBP", lossless=True), CORNERS, LOSSLESS) for way in (3, 6)},
    **{f"tiff turned {way}": (turned(way, "TIFF"), CORNERS, LOSSLESS) for way in (3, 6)},
    "jpeg cmyk": (saved(quarters().convert("CMYK"), "JPEG", quality=95), CORNERS, 25),
    "tiff cmyk": (saved(quarters().convert("CMYK"), "TIFF"), CORNERS, LOSSLESS),
    "webp": (saved(quarters(), "WEBP", lossless=True), CORNERS, LOSSLESS),
    "avif": (saved(quarters(), "AVIF", quality=95, subsampling="4:4:4"), CORNERS, LOSSY),
    "gif": (saved(quarters(), "GIF"), CORNERS, LOSSLESS),
    "bmp": (saved(quarters(), "BMP"), CORNERS, LOSSLESS),
    "ppm": (saved(quarters(), "PPM"), CORNERS, LOSSLESS),
    "tga": (saved(quarters(), "TGA"), CORNERS, LOSSLESS),
    "jpeg 2000": (saved(quarters(), "JPEG2000"), CORNERS, LOSSLESS),
    "tiff deflate": (saved(quarters(), "TIFF", compression="tiff_adobe_deflate"), CORNERS, LOSSLESS),
    **{f"{name} with alpha": (saved(clear("RGBA"), name), NO_RED, LOSSLESS) for name in ("PNG", "TIFF", "TGA")},
    "webp with alpha": (saved(clear("RGBA"), "WEBP", lossless=True), NO_RED, LOSSLESS),
    "gif with alpha": (saved(clear("RGBA"), "GIF"), NO_RED, LOSSLESS),
    "png P with alpha": (saved(clear("P"), "PNG"), NO_RED, LOSSLESS),
    "png one bit": (saved(gray((0, 0, 255, 255), np.uint8).convert("1"), "PNG"), (STEPS[0],) * 2 + (WHITE,) * 2, 0),
    **{f"{name} L": (saved(gray((0, 85, 170, 255), np.uint8), name), STEPS, LOSSLESS) for name in ("PNG", "TIFF")},
    **{
        f"{name} 16 bits": (saved(gray((0, 85 * 257, 170 * 257, 65535), np.uint16), name), STEPS, LOSSLESS)
        for name in ("PNG", "TIFF", "PPM")
    },
    "tiff floats": (saved(gray((0, 1, 1, 1), np.float32), "TIFF"), (STEPS[0], *(WHITE,) * 3), LOSSLESS),
    "png LA": (saved(gray((0, 85, 170, 255), np.uint8).convert("LA"), "PNG"), STEPS, LOSSLESS),
}
LAB, LAB_PROFILE = in_profile(lambda: ImageCms.createProfile("LAB"), quarters())
FILES["tiff lab with its profile"] = (saved(LAB, "TIFF", icc_profile=LAB_PROFILE), CORNERS, 25)
FILES["png with a damaged profile"] = (saved(quarters(), "PNG", icc_profile=b"not a profile"), CORNERS, LOSSLESS)

every_file = pytest.mark.parametrize("name", FILES)


def check(pixels: np.ndarray, name: str) -> None:
    """The middle of each quarter has its colour."""
    expected, tolerance = FILES[name][1:]
    quarter = pixels.shape[0] // 4
    for place, colour in enumerate(expected):
        found = pixels[(1 + place // 2 * 2) * quarter, (1 + place % 2 * 2) * quarter]
        assert np.abs(found.astype(int) - colour).max() <= tolerance, (name, place, found, colour)


def test_the_table_is_long() -> None:
    assert len(FILES) >= 40


@every_file
def test_its_colours_everywhere(name: str, tmp_path: Path) -> None:
    data = FILES[name][0]
    check(np.asarray(on_white(opened(data))), name)
    (tmp_path / "picture").write_bytes(data)
    start, _ = read_picture(tmp_path / "picture")  # --image
    check(to_uint8(from_image(start, (SIDE, SIDE))).transpose(1, 2, 0), name)
    between = read_source(str(tmp_path / "picture")).image  # interpolation
    check(to_uint8(from_image(between, (SIDE, SIDE))).transpose(1, 2, 0), name)
    check(decode(data, SIDE), name)  # import
    trained = fit_picture(picture_of({"__key__": "a", "png": data}), SIDE)  # training on shards
    check(to_uint8(trained).transpose(1, 2, 0), name)


@every_file
def test_training_and_evaluation_see_the_same(name: str, tmp_path: Path) -> None:
    data = FILES[name][0]
    write_shard(tmp_path / "train-00000.tar", [(Record("a", ("a",)), data)])
    (_, evaluated), *_ = read_records(tmp_path, "train")
    trained = to_uint8(fit_picture(picture_of({"__key__": "a", "png": data}), SIDE)).transpose(1, 2, 0)
    assert (evaluated == trained).all()


def test_import_names_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(saved(Image.fromarray(np.full((SIDE, SIDE), 70000, np.int32)), "TIFF"))
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.tif", "text": "a"}))
    (source,) = read_folder(tmp_path).sources
    with pytest.raises(BadPicture, match="32-bit integers"):
        source.draw(SIDE)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (b"\0\0\0\x18ftypheic" + bytes(64), "a HEIC picture: `pip install pillow-heif`, or convert it to JPEG"),
        (b"\0\0\0\x18ftypmif1" + bytes(64), "a HEIC picture"),
        (b"\xff\x0a" + bytes(64), "a JPEG XL picture: convert"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(64), "a JPEG XL picture"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing: export it as PNG"),
        (b"<!DOCTYPE html><HTML><body>404", "a web page, not a picture"),
        (b"%PDF-1.7\n", "a PDF document, not a picture"),
        (b"GIF89a", "not a readable picture, or it is damaged"),
        (saved(quarters().resize((400, 400)), "JPEG", quality=95)[:-900], "not all of its pixels can be read"),
        (saved(Image.fromarray(np.full((4, 4), 7, np.int32)), "TIFF"), "32-bit integers.*save 8 or 16 bits"),
        (saved(Image.fromarray(np.full((4, 4), 1.5, np.float32)), "TIFF"), "floats beyond 0.*save 8 or 16 bits"),
        (saved(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), "floats beyond 0"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadPicture, match=said) as caught:
        decoded(data)
    assert "\n" not in str(caught.value)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match=f"cannot read image .*a.png: .*{said}"):
        read_picture(tmp_path / "a.png")


def test_a_header_that_claims_too_much_is_not_believed() -> None:
    side = 11_000
    assert side * side > MAX_PIXELS
    with pytest.raises(BadPicture, match=f"too large: {side}x{side}"):
        decoded(huge_png_header(side, side))


def test_half_transparent_is_half_white() -> None:
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert on_white(half).getpixel((0, 0)) == (127, 127, 127)
    assert on_white(half.convert("LA")).getpixel((0, 0)) == (127, 127, 127)

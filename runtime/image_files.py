"""A picture plus how it was made -> the bytes of a PNG, WebP or JPEG file; the one place that knows their metadata.

Each file carries the `parameters` text of A1111's web UI and an XMP packet with IPTC's digital source type, which
says that a model made the picture. The bytes depend on the arguments alone (no date): the same seed, the same file.
"""

from __future__ import annotations

import io
import json
import zlib
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from runtime.decoding import BadPicture, opened, upright

SUFFIXES = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
DEFAULT_QUALITY = 90
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" Iptc4xmpExt:DigitalSourceType="{source}" xmp:CreatorTool="ADDKit"/>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""
_EXIF_IFD, _USER_COMMENT, _ORIENTATION = 0x8769, 0x9286, 0x0112
_ON_ITS_SIDE = 5  # this orientation and those above swap width and height
_UNICODE = b"UNICODE\0"  # EXIF 2.3, UserComment's character code; the text after it is UTF-16, as A1111 writes it
_EXIF_ROOM = 65_533  # bytes in a JPEG segment without its length field


def parameters_text(prompt: str, negative_prompt: str = "", **settings: Any) -> str:
    """The `parameters` text of A1111's web UI: prompt, negative prompt, then "Steps: 1, Seed: 7, ..."."""
    lines = [prompt, f"Negative prompt: {negative_prompt}"] if negative_prompt else [prompt]
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in settings.items())])


def settings_text(
    prompt: str,
    seed: int,
    *,
    model: str,
    size: tuple[int, int],
    steps: int = 1,
    guidance_scale: float = 0.0,
    negative_prompt: str = "",
    strength: float | None = None,
    typed: str | None = None,
    plain: bool = False,
) -> str:
    """The `parameters` text of one of our pictures.

    size: height, width. strength: None without a start picture. typed: the prompt as it was typed, where it was
    completed. plain: it was not, although the bundle has a table of variation.
    """
    from runtime import __version__

    settings = {"Steps": steps, "Sampler": "DDIM", "CFG scale": guidance_scale, "Seed": seed}
    settings |= {"Size": f"{size[1]}x{size[0]}", "Model": model}
    if strength is not None:
        settings["Denoising strength"] = strength
    if typed is not None:  # quoted as A1111 quotes a value with commas
        settings["Typed prompt"] = json.dumps(typed, ensure_ascii=False)
    if plain:
        settings["Variation"] = "none"
    settings["Version"] = f"addkit {__version__}"
    return parameters_text(prompt, negative_prompt, **settings)


def encode(image: Image.Image, parameters: str = "", format: str = "png", quality: int | None = None) -> bytes:
    """The file of a picture: `format` is a key of SUFFIXES, `quality` 1 to 100 for WebP and JPEG (default 90).

    PNG is lossless. Raises ValueError on another format or quality, and on a text too long for a JPEG file.
    """
    check_format(format, quality)
    if format == "png":
        return png_bytes(image, parameters)
    options: dict[str, Any] = {"quality": DEFAULT_QUALITY if quality is None else quality}
    if format == "jpeg":  # full colour resolution: halved, the edges of saturated shapes bleed
        options |= {"subsampling": "4:4:4", "optimize": True}
    buffer = io.BytesIO()
    image.save(buffer, format, **metadata(parameters, format), **options)
    return buffer.getvalue()


def metadata(parameters: str, format: str) -> dict[str, Any]:
    """What Pillow's `save` takes to put the `parameters` text, where there is one, and the mark into a file."""
    packet = _XMP.format(source=SOURCE_TYPE)
    if format != "png":
        exif = {"exif": _exif(parameters, format)} if parameters else {}
        return {"xmp": packet.encode("utf-8"), **exif}
    info = PngImagePlugin.PngInfo()
    if parameters:
        info.add_text("parameters", parameters)
    info.add_itxt("XML:com.adobe.xmp", packet)
    return {"pnginfo": info}


def check_format(format: str, quality: int | None = None) -> None:
    """ValueError unless `encode` takes the two."""
    if format not in SUFFIXES:
        raise ValueError(f"there is no format {format!r}: choose {', '.join(SUFFIXES)}")
    if quality is not None and format == "png":
        raise ValueError("PNG is lossless and has no quality: leave it out, or choose webp or jpeg")
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"quality must be 1 to 100, not {quality}")


def png_bytes(image: Image.Image, parameters: str = "") -> bytes:
    """The PNG file of a picture.

    Matches are sought at distance one only (zlib's Z_RLE): PNG's filters leave little else to find. A picture takes
    a fifth to a third of the time of Pillow's default, the file is as small within 2 % (docs/scale.md).
    """
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_type=zlib.Z_RLE, **metadata(parameters, "png"))
    return buffer.getvalue()


def read_picture(path: str | Path) -> tuple[Image.Image, bytes]:
    """A decoded picture and its file's bytes; ValueError with one line when it is not a picture."""
    try:
        data = Path(path).read_bytes()
        image = opened(data)
        upright(image)  # what cannot be converted is said with the file's name
        return image, data
    except FileNotFoundError as error:
        raise ValueError(f"cannot read image {path}: there is no such file") from error
    except (OSError, BadPicture) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"cannot read image {path}: {reason}") from error


def used_of(path: str | Path, image: Image.Image, size: tuple[int, int]) -> list[str]:
    """In words what is not used of a picture that is brought to (height, width); nothing where all of it is."""
    turned = image.getexif().get(_ORIENTATION, 1) >= _ON_ITS_SIDE
    width, height = (image.height, image.width) if turned else image.size
    told = []
    if (height, width) != size:
        told.append(f"{path} ({width}x{height}) is scaled and center-cropped to {size[1]}x{size[0]}")
    if (frames := getattr(image, "n_frames", 1)) > 1:
        told.append(f"{path} has {frames} pictures, of which the first is used")
    return told


def read_parameters(data: bytes) -> tuple[tuple[int, int], str]:
    """(height, width) and the `parameters` text of a file's bytes; "" where it has none.

    Decodes the whole picture; raises ValueError when that fails, or when the file's end is missing, which decoders
    forgive.
    """
    try:
        if not is_whole(data):
            raise ValueError("the end is missing")
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT, b"")
            text = image.info.get("parameters")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError("it is not a readable picture, or it is damaged") from error
    if text is None and isinstance(comment, bytes) and comment.startswith(_UNICODE):
        text = comment[len(_UNICODE) :].decode("utf-16-be", "replace")
    return (image.height, image.width), str(text or "")


def is_whole(data: bytes) -> bool:
    """Whether the file of a WebP, GIF, PNG or JPEG ends where its format says."""
    if data.startswith(b"GIF8"):
        return data.rstrip(b"\0").endswith(b";")
    if data.startswith(b"RIFF"):
        return int.from_bytes(data[4:8], "little") + 8 == len(data)
    return data.endswith((b"\0\0\0\0IEND\xaeB`\x82", b"\xff\xd9"))


def _exif(parameters: str, format: str) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = _UNICODE + parameters.encode("utf-16-be")
    data = exif.tobytes()
    if format == "jpeg" and len(data) > _EXIF_ROOM:
        raise ValueError("the prompt is too long for a JPEG file's metadata: choose png or webp")
    return data

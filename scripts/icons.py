"""Draws the app's icons and splash screens: `python -m scripts.icons`.

The emblem is a fox as a sticker: drawn here as a vector picture, because the model's own pictures of 128 pixels are too
soft for 1024. Writes mobile_demo/web/public/icons and the icons of the native projects in mobile_demo/shell.
Needs resvg-py, which `.[train]` brings.
"""

from __future__ import annotations

import io
from pathlib import Path

import resvg_py
from PIL import Image

from runtime.files import whole_file, write_text

ROOT = Path(__file__).resolve().parent.parent
WEB = ROOT / "mobile_demo" / "web" / "public" / "icons"
ANDROID = ROOT / "mobile_demo" / "shell" / "android" / "app" / "src" / "main" / "res"
IOS = ROOT / "mobile_demo" / "shell" / "ios" / "App" / "App" / "Assets.xcassets"
DENSITIES = {"mdpi": 1.0, "hdpi": 1.5, "xhdpi": 2.0, "xxhdpi": 3.0, "xxxhdpi": 4.0}  # pixels per dp

GROUND = (
    '<linearGradient id="ground" x1="0" y1="0" x2="0" y2="1"><stop stop-color="#2FA58A"/>'
    '<stop offset="1" stop-color="#0E5A4C"/></linearGradient>'
)
# The emblem, border and all, fits a circle of radius 228 about the middle (256, 256) of a square of 512.
# Cheeks and ears reach beyond the head, which clips them: edges that coincide would show a line between them.
HEAD = (
    "M256 424C196 404 122 352 96 284C104 226 112 160 128 108Q136 92 152 104C176 122 198 144 214 168"
    "Q256 156 298 168C314 144 336 122 360 104Q376 92 384 108C400 160 408 226 416 284C390 352 316 404 256 424Z"
)
CHEEK = "M256 460H40V288L96 284C150 278 204 296 228 344Q240 372 256 380Z"
EAR = "M80 60H190L201 151C174 164 148 188 117 174L80 150Z"
EYE = '<ellipse cx="186" cy="262" rx="19" ry="24"/>'
SHINE = '<circle cx="193" cy="253" r="7"/><circle cx="333" cy="253" r="7"/>'
NOSE = "M226 374Q256 358 286 374C284 396 268 410 256 412C244 410 228 396 226 374Z"


def mirrored(shape: str) -> str:
    """A shape and its mirror image about the middle."""
    return f'{shape}<g transform="matrix(-1 0 0 1 512 0)">{shape}</g>'


def emblem() -> str:
    """The fox with its white border."""
    border = f'<path d="{HEAD}" fill="#FFF" stroke="#FFF" stroke-width="52" stroke-linejoin="round"/>'
    face = mirrored(f'<path d="{EAR}" fill="#26323A"/><path d="{CHEEK}" fill="#FFF3E4"/><g fill="#26323A">{EYE}</g>')
    return (
        f'<g transform="translate(0 10)" opacity=".22">{border.replace("#FFF", "#032A22")}</g>{border}'
        f'<g clip-path="url(#head)"><rect width="512" height="512" fill="#F57C22"/>{face}</g>'
        f'<g fill="#FFF">{SHINE}</g><path d="{NOSE}" fill="#26323A"/>'
    )


def silhouette() -> str:
    """The fox in one colour, its eyes, nose and cheeks' edges cut out: what Android tints."""
    lines = mirrored(f'<path d="{CHEEK}" fill="none" stroke="#000" stroke-width="18"/>{EYE}')
    return (
        f'<mask id="lines"><rect width="512" height="512" fill="#FFF"/>{lines}<path d="{NOSE}"/></mask>'
        f'<path d="{HEAD}" fill="#FFF" mask="url(#lines)"/>'
    )


def svg(inner: str, scale: float = 1.0, ground: str = "", side: int = 512) -> str:
    """A square with `inner`, of 512 by 512, scaled in its middle; `ground` goes behind it."""
    margin = (side - 512 * scale) / 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}"><defs>{GROUND}'
        f'<clipPath id="head"><path d="{HEAD}"/></clipPath></defs>{ground}'
        f'<g transform="translate({margin:g} {margin:g}) scale({scale:g})">{inner}</g></svg>'
    )


FULL = '<rect width="512" height="512" fill="url(#ground)"/>'
TILE = '<rect width="512" height="512" rx="116" fill="url(#ground)"/>'
ROUND = '<circle cx="256" cy="256" r="256" fill="url(#ground)"/>'


def write_png(path: Path, picture: str, size: int, opaque: bool = False) -> None:
    """Renders a square picture; `opaque` drops the alpha channel, which Apple refuses in an app's icon."""
    data = bytes(resvg_py.svg_to_bytes(svg_string=picture, width=size, height=size, skip_system_fonts=True))
    image = Image.open(io.BytesIO(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        (image.convert("RGB") if opaque else image).save(partial, optimize=True)


def write_web() -> None:
    """The icons that the manifest and the page name. A maskable icon keeps its subject within 80 % of its side."""
    WEB.mkdir(parents=True, exist_ok=True)
    write_text(WEB / "favicon.svg", svg(emblem(), 1.06, TILE) + "\n")
    write_png(WEB / "favicon-32.png", svg(emblem(), 1.06, TILE), 32)
    write_png(WEB / "icon-192.png", svg(emblem(), 1.0, TILE), 192)
    write_png(WEB / "icon-512.png", svg(emblem(), 1.0, TILE), 512)
    write_png(WEB / "maskable-512.png", svg(emblem(), 0.88, FULL), 512, opaque=True)
    write_png(WEB / "apple-touch-icon-180.png", svg(emblem(), 1.0, FULL), 180, opaque=True)


def write_android() -> None:
    """Launcher icons in every density: adaptive ones of 108 dp, of which 66 are always visible, and API 24 and 25's."""
    for density, scale in DENSITIES.items():
        folder = ANDROID / f"mipmap-{density}"
        write_png(folder / "ic_launcher.png", svg(emblem(), 1.0, TILE), round(48 * scale))
        write_png(folder / "ic_launcher_round.png", svg(emblem(), 0.92, ROUND), round(48 * scale))
        write_png(folder / "ic_launcher_foreground.png", svg(emblem(), 0.68), round(108 * scale))
        write_png(folder / "ic_launcher_monochrome.png", svg(silhouette(), 0.72), round(108 * scale))
    write_png(ANDROID / "drawable-xxhdpi" / "splash_emblem.png", svg(emblem()), 3 * 160)


def write_ios() -> None:
    """The one icon that Xcode scales, and the splash screen, of which a phone shows the middle."""
    write_png(IOS / "AppIcon.appiconset" / "AppIcon-512@2x.png", svg(emblem(), 1.0, FULL), 1024, opaque=True)
    side = 2732
    splash = svg(emblem(), 0.9, f'<rect width="{side}" height="{side}" fill="#0E5A4C"/>', side)
    for name in ("splash-2732x2732.png", "splash-2732x2732-1.png", "splash-2732x2732-2.png"):
        write_png(IOS / "Splash.imageset" / name, splash, side, opaque=True)


def main() -> None:
    write_web()
    write_android()
    write_ios()
    for folder in (WEB, ANDROID, IOS):
        files = list(folder.rglob("*.png"))
        print(f"{folder.relative_to(ROOT)}: {len(files)} pictures, {sum(f.stat().st_size for f in files) // 1000} kB")


if __name__ == "__main__":
    main()

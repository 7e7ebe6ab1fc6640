"""In-between frames by one-step generation: `python -m runtime.interpolate a.png b.png --frames 8 --out morph`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.command import Parser, command_parser, print_result, run_command

EXAMPLES = """examples:
  python -m runtime.interpolate fox.png pizza.png --frames 8 --out morph
  python -m runtime.interpolate a.jpg b.jpg --prompt "a red fox" --prompt-b "a pizza" --out morph
  python -m runtime.interpolate fox.png pizza.png --strength 1 --animation png --fps 24 --out morph --json
  python -m runtime.interpolate clip.mp4 --frames 1 --out double

Pictures of another size than the bundle's are scaled and center-cropped. DIR gets frame-0000.png (A),
frame-0001.png ... (N between), the last (B), animation.webp and interpolation.json; of a video video.mp4 and
interpolation.json. Without --prompt, a picture made by this program knows its own; a nameless picture has none.
Without --strength it is the highest at which the model still knows both pictures; for a video the lowest.
"""


def parser() -> Parser:
    """The arguments; names and meaning as in `python -m runtime`."""
    made = command_parser(
        "runtime.interpolate", "Frames between two pictures, or between the neighbours of a video.", EXAMPLES
    )
    add = made.add_argument
    add("inputs", nargs="+", metavar="A.png B.png | CLIP", help="two pictures, or one video")
    add("--out", required=True, metavar="DIR", help="a folder to make; it appears when all is done")
    add(
        "--frames",
        type=int,
        metavar="N",
        help="frames between: 1 to 500, default 8; between video frames 1 to 63, default 1",
    )
    add("--prompt", metavar="TEXT", help="what the pictures, or the video, show")
    add("--prompt-b", metavar="TEXT", help="what B shows, if something else")
    add("--seed", type=int, default=0, metavar="N", help="of the noise; default 0")
    add("--seed-b", type=int, metavar="N", help="of the noise at B; default: the same throughout")
    add("--strength", type=float, metavar="S", help="above 0 (nearly a cross-fade) to 1 (the prompts' pictures)")
    add("--timing", choices=("even", "uniform"), help="even (default): frames differ alike; uniform: equal weights")
    add("--animation", choices=("webp", "png", "none"), help="beside the frames; default webp, png is an APNG")
    add("--fps", type=float, metavar="F", help="frames per second of the animation; default 12")
    add("--damaged", action="store_true", help="go on with the frames that can be read of a damaged video")
    add("--overwrite", action="store_true", help="replace what an earlier interpolation left in DIR")
    add("--bundle", metavar="DIR", help="a bundle's folder, or a shipped one's name; default sticker-128")
    add("--provider", default="auto", metavar="P", help="auto (the default), cpu, cuda, coreml or openvino")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 2 for an error the user can fix, 130 when interrupted."""
    return run_command(parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Makes the frames and prints the files' paths, or the report."""
    report, written = run(args)
    print_result(json.dumps(report) if args.json else "\n".join(str(Path(args.out, name)) for name in written))


def run(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Makes the folder; returns the report for `--json` and the files to name. Refuses mistakes before any work."""
    from runtime.interpolate.folder import check_folder

    if len(args.inputs) > 2:
        raise ValueError(f"two pictures or one video are needed, not {len(args.inputs)} files")
    check_folder(args.out, args.overwrite)
    if len(args.inputs) == 2:
        if args.damaged:
            raise ValueError("--damaged is for a video, not for two pictures")
        from runtime.interpolate.pictures import run_pictures

        return run_pictures(args)
    from runtime.interpolate.video_frames import run_video

    _check_is_video(args)
    return run_video(args)


def _check_is_video(args: argparse.Namespace) -> None:
    """ValueError for a lone picture, and for options that do not apply to a video."""
    from PIL import Image

    from runtime.interpolate.animated import is_animated

    (path,) = args.inputs
    try:
        with Image.open(path) as image:
            still = not is_animated(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        still = False
    if still:
        raise ValueError(f"{path} is one picture: give a second one, or a video")
    for option in ("prompt_b", "seed_b", "timing", "animation", "fps"):
        if getattr(args, option) is not None:
            raise ValueError(f"--{option.replace('_', '-')} is for two pictures, not for a video")


if __name__ == "__main__":
    sys.exit(main())

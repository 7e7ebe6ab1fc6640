"""The command line: `python -m runtime "a red fox, 3d style" --seed 7 -o fox.png`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from runtime import Error, OutputError, ProviderWarning, TruncationWarning, __version__

if TYPE_CHECKING:
    from runtime.pipeline import Generation, Pipeline
    from runtime.request import Job

IMAGE_STRENGTH = 0.5  # Python keeps diffusers' signature and 1.0, at which little of the picture is left
MOST_PICTURES = 10_000  # a seed typed as the number of pictures must not fill the memory
EXAMPLES = """examples:
  python -m runtime "a red fox, 3d style" --seed 7 -o fox.png
  python -m runtime "a fox" "a pizza" --num-images 4 -o "{prompt}-{seed}.png"
  python -m runtime "a fox, flat style" --image sketch.jpg --strength 0.5 -o fox.png
  python -m runtime "a fox" --num-inference-steps 4 --bundle path/to/bundle --json
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage: the house's form for every error."""
        self.exit(2, f"error: {message} (see python -m runtime --help)\n")


def parser() -> argparse.ArgumentParser:
    """The arguments; their names and meaning are diffusers' where it has them."""
    made = _Parser(
        prog="python -m runtime",
        description="Text to image in one step from an ONNX bundle: writes PNG files, prints their paths.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("prompts", nargs="+", metavar="PROMPT", help="what a picture should show, in quotes; one or more")
    add(
        "-o",
        "--output",
        metavar="PATH",
        help="a .png file, or a folder that is there; {prompt}, {seed} and {i} are filled in; "
        "default {prompt}-{seed}.png",
    )
    add("--seed", type=int, metavar="N", help="the same seed gives the same picture; by chance when left out")
    add("--num-images", type=int, default=1, metavar="N", help="pictures a prompt, from seed, seed + 1, ...")
    add("--num-inference-steps", type=int, default=1, metavar="N", help="1 (the default) to 4")
    add("--guidance-scale", type=float, default=0.0, metavar="G", help="above 1: guidance; off by default")
    add("--negative-prompt", metavar="TEXT", help="what to avoid; needs --guidance-scale above 1")
    add("--image", metavar="PATH", help="start from this picture")
    add(
        "--strength",
        type=float,
        metavar="S",
        help="with --image: above 0 (keep most of it) to 1 (forget nearly all of it); default "
        f"{IMAGE_STRENGTH}, as at 1.0, Python's default, hardly any of the picture is left",
    )
    add("--bundle", metavar="DIR", help="a bundle's folder, or a shipped one's name; default sticker-128")
    add("--provider", default="auto", metavar="P", help="auto (the default), cpu, cuda, coreml or openvino")
    add("--json", action="store_true", help="print paths, seeds and milliseconds as JSON")
    add("--debug", action="store_true", help="show the traceback of an error")
    add("--version", action="version", version=f"addkit {__version__}")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 2 for what the user can mend, 130 when interrupted."""
    args = parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            _show_warnings_as_lines()
            report = run(args)
        _print(report, args.json)
    except KeyboardInterrupt:
        return 130
    except (Error, ValueError, OSError) as error:
        if args.debug:
            traceback.print_exc()
        else:
            _tell(f"error: {error}")
        return 2
    return 0


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Makes and writes the pictures; the report for `--json`. Refuses before any work what it can."""
    from runtime import request
    from runtime.files import check_writable
    from runtime.naming import output_paths
    from runtime.progress import Progress

    if args.strength is not None and args.image is None:
        raise ValueError("--strength needs --image, the picture to start from")
    if len(args.prompts) * args.num_images > MOST_PICTURES:
        raise ValueError(f"--num-images {args.num_images} is too many: one run makes {MOST_PICTURES} at most")
    prompts = request.prompts(args.prompts)
    jobs = request.jobs(prompts, args.negative_prompt, args.guidance_scale, args.seed, args.num_images)
    paths = output_paths(args.output, jobs)
    for path in paths:
        check_writable(path)
    image = None if args.image is None else _read_image(args.image)
    reports = []
    with Progress(len(jobs)) as progress:
        from runtime.pipeline import load

        pipe = load(args.bundle, args.provider)
        for job, path in zip(jobs, paths, strict=True):
            made = _picture(pipe, job, args, image)
            _save(path, made, pipe, args)
            reports.append(_report(path, made))
            progress.done(len(reports))
    return {"images": reports, "provider": pipe.provider, "bundle": pipe.manifest.name}


def _picture(pipe: Pipeline, job: Job, args: argparse.Namespace, image: Any) -> Generation:
    (made,) = pipe.run(
        job.prompt,
        negative_prompt=job.negative_prompt,
        seed=job.seed,
        num_inference_steps=args.num_inference_steps,
        guidance_scale=args.guidance_scale,
        image=image,
        strength=_strength(args),
    )
    return made


def _save(path: Path, made: Generation, pipe: Pipeline, args: argparse.Namespace) -> None:
    """The PNG file with what is needed to make it again."""
    from runtime import pixels

    assert made.picture is not None
    height, width = pipe.manifest.image_size
    settings = {
        "Steps": args.num_inference_steps,
        "Sampler": "DDIM",
        "CFG scale": args.guidance_scale,
        "Seed": made.job.seed,
        "Size": f"{width}x{height}",
        "Model": pipe.manifest.name,
    }
    if args.image is not None:
        settings["Denoising strength"] = _strength(args)
    settings["Version"] = f"addkit {__version__}"
    text = pixels.parameters_text(made.job.prompt, made.job.negative_prompt or "", **settings)
    pixels.save_png(path, pixels.to_image(made.picture), text)


def _strength(args: argparse.Namespace) -> float:
    if args.image is None:
        return 1.0
    return IMAGE_STRENGTH if args.strength is None else float(args.strength)


def _read_image(path: str) -> Any:
    """A decoded picture; ValueError with one line when the file is none."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise ValueError(f"cannot read image {path}: there is no such file") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "it is no picture that can be read, or it is damaged"
        raise ValueError(f"cannot read image {path}: {reason}") from error


def _report(path: Path, made: Generation) -> dict[str, Any]:
    ms = {stage: round(value, 3) for stage, value in made.ms.items()}
    return {"path": str(path), "seed": made.job.seed, "prompt": made.job.prompt, "ms": ms}


def _print(report: dict[str, Any], as_json: bool) -> None:
    """The result on stdout. The pictures are written by now, so a closed or odd stdout loses none."""
    text = json.dumps(report) if as_json else "\n".join(image["path"] for image in report["images"])
    try:
        try:
            print(text, flush=True)
        except UnicodeEncodeError:  # a path that stdout's encoding lacks is shown with escapes
            print(text.encode("ascii", "backslashreplace").decode(), flush=True)
    except BrokenPipeError:  # the reader closed stdout, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        reason = f"cannot write to standard output: {error.strerror}"
        raise OutputError(f"{reason}; the pictures themselves are written") from error


def _show_warnings_as_lines() -> None:
    """Our warnings as one line each on stderr, once; other packages' as Python shows them."""
    warnings.simplefilter("always", TruncationWarning)
    warnings.simplefilter("always", ProviderWarning)
    shown: set[str] = set()
    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not category.__module__.startswith("runtime."):
            usual(message, category, filename, lineno, file, line)
        elif str(message) not in shown:
            shown.add(str(message))
            _tell(f"warning: {message}")

    warnings.showwarning = show


def _tell(message: str) -> None:
    """One line on stderr, if there is one: `print` would fall back to stdout, which is for results."""
    if sys.stderr is not None:
        print(" ".join(message.split()), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

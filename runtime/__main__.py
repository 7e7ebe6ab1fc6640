"""The command line: `python -m runtime "a red fox" --seed 7 -o fox.png`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.command import Parser, command_parser, print_result, run_command, tell

if TYPE_CHECKING:
    from runtime.generation import Generation, Job
    from runtime.pipeline import Pipeline
    from runtime.provenance.claim import Facts

MOST_PICTURES = 10_000  # a seed typed as the number of pictures must not fill the memory
EXAMPLES = """examples:
  python -m runtime "a red fox" --seed 7 -o fox.png
  python -m runtime "a fox" "a pizza" --num-images 4 -o "{prompt}-{seed}.png"
  python -m runtime "a red fox" --image sketch.jpg --strength 0.5 -o fox.png
  python -m runtime "a fox" --num-inference-steps 4 --bundle path/to/bundle --json
"""


def parser() -> Parser:
    """The arguments; their names and meaning are diffusers' where it has them."""
    from runtime.arguments import DEFAULT_STRENGTH
    from runtime.provenance.options import add_provenance
    from runtime.variation.options import add_variation
    from runtime.watermark.options import add_watermark

    made = command_parser(
        "runtime", "Text to image in one step from an ONNX bundle: writes PNG files, prints their paths.", EXAMPLES
    )
    add = made.add_argument
    add("prompts", nargs="+", metavar="PROMPT", help="what a picture should show, in quotes; one or more")
    add(
        "-o",
        "--output",
        metavar="PATH",
        help="a .png file, or an existing folder; {prompt}, {seed} and {i} are filled in; default {prompt}-{seed}.png",
    )
    add("--seed", type=int, metavar="N", help="the same seed gives the same picture; random when left out")
    add_variation(made)
    add("--num-images", type=int, default=1, metavar="N", help="pictures per prompt, with seed, seed + 1, ...")
    add("--num-inference-steps", type=int, default=1, metavar="N", help="1 (the default) to 4")
    add("--guidance-scale", type=float, default=0.0, metavar="G", help="above 1: guidance; off by default")
    add("--negative-prompt", metavar="TEXT", help="what to avoid; needs --guidance-scale above 1")
    add("--height", type=int, metavar="PIXELS", help="one of the sizes that the bundle makes; default: its own")
    add("--width", type=int, metavar="PIXELS", help="likewise")
    add("--image", metavar="PATH", help="start from this picture")
    add(
        "--strength",
        type=float,
        metavar="S",
        help=f"with --image: above 0 (keep most of it) to 1 (forget nearly all of it); default {DEFAULT_STRENGTH}",
    )
    add("--bundle", metavar="DIR", help="a bundle's folder, or a shipped one's name; default sticker-128")
    add("--provider", default="auto", metavar="P", help="auto (the default), cpu, cuda, coreml or openvino")
    add_watermark(made)
    add("--coreml-packages", metavar="DIR", help="macOS: an export of python -m export.coreml, for the Neural Engine")
    add("--verify", metavar="KEY", help="draw only if the bundle is signed by this PEM public key's owner")
    add_provenance(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 2 for an error the user can fix, 130 when interrupted."""
    return run_command(parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Makes the pictures and prints their paths, or the report."""
    report = run(args)
    paths = "\n".join(image["path"] for image in report["images"])
    print_result(json.dumps(report) if args.json else paths)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Makes and writes the pictures, and returns the report for `--json`. Refuses bad arguments before any work."""
    from runtime import arguments
    from runtime.files import check_writable, write_whole
    from runtime.image_files import read_picture, used_of
    from runtime.output_names import output_paths
    from runtime.progress import Progress
    from runtime.provenance.options import wish_of
    from runtime.provenance.pictures import Signing
    from runtime.variation.options import variation_of

    if args.strength is not None and args.image is None:
        raise ValueError("--strength needs --image, the picture to start from")
    if len(args.prompts) * args.num_images > MOST_PICTURES:
        raise ValueError(f"--num-images {args.num_images} is too many: one run makes {MOST_PICTURES} at most")
    prompts, args.variation = arguments.prompts(args.prompts), variation_of(args)
    jobs = arguments.jobs(prompts, args.negative_prompt, args.guidance_scale, args.seed, args.num_images)
    paths = output_paths(args.output, jobs)
    for path in paths:
        check_writable(path)
    signing = Signing(wish_of(args))
    image, start = (None, None) if args.image is None else read_picture(args.image)
    reports: list[dict[str, Any]] = []
    try:
        with Progress(len(jobs)) as progress:
            from runtime.pipeline import load

            verify = True if args.verify is None else args.verify
            pipe = load(args.bundle, args.provider, verify=verify, coreml_packages=args.coreml_packages)
            for job, path in zip(jobs, paths, strict=True):
                made = _picture(pipe, job, args, image)
                if image is not None and not reports:  # a wrong argument is one line: its error
                    size = arguments.check_size(pipe.manifest, args.height, args.width)
                    for text in used_of(args.image, image, size):
                        tell(f"note: {text}")
                data, signed = signing.signed(_file(made, pipe, args), "png", _facts(made, pipe), start)
                write_whole(path, data)
                reports.append(_report(path, made, signed))
                progress.done(len(reports))
    finally:
        if reports and len(jobs) > 1:  # also when one failed in the middle: those before it are kept
            tell(f"{_counted(len(prompts), 'prompt')} read, {len(reports)} of {len(jobs)} pictures made")
    return {"images": reports, "provider": pipe.provider, "bundle": pipe.manifest.name}


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _picture(pipe: Pipeline, job: Job, args: argparse.Namespace, image: Any) -> Generation:
    (made,) = pipe.run(
        job.prompt,
        negative_prompt=job.negative_prompt,
        seed=job.seed,
        variation=args.variation,
        num_inference_steps=args.num_inference_steps,
        guidance_scale=args.guidance_scale,
        height=args.height,
        width=args.width,
        image=image,
        strength=args.strength,
        watermark=args.watermark,
    )
    return made


def _file(made: Generation, pipe: Pipeline, args: argparse.Namespace) -> bytes:
    """The PNG file, with everything needed to make the picture again."""
    from runtime import arguments, image_files

    strength = arguments.DEFAULT_STRENGTH if args.strength is None else args.strength
    text = image_files.settings_text(
        made.prompt,
        made.seed,
        model=pipe.manifest.name,
        size=(made.image.height, made.image.width),
        steps=args.num_inference_steps,
        guidance_scale=args.guidance_scale,
        negative_prompt=made.job.negative_prompt or "",
        strength=None if args.image is None else strength,
        typed=made.job.typed,
        plain=args.variation is None and pipe.manifest.variation is not None,
    )
    return image_files.png_bytes(made.image, text)


def _facts(made: Generation, pipe: Pipeline) -> Facts:
    """What a signature says of the picture."""
    from runtime.provenance.claim import Facts

    return Facts(pipe.manifest.name, pipe.bundle.sha256, made.prompt)


def _report(path: Path, made: Generation, signed: bool) -> dict[str, Any]:
    ms = {stage: round(value, 3) for stage, value in made.ms.items()}
    typed = {} if made.job.typed is None else {"typed_prompt": made.job.typed}
    return {"path": str(path), "seed": made.seed, "prompt": made.prompt, **typed, "signed": signed, "ms": ms}


if __name__ == "__main__":
    sys.exit(main())

"""`python -m train.evaluate CHECKPOINT|BUNDLE`: figures of a student beside its teacher, and a contact sheet."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from runtime.pixels import to_uint8
from train.checkpoint import load_pipeline, resolve_checkpoint
from train.corpus import encode_texts, load_pictures
from train.diffusion import sample
from train.errors import UserError, run_command
from train.files import write_text
from train.grids import draw_grid
from train.metrics import Alignment, Lite0, frechet_distance, kernel_distance, precision_recall, vendi_score
from train.progress import progress
from train.shards import Record
from train.student import count_parameters
from train.text_encoder import load_projection

SHEET_PROMPTS = tuple(
    f"{subject}, {style}"
    for subject in (
        "fox face", "pizza", "red heart", "car", "house", "grinning face", "cat face", "sunflower",
        "guitar", "rocket", "octopus", "green apple", "robot", "snowman", "birthday cake", "tiger",
    )
    for style in ("3d style", "flat style")
)

# prompts, seeds, steps -> pictures u8[N, H, W, 3]
Generate = Callable[[Sequence[str], Sequence[int], int], np.ndarray]


def checkpoint_generator(pipeline: StableDiffusionPipeline, guidance: float, batch: int = 32) -> Generate:
    """Pictures by a diffusers pipeline's networks, bf16 U-Net, DDIM."""

    def generate(prompts: Sequence[str], seeds: Sequence[int], steps: int) -> np.ndarray:
        text = encode_texts(pipeline.text_encoder, pipeline.tokenizer, ["", *prompts])
        parts = []
        with progress(f"{steps} steps", len(prompts)) as advance, torch.no_grad():
            for start in range(0, len(prompts), batch):
                chosen = slice(start, start + batch)
                latents = sample(pipeline.unet, text[1:][chosen], text[0], seeds[chosen], steps, guidance)
                decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
                parts.append(to_uint8(decoded.permute(0, 2, 3, 1).numpy()))
                advance(len(latents))
        return np.concatenate(parts)

    return generate


def bundle_generator(folder: Path) -> Generate:
    """Pictures by our runtime, as a user gets them."""
    import runtime

    pipe = runtime.load(folder)

    def generate(prompts: Sequence[str], seeds: Sequence[int], steps: int) -> np.ndarray:
        parts = []
        with progress(f"{steps} steps", len(prompts)) as advance:
            for prompt, seed in zip(prompts, seeds, strict=True):
                picture = pipe(prompt, seed=seed, num_inference_steps=steps)[0]
                parts.append(np.asarray(picture))
                advance(1)
        return np.stack(parts)

    return generate


def choose(records: list[Record], pictures: np.ndarray, count: int) -> tuple[list[str], np.ndarray]:
    """(plainest captions, pictures) of `count` records, spread evenly over the split."""
    index = np.linspace(0, len(records) - 1, min(count, len(records))).astype(int)
    return [records[i].captions[0] for i in index], pictures[index]


class Evaluation:
    """Features of real pictures and the figures of any generator against them."""

    def __init__(self, data: Path, teacher: StableDiffusionPipeline, teacher_folder: Path, count: int) -> None:
        self.lite0 = Lite0()
        self.teacher, self.projection = teacher, load_projection(teacher_folder / "text_encoder")
        train_records, train_pictures = load_pictures(data, "train")
        held_records, held_pictures = load_pictures(data, "held_out")
        everything = train_records + held_records, np.concatenate([train_pictures, held_pictures])
        self.prompts, self.real = {}, {}
        for name, (records, pictures) in (("all", everything), ("held_out", (held_records, held_pictures))):
            self.prompts[name], chosen = choose(records, pictures, count)
            self.real[name] = self.lite0.of(chosen)
        captions, chosen = choose(train_records, train_pictures, 2000)
        self.alignment = Alignment(self.lite0.of(chosen), self.embed(captions))

    @torch.no_grad()
    def embed(self, captions: Sequence[str]) -> Tensor:
        tokens = self.teacher.tokenizer(list(captions), padding="max_length", max_length=77, truncation=True,
                                        return_tensors="pt")
        parts = [self.teacher.text_encoder(ids).pooler_output for ids in tokens.input_ids.split(128)]
        return torch.nn.functional.normalize(self.projection(torch.cat(parts)), dim=1)

    def score(self, generate: Generate, steps: int, within: int = 0) -> dict[str, Any]:
        """Every figure of one generator at one number of steps; `within` prompts of 8 seeds each for Vendi."""
        result: dict[str, Any] = {}
        for name, prompts in self.prompts.items():
            features = self.lite0.of(generate(prompts, range(len(prompts)), steps))
            real = self.real[name]
            precision, recall = precision_recall(real, features)
            result[name] = {
                "fd_lite0": frechet_distance(real, features), "kid_lite0": kernel_distance(real, features),
                "precision": precision, "recall": recall,
                "alignment": self.alignment(features, self.embed(prompts)),
            }
        if within:
            result["vendi"] = self._diversity(generate, steps, within)
        return result

    def _diversity(self, generate: Generate, steps: int, prompts: int, seeds: int = 8) -> float:
        names = self.prompts["all"]
        chosen = [names[i] for i in np.linspace(0, len(names) - 1, prompts).astype(int)]
        repeated = [name for name in chosen for _ in range(seeds)]
        features = self.lite0.of(generate(repeated, list(range(seeds)) * len(chosen), steps))
        return float(np.mean([vendi_score(part) for part in features.split(seeds)]))


def report(evaluation: Evaluation, student: Generate, teacher: Generate, steps: Sequence[int]) -> dict[str, Any]:
    """The figures in the shape that the contract fixes for `--json`."""
    scores = {"teacher_50": evaluation.score(teacher, 50, within=16)}
    for count in steps:
        scores[f"student_{count}"] = evaluation.score(student, count, within=16 if count == 1 else 0)
    pick = {
        figure: {name: {who: score[name][figure] for who, score in scores.items()} for name in ("all", "held_out")}
        for figure in ("fd_lite0", "kid_lite0", "precision", "recall", "alignment")
    }
    return {
        "fd_lite0": pick["fd_lite0"], "kid_lite0": pick["kid_lite0"],
        "precision": pick["precision"], "recall": pick["recall"],
        "vendi": {who: score["vendi"] for who, score in scores.items() if "vendi" in score},
        "alignment": pick["alignment"]["all"], "alignment_held_out": pick["alignment"]["held_out"],
        "n": {name: len(prompts) for name, prompts in evaluation.prompts.items()},
    }


def is_bundle(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()


def find_subject(name_or_path: str) -> tuple[Path, bool]:
    """(folder, whether it is an ONNX bundle). Raises UserError when it is neither bundle nor checkpoint."""
    path = Path(name_or_path)
    return (path, True) if is_bundle(path) else (resolve_checkpoint(name_or_path), False)


def print_table(figures: dict[str, Any]) -> None:
    whos = list(figures["fd_lite0"]["all"])
    print(f"{'figure':<24}" + "".join(f"{who:>14}" for who in whos))
    for figure in ("fd_lite0", "kid_lite0", "precision", "recall"):
        for name, values in figures[figure].items():
            print(f"{figure + ' ' + name:<24}" + "".join(f"{values[who]:>14.4f}" for who in whos))
    for figure in ("alignment", "alignment_held_out", "vendi"):
        row = "".join(f"{figures[figure][who]:>14.4f}" if who in figures[figure] else " " * 14 for who in whos)
        print(f"{figure:<24}{row}")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  python -m train.evaluate sticker-128 --data data/stickers\n"
        "  python -m train.evaluate sticker-128 --data data/stickers --sheet-only --sheet sheet.png",
    )
    parser.add_argument("subject", metavar="CHECKPOINT|BUNDLE", help="a student's pipeline folder, bundle, or name")
    parser.add_argument("--teacher", default="sticker-128-teacher", help="its teacher's pipeline folder or name")
    parser.add_argument("--data", type=Path, default=Path("data/stickers"), help="folder made by train.data")
    parser.add_argument("--n", type=int, default=500, help="pictures a split (default 500)")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4], help="the student's numbers of steps")
    parser.add_argument("--guidance", type=float, default=2.0, help="of the teacher")
    parser.add_argument("--sheet", type=Path, help="also write the contact sheet there (PNG)")
    parser.add_argument("--sheet-only", action="store_true", help="no figures")
    parser.add_argument("--out", type=Path, help="also write the figures there (JSON)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args(argv)
    folder, bundled = find_subject(args.subject)
    student_pipeline = None if bundled else load_pipeline(folder)
    student = bundle_generator(folder) if student_pipeline is None else checkpoint_generator(student_pipeline, 1.0)
    if args.sheet:
        pictures = student(SHEET_PROMPTS, [7] * len(SHEET_PROMPTS), 1)
        draw_grid(list(pictures), args.sheet, columns=8, captions=SHEET_PROMPTS)
    if args.sheet_only:
        if not args.sheet:
            raise UserError("--sheet-only needs --sheet PATH")
        return
    teacher_folder = resolve_checkpoint(args.teacher)
    teacher = load_pipeline(teacher_folder)
    evaluation = Evaluation(args.data, teacher, teacher_folder, args.n)
    figures = report(evaluation, student, checkpoint_generator(teacher, args.guidance), args.steps)
    figures["params"] = {"teacher": count_parameters(teacher.unet)}
    if student_pipeline is not None:
        figures["params"]["student"] = count_parameters(student_pipeline.unet)
    if args.out:
        write_text(args.out, json.dumps(figures, indent=2) + "\n")
    if args.json:
        print(json.dumps(figures))
    else:
        print_table(figures)


if __name__ == "__main__":
    run_command(main)

"""`python -m train.evaluate CHECKPOINT|BUNDLE`: figures of a student beside its teacher, and contact sheets."""

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
from train.diffusion import NoiseLevels, sample
from train.encoding import decode_latents
from train.errors import UserError, run_command
from train.feature_sets import (
    FEATURE_SETS,
    ClipScore,
    FeatureSet,
    Inception,
    Lite0,
    cached_features,
    fit_side,
    make_feature_set,
    refuse_own_features,
)
from train.files import write_text
from train.grids import draw_comparison, draw_grid
from train.metrics import frechet_distance, mean_distance, score_features, vendi_score
from train.progress import progress
from train.prompts import COMPARED_PROMPTS, SHEET_PROMPTS, SHEET_SEED
from train.retrieval import Embed, RetrievalScorer, text_embedder
from train.shards import Record
from train.student import count_parameters
from train.telemetry import say

SEEDS_A_PROMPT = 8  # for the diversity within a prompt
SCORER_PICTURES = 4000  # real training pictures that the retrieval scorer learns from, at most
# Figures against the real pictures are reported for each split; these are of pictures by themselves, have a "real"
# column where that means something, and are reported as NAME (all concepts) and NAME_held_out.
OWN_FIGURES = ("alignment", "retrieval_at_1", "retrieval_at_5", "clip_score", "diversity", "vendi", "vendi_across")

# prompts, seeds, steps -> pictures u8[N, H, W, 3]
Generate = Callable[[Sequence[str], Sequence[int], int], np.ndarray]


def checkpoint_generator(pipeline: StableDiffusionPipeline, guidance: float, batch: int = 0) -> Generate:
    """Pictures by a diffusers pipeline's networks, on its device: bf16 U-Net, DDIM, its own schedule and prediction.

    batch: pictures at once; 0 is 32 of 128 pixels, fewer larger ones.
    """
    levels = NoiseLevels.of(pipeline.scheduler, pipeline.device)
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    batch = batch or max(2, 32 * 128**2 // side**2)

    def generate(prompts: Sequence[str], seeds: Sequence[int], steps: int) -> np.ndarray:
        text = encode_texts(pipeline.text_encoder, pipeline.tokenizer, ["", *prompts])
        parts = []
        with progress(f"{steps} steps", len(prompts)) as advance, torch.no_grad():
            for start in range(0, len(prompts), batch):
                chosen = slice(start, start + batch)
                latents = sample(pipeline.unet, text[1:][chosen], text[0], seeds[chosen], steps, guidance, levels)
                decoded = decode_latents(pipeline.vae, latents)
                parts.append(to_uint8(decoded.permute(0, 2, 3, 1).cpu().numpy()))
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


def choose(records: Sequence[Record], count: int) -> np.ndarray:
    """Indices of `count` records (or all there are), spread evenly over the split."""
    return np.linspace(0, len(records) - 1, min(count, len(records))).astype(int)


class Evaluation:
    """Real pictures' features and a retrieval scorer, made once; then the figures of any generator against them.

    data: folder of shards; without held-out ones all figures are on "all" alone. count: pictures a split, at least 2.
    network: Lite0 when left out. embed: texts for the alignment, MiniLM when left out. inception, clip: make `fid`
    and `clip_score` as well. Raises UserError.
    """

    def __init__(
        self, data: Path, count: int, *, network: FeatureSet | None = None, embed: Embed | None = None,
        inception: Inception | None = None, clip: ClipScore | None = None,
    ) -> None:
        if count < 2:
            raise UserError(f"--n {count}: at least 2 pictures a split are needed")
        self.network, self.inception, self.clip = network or Lite0(), inception, clip
        records, pictures = load_pictures(data, "train")
        self.side = pictures.shape[1]
        self.scorer = self._fit_scorer(records, pictures, embed or text_embedder("minilm"))
        self.prompts: dict[str, list[str]] = {}
        self.pictures: dict[str, np.ndarray] = {}
        if any(Path(data).glob("held_out-*.tar")):
            held_records, held_pictures = load_pictures(data, "held_out")
            self._take("all", records + held_records, np.concatenate([pictures, held_pictures]), count)
            self._take("held_out", held_records, held_pictures, count)
        else:
            say(f"{data} has no held_out-*.tar: figures on all concepts only")
            self._take("all", records, pictures, count)
        self.real = {name: cached_features(self.network, real, f"real pictures, {name}")
                     for name, real in self.pictures.items()}
        self.real_inception = {name: cached_features(inception, real, f"Inception on real pictures, {name}")
                               for name, real in self.pictures.items()} if inception else {}

    def _fit_scorer(self, records: list[Record], pictures: np.ndarray, embed: Embed) -> RetrievalScorer:
        index = choose(records, SCORER_PICTURES)
        features = cached_features(self.network, pictures[index], "real training pictures")
        captions, concepts = [records[i].captions[0] for i in index], [records[i].concept for i in index]
        return RetrievalScorer(features, captions, embed, concepts)

    def _take(self, name: str, records: list[Record], pictures: np.ndarray, count: int) -> None:
        index = choose(records, count)
        self.prompts[name], self.pictures[name] = [records[i].captions[0] for i in index], pictures[index]

    def score(self, generate: Generate, steps: int, within: int = 0, seed: int = 0) -> dict[str, dict[str, float]]:
        """{"all": figures, "held_out": figures} of one generator at one number of steps.

        The i-th prompt is drawn from seed + i. within: prompts a split that are drawn with 8 seeds each, for
        `diversity` (mean cosine distance within a prompt) and `vendi` (mean Vendi score within a prompt); 0: neither.
        """
        result = {}
        for name, prompts in self.prompts.items():
            pictures = fit_side(generate(prompts, range(seed, seed + len(prompts)), steps), self.side)
            result[name] = self._figures(name, pictures)
            if within:
                result[name] |= self._diversity(generate, prompts, steps, within, seed)
        return result

    def _figures(self, name: str, pictures: np.ndarray) -> dict[str, float]:
        features = self.network.of(pictures)
        figures = score_features(self.real[name], features, self.network.name)
        if self.inception:
            figures["fid"] = frechet_distance(self.real_inception[name], self.inception.of(pictures))
        return figures | self._own(name, features, pictures)

    def _own(self, name: str, features: Tensor, pictures: np.ndarray) -> dict[str, float]:
        """What pictures for a split's prompts are by themselves, real or generated."""
        figures = self.scorer.figures(features, self.prompts[name]) | {"vendi_across": vendi_score(features)}
        return figures | ({"clip_score": self.clip(pictures, self.prompts[name])} if self.clip else {})

    def real_figures(self) -> dict[str, dict[str, float]]:
        """The real pictures' own alignment and diversity across prompts: a ceiling.

        On "held_out" none of the pictures was seen by the retrieval scorer; on "all" it learned from many of them.
        """
        return {name: self._own(name, self.real[name], pictures) for name, pictures in self.pictures.items()}

    def _diversity(
        self, generate: Generate, prompts: list[str], steps: int, within: int, seed: int
    ) -> dict[str, float]:
        chosen = [prompts[i] for i in np.linspace(0, len(prompts) - 1, min(within, len(prompts))).astype(int)]
        repeated = [prompt for prompt in chosen for _ in range(SEEDS_A_PROMPT)]
        seeds = list(range(seed, seed + SEEDS_A_PROMPT)) * len(chosen)
        parts = self.network.of(fit_side(generate(repeated, seeds, steps), self.side)).split(SEEDS_A_PROMPT)
        return {"diversity": float(np.mean([mean_distance(part) for part in parts])),
                "vendi": float(np.mean([vendi_score(part) for part in parts]))}


def report(
    evaluation: Evaluation, student: Generate, teacher: Generate, steps: Sequence[int], teacher_steps: int = 50,
    within: int = 16,
) -> dict[str, Any]:
    """The figures in the shape that the contract fixes for `--json`."""
    todo = [(f"teacher_{teacher_steps}", teacher, teacher_steps)]
    todo += [(f"student_{count}", student, count) for count in steps]
    scores = {}
    for who, generate, count in todo:
        say(f"{who}: pictures and figures")
        scores[who] = evaluation.score(generate, count, within)
    scores["real"] = evaluation.real_figures()
    return arrange(scores) | {"n": {name: len(prompts) for name, prompts in evaluation.prompts.items()}}


def arrange(scores: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    """{who: {split: {figure: value}}} as {figure: {split: {who: value}}}, or {figure: {who: value}} of OWN_FIGURES."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for who, splits in scores.items():
        for split, figures in splits.items():
            for figure, value in figures.items():
                table.setdefault(figure, {}).setdefault(split, {})[who] = value
    against_real: dict[str, Any] = {figure: rows for figure, rows in table.items() if figure not in OWN_FIGURES}
    own = {figure if split == "all" else f"{figure}_{split}": row
           for figure in OWN_FIGURES for split, row in table.get(figure, {}).items()}
    return against_real | own


def is_bundle(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()


def find_subject(name_or_path: str) -> tuple[Path, bool]:
    """(folder, whether it is an ONNX bundle). Raises UserError when it is neither bundle nor checkpoint."""
    path = Path(name_or_path)
    return (path, True) if is_bundle(path) else (resolve_checkpoint(name_or_path), False)


def require_device(name: str) -> None:
    """Raises UserError where there is no such device."""
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise UserError(f"--device {name}: no such device; use cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is none here; use --device cpu")


def print_table(figures: dict[str, Any]) -> None:
    """Every figure, one row each, and what was not run."""
    rows: dict[str, dict[str, float]] = {}
    for figure, values in figures.items():
        if figure in ("n", "params") or not isinstance(values, dict):
            continue
        nested = isinstance(next(iter(values.values())), dict)
        rows |= {f"{figure} {split}": row for split, row in values.items()} if nested else {figure: values}
    whos = list(dict.fromkeys(who for row in rows.values() for who in row))
    print(f"{'figure':<26}" + "".join(f"{who:>12}" for who in whos))
    for name, row in rows.items():
        print(f"{name:<26}" + "".join(f"{row[who]:>12.4f}" if who in row else " " * 12 for who in whos))
    for figure in ("fid", "clip_score"):
        if figure not in figures:
            print(f"{figure:<26}  not run: no weights given")


def write_sheet(path: Path, student: Generate) -> None:
    """The student's one step for the fixed prompts, one seed for all."""
    pictures = student(SHEET_PROMPTS, [SHEET_SEED] * len(SHEET_PROMPTS), 1)
    draw_grid(list(pictures), path, columns=8, captions=SHEET_PROMPTS)


def write_comparison(
    path: Path, student: Generate, teacher: Generate, steps: Sequence[int], teacher_steps: int
) -> None:
    """One row a prompt; the teacher, then the student at each number of steps, from the same noise."""
    seeds = [SHEET_SEED] * len(COMPARED_PROMPTS)
    columns = {f"teacher, {teacher_steps} steps": teacher(COMPARED_PROMPTS, seeds, teacher_steps)}
    for count in steps:
        columns[f"student, {count} step{'s' * (count > 1)}"] = student(COMPARED_PROMPTS, seeds, count)
    draw_comparison(list(columns.values()), path, list(columns), COMPARED_PROMPTS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  python -m train.evaluate sticker-128 --data data/stickers\n"
        "  python -m train.evaluate sticker-128 --data data/stickers --n 64 --compare compare.png --out figures.json\n"
        "  python -m train.evaluate sticker-128 --sheet-only --sheet sheet.png",
    )
    add = parser.add_argument
    add("subject", metavar="CHECKPOINT|BUNDLE", help="a student's pipeline folder, bundle, or name")
    add("--teacher", default="sticker-128-teacher", help="its teacher's pipeline folder or name")
    add("--data", type=Path, default=Path("data/stickers"), help="folder made by train.data")
    add("--n", type=int, default=500, help="pictures a split (default 500)")
    add("--steps", type=int, nargs="+", default=[1, 2, 4], help="the student's numbers of steps")
    add("--teacher-steps", type=int, default=50, help="the teacher's number of steps (default 50)")
    add("--guidance", type=float, default=2.0, help="of the teacher")
    add("--within", type=int, default=16, help="prompts a split with 8 seeds each, for diversity (default 16, 0: none)")
    add("--features", choices=FEATURE_SETS, default="lite0", help="network of the figures (default lite0)")
    add("--features-path", default="facebook/dinov2-small", metavar="FOLDER", help="of --features dinov2")
    add("--allow-discriminator-features", action="store_true", help="also if the discriminator used the same")
    add("--text-embedder", choices=("minilm", "words"), default="minilm", help="of the alignment; words: no download")
    add("--inception", type=Path, metavar="FILE", help="TorchScript Inception (inception-2015-12-05.pt): FID as well")
    add("--clip", type=Path, metavar="FOLDER", help="a transformers CLIPModel: CLIP score as well")
    add("--sheet", type=Path, metavar="PNG", help="also write the student's pictures for 32 fixed prompts")
    add("--compare", type=Path, metavar="PNG", help="also write teacher and student side by side")
    add("--sheet-only", action="store_true", help="no figures")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda (default: what there is)")
    add("--out", type=Path, metavar="FILE", help="also write the figures there (JSON)")
    add("--json", action="store_true", help="print the figures as JSON")
    return parser


def make_evaluation(args: argparse.Namespace) -> Evaluation:
    """The evaluation that a command line asks for."""
    return Evaluation(
        args.data, args.n, network=make_feature_set(args.features, args.features_path, args.device),
        embed=text_embedder(args.text_embedder),
        inception=Inception(args.inception, args.device) if args.inception else None,
        clip=ClipScore(args.clip, args.device) if args.clip else None,
    )


def main(argv: list[str]) -> None:
    args = _parser().parse_args(argv)
    _check(args)
    folder, bundled = find_subject(args.subject)
    if not args.sheet_only and (line := refuse_own_features(args.features, folder, args.allow_discriminator_features)):
        say(line)
    pipeline = None if bundled else load_pipeline(folder).to(args.device)
    student = bundle_generator(folder) if pipeline is None else checkpoint_generator(pipeline, 1.0)
    if args.sheet:
        write_sheet(args.sheet, student)
    if args.sheet_only and not args.compare:
        return
    teacher_pipeline = load_pipeline(args.teacher).to(args.device)
    teacher = checkpoint_generator(teacher_pipeline, args.guidance)
    if args.compare:
        write_comparison(args.compare, student, teacher, args.steps, args.teacher_steps)
    if args.sheet_only:
        return
    figures = report(make_evaluation(args), student, teacher, args.steps, args.teacher_steps, args.within)
    student_size = count_parameters(pipeline.unet) if pipeline else None  # a bundle's graphs do not tell
    figures["params"] = {"student": student_size, "teacher": count_parameters(teacher_pipeline.unet)}
    figures |= {"features": args.features, "text_embedder": args.text_embedder, "guidance": args.guidance}
    if args.out:
        write_text(args.out, json.dumps(figures, indent=2) + "\n")
    if args.json:
        print(json.dumps(figures))
    else:
        print_table(figures)


def _check(args: argparse.Namespace) -> None:
    """Raises UserError on numbers out of range, and when --sheet-only has nothing to do."""
    if args.sheet_only and not (args.sheet or args.compare):
        raise UserError("--sheet-only needs --sheet PNG or --compare PNG")
    if not all(1 <= count <= 1000 for count in (*args.steps, args.teacher_steps)):
        raise UserError("--steps and --teacher-steps must be 1 to 1000")
    if args.within < 0:
        raise UserError(f"--within {args.within}: 0 or more prompts")
    require_device(args.device)


if __name__ == "__main__":
    run_command(main)

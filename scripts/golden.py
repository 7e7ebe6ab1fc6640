"""Writes the golden files of tests/golden from reference implementations, or compares them.

    python -m scripts.golden            writes them
    python -m scripts.golden --check    computes them again and compares; exit code 1 when one differs

References: transformers' CLIPTokenizerFast, torch.randn, diffusers' DDIMScheduler, exact fractions, and
optimum's ONNX pipelines on tests/golden/tiny_bundle. Every file states its count and its tolerance. The default
bundle's pictures and the completed prompts are our own runtime's, for the clients in other languages.
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import runtime
from export.tokens import tokens_of
from runtime.command import Parser, command_parser, run_command
from runtime.files import write_whole
from runtime.interpolate.slerp import lerp
from runtime.tokenizer import Tokenizer
from runtime.tokenizer.vocabulary import MAX_TOKENS
from runtime.variation import Variation
from scripts import golden_cases as cases
from scripts import golden_sdxl
from scripts import variation_cases as varied

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
TINY = "tests/golden/tiny_bundle"
TOKENIZERS = ("runtime/bundles/sticker-128/tokenizer", f"{TINY}/tokenizer")
NEAR = 1e-4  # by which a network's numbers may differ between processors, of the larger of them and 1
SAMPLED = 64  # values of a large tensor that its case holds


def tokenizer() -> dict[str, Any]:
    """Ids up to and including the first end mark, which closes the prompt; the rest is padding."""
    from transformers import CLIPTokenizerFast

    groups = []
    for folder in TOKENIZERS:
        reference = CLIPTokenizerFast.from_pretrained(ROOT / folder)
        texts = cases.tokenizer_texts()
        encoded = reference(texts, truncation=True, max_length=MAX_TOKENS).input_ids
        rows = [{"text": text, "ids": ids} for text, ids in zip(texts, encoded, strict=True)]
        groups.append({"tokenizer": folder, "pad_id": reference.pad_token_id, "cases": rows})
    groups += [_added_tokens(), _one_file()]
    count = sum(len(group["cases"]) for group in groups)
    return _headed("transformers.CLIPTokenizerFast", count, "exact", max_tokens=MAX_TOKENS, groups=groups)


def _added_tokens() -> dict[str, Any]:
    """Ids of a tokenizer that pads with "!", as Stable Diffusion 2's, and has tokens of every kind added."""
    from transformers import AddedToken, CLIPTokenizerFast

    reference = CLIPTokenizerFast.from_pretrained(ROOT / TOKENIZERS[1], pad_token="!")
    reference.add_tokens([AddedToken(content, **flags) for content, flags in cases.ADDED_TOKENS])
    tokens = tokens_of(reference)
    texts = cases.added_token_texts()
    encoded = reference(texts, truncation=True, max_length=MAX_TOKENS).input_ids
    rows = [{"text": text, "ids": ids} for text, ids in zip(texts, encoded, strict=True)]
    return {"tokenizer": TOKENIZERS[1], "pad_id": tokens.pad_id, "added": tokens.to_dict()["added"], "cases": rows}


def _one_file() -> dict[str, Any]:
    """Ids of a tokenizer saved as tokenizer.json alone, as transformers 5 writes it, with a token added at 49408."""
    from transformers import CLIPTokenizerFast

    from train.checkpoint import fast_tokenizer

    saved = CLIPTokenizerFast.from_pretrained(ROOT / TOKENIZERS[0], pad_token="!")
    saved.add_tokens(["<frog-toy>"])
    with TemporaryDirectory() as name:
        saved.save_pretrained(name)
        for path in Path(name).iterdir():
            if path.name not in ("tokenizer.json", "tokenizer_config.json"):
                path.unlink()
        reference = fast_tokenizer(Path(name))
    assert reference is not None
    tokens, texts = tokens_of(reference), cases.one_file_texts()
    encoded = reference(texts, truncation=True, max_length=MAX_TOKENS).input_ids
    rows = [{"text": text, "ids": ids} for text, ids in zip(texts, encoded, strict=True)]
    return {"tokenizer": TOKENIZERS[0], "pad_id": tokens.pad_id, "added": tokens.to_dict()["added"], "cases": rows}


def noise() -> dict[str, Any]:
    """Values of torch.randn at some flat indices, as the bits of float32."""
    import torch

    rows = []
    for seed in cases.NOISE_SEEDS:
        for shape in cases.NOISE_SHAPES:
            values = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)).numpy().ravel()
            at = sorted({round(i) for i in np.linspace(0, values.size - 1, min(values.size, SAMPLED))})
            rows.append({"seed": str(seed), "shape": shape, "at": at, "bits": bits(values[at])})
    return _headed("torch.randn on x86-64", len(rows), {"ulp": 1}, cases=rows, draws=_draws())


def _draws() -> list[dict[str, Any]]:
    """What one generator gives when it is asked again."""
    import torch

    rows = []
    for shape in cases.NOISE_SHAPES:
        generator = torch.Generator("cpu").manual_seed(3)
        for draw in range(4):
            values = torch.randn(shape, generator=generator).numpy().ravel()
            at = sorted({round(i) for i in np.linspace(0, values.size - 1, min(values.size, SAMPLED))})
            rows.append({"seed": "3", "shape": shape, "draw": draw, "at": at, "bits": bits(values[at])})
    return rows


def schedule() -> dict[str, Any]:
    """Timesteps, levels and single steps of diffusers' DDIMScheduler (trailing, eta 0)."""
    import torch
    from diffusers import DDIMScheduler

    config = json.loads((ROOT / TINY / "scheduler" / "scheduler_config.json").read_text())
    draw = torch.Generator("cpu").manual_seed(7)
    rows: list[dict[str, Any]] = []
    for prediction_type in ("v_prediction", "epsilon"):
        reference = DDIMScheduler.from_config({**config, "prediction_type": prediction_type})
        for n in cases.STEP_COUNTS:
            reference.set_timesteps(n)
            row = {"prediction_type": prediction_type, "steps": n, "timesteps": reference.timesteps.tolist()}
            rows.append(row | {"calls": [_step(reference, t, draw) for t in row["timesteps"][:4]]})
    runs = [_run(name, {**config, **changes}, n) for name, changes in cases.SCHEDULERS for n in (1, 2, 4)]
    return _headed("diffusers' schedulers", len(rows), {"relative": 1e-4}, config=config, cases=rows, runs=runs)


def _run(name: str, config: dict[str, Any], count: int) -> dict[str, Any]:
    """A whole run of a scheduler on random outputs: its last latents, and the steps that we hold it in."""
    import diffusers
    import torch

    from export.steps import arguments, ready, steps_of

    scheduler, seed, shape = getattr(diffusers, name).from_config(config), 3, (4, 2, 3)
    steps = steps_of(scheduler, count)
    theirs, generator = ready(scheduler, count), torch.Generator("cpu").manual_seed(seed)
    own = torch.randn((1, *shape), generator=generator) * theirs.init_noise_sigma
    outputs = torch.randn((len(steps), 1, *shape), generator=torch.Generator("cpu").manual_seed(count))
    for t, output in zip(theirs.timesteps, outputs, strict=True):
        theirs.scale_model_input(own, t)
        own = theirs.step(output, t, own, **arguments(theirs, generator=generator)).prev_sample
    return {
        "scheduler": name,
        "seed": seed,
        "shape": shape,
        "steps": [asdict(step) for step in steps],
        "model_outputs": [bits(output.numpy()) for output in outputs],
        "expected": bits(own.float().numpy()),
    }


def _step(reference: Any, timestep: int, draw: Any) -> dict[str, Any]:
    """One call of the scheduler on random values, with the levels that it used."""
    import torch

    x, output = (torch.randn(4, generator=draw) for _ in range(2))
    after = timestep - reference.config.num_train_timesteps // reference.num_inference_steps
    bars = [
        reference.alphas_cumprod[timestep],
        reference.alphas_cumprod[after] if after >= 0 else torch.tensor(1.0),
    ]
    alphas, sigmas = [bar.sqrt() for bar in bars], [(1 - bar).sqrt() for bar in bars]
    expected = reference.step(output, timestep, x, eta=0.0).prev_sample
    return {
        "timestep": timestep,
        "next_timestep": after,
        "alphas": bits(torch.stack(alphas).numpy()),
        "sigmas": bits(torch.stack(sigmas).numpy()),
        "x": bits(x.numpy()),
        "model_output": bits(output.numpy()),
        "expected": bits(expected.numpy()),
    }


def pixels() -> dict[str, Any]:
    """u8 of [-1, 1] values by exact fractions, and the bytes of a picture that is not square."""
    values = np.array(cases.pixel_values(), np.float32)
    rows = [{"bits": bits(value), "expected": _level(float(value))} for value in values]
    chw = np.linspace(-1.1, 1.1, 18, dtype=np.float32).reshape(3, 2, 3)
    rgb = [_level(float(chw[channel, y, x])) for y in range(2) for x in range(3) for channel in range(3)]
    picture = {"shape": [3, 2, 3], "bits": bits(chw), "height": 2, "width": 3, "rgb": rgb}
    return _headed("exact fractions", len(rows) + 1, "exact", cases=rows, pictures=[picture])


def _level(x: float) -> int:
    """floor(clamp(x / 2 + 1 / 2) * 255 + 1 / 2); not-a-number is 0."""
    if not math.isfinite(x):
        return 255 if x > 0 else 0
    unit = min(max(Fraction(x) / 2 + Fraction(1, 2), Fraction(0)), Fraction(1))
    return math.floor(unit * 255 + Fraction(1, 2))


def end_to_end() -> dict[str, Any]:
    """The pictures of optimum's pipeline on the tiny bundle: RGB bytes, rows from the top, base64."""
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    pipe = ORTStableDiffusionPipeline.from_pretrained(ROOT / TINY, use_io_binding=False)
    pipe.set_progress_bar_config(disable=True)
    height, width = json.loads((ROOT / TINY / "manifest.json").read_text())["image_size"]
    rows = [{**case, "rgb": _picture(pipe, case, height, width)} for case in cases.END_TO_END]
    facts = {"height": height, "width": width, "cases": rows}
    return _headed("optimum.ORTStableDiffusionPipeline", len(rows), {"psnr_db": 50}, **facts)


def _picture(pipe: Any, case: Mapping[str, Any], height: int, width: int) -> str:
    import torch

    options = {key: case[key] for key in case if key not in ("prompt", "seed")}
    draw = torch.Generator("cpu").manual_seed(int(case["seed"]))
    size = {"height": height, "width": width}
    options = {"guidance_scale": 0.0, **options, **size, "generator": draw, "output_type": "np"}
    unit = pipe(case["prompt"], **options).images[0]
    return base64.b64encode(np.floor(unit * 255 + 0.5).astype(np.uint8).tobytes()).decode()


def sdxl() -> dict[str, Any]:
    """What diffusers' pipeline of SDXL gives a tiny random U-Net, and its latents."""
    pipe = golden_sdxl.pipeline(str(ROOT / TINY / "tokenizer"))
    base = json.loads((ROOT / TINY / "manifest.json").read_text())
    near = golden_sdxl.near_bits(bits)
    texts = [golden_sdxl.encoded(pipe, text, near) for text in golden_sdxl.texts()]
    rows = [golden_sdxl.run(pipe, case, near) for case in golden_sdxl.CASES]
    facts = {"manifest": golden_sdxl.manifest(pipe, base), "tokenizer": f"{TINY}/tokenizer", "rows": golden_sdxl.ROWS}
    facts |= {"texts": texts, "cases": rows}
    return _headed("diffusers.StableDiffusionXLPipeline", len(rows), {"relative": NEAR}, **facts)


def default_bundle() -> dict[str, Any]:
    """The runtime's pictures of the default bundle on the CPU: RGB bytes, rows from the top, base64."""
    with runtime.load(provider="cpu") as pipe:
        height, width = pipe.manifest.image_size
        rows = [{**case, "rgb": _drawn(pipe, case)} for case in cases.DEFAULT_BUNDLE]
        facts = {"bundle": pipe.manifest.name, "height": height, "width": width, "cases": rows}
    # processors without 8-bit products of their own round otherwise: they check that it is this picture, no more
    return _headed("runtime, onnxruntime on a CPU", len(rows), {"psnr_db": 40, "check_psnr_db": 30}, **facts)


def _drawn(pipe: runtime.Pipeline, case: Mapping[str, Any]) -> str:
    options = {"seed": int(case["seed"]), "num_inference_steps": case["num_inference_steps"]}
    if "to" in case:
        ends = [pipe.encode_prompt(case[name]) for name in ("prompt", "to")]
        (image,) = pipe(prompt_embeds=lerp(ends[0], ends[1], case["t"]), **options)
    else:
        (image,) = pipe(case["prompt"], **options)
    return base64.b64encode(image.tobytes()).decode()


def variation() -> dict[str, Any]:
    """Prompts as `runtime.variation` completes them, by a table for reading and by a part of the world's."""
    tables = {"small": varied.table(), "world": json.loads((ROOT / "scripts" / "variation_world.json").read_text())}
    rows: list[dict[str, Any]] = [
        {"table": name, "prompt": prompt, "seed": str(seed)}
        for name, prompts in varied.PROMPTS.items()
        for prompt in prompts
        for seed in varied.SEEDS
    ]
    for name, prompt, chosen in (*varied.CHOSEN, *varied.REFUSED):
        rows += [{"table": name, "prompt": prompt, "seed": str(seed), "chosen": chosen} for seed in (1, 7)]
    for row in rows:
        made = Variation.from_json(tables[row["table"]])
        with suppress(ValueError):
            row["completed"] = made.complete(row["prompt"], int(row["seed"]), row.get("chosen"))
    limited = _limited(Variation.from_json(tables["small"]))
    count = len(rows) + len(limited["cases"])
    return _headed("runtime.variation", count, "exact", tables=tables, cases=rows, limited=limited)


def _limited(table: Variation) -> dict[str, Any]:
    """Prompts that leave little room in a text encoder's tokens."""
    tokenizer = Tokenizer.from_folder(ROOT / TOKENIZERS[0])

    def fits(text: str) -> bool:
        return not tokenizer.encode(text, MAX_TOKENS).dropped_words

    pairs = [(prompt, seed) for prompt in varied.LONG for seed in (1, 7)]
    rows = [
        {"prompt": one, "seed": str(seed), "completed": table.complete(one, seed, fits=fits)} for one, seed in pairs
    ]
    return {"tokenizer": TOKENIZERS[0], "max_tokens": MAX_TOKENS, "table": "small", "cases": rows}


def manifests() -> dict[str, dict[str, Any]]:
    """Every manifest file, and the index that says which are valid."""
    base = json.loads((ROOT / TINY / "manifest.json").read_text())
    valid, invalid = cases.manifests(base)
    files = {f"manifests/valid/{name}.json": data for name, data in valid.items()}
    files |= {f"manifests/invalid/{name}.json": data for name, (_, data) in invalid.items()}
    rows: list[dict[str, Any]] = [{"file": f"valid/{name}.json", "valid": True} for name in valid]
    rows += [{"file": f"invalid/{name}.json", "valid": False, "why": invalid[name][0]} for name in invalid]
    index = _headed("the format itself", len(rows), "exact", cases=rows)
    return files | {"manifests/index.json": index}


def bits(values: Any) -> Any:
    """The bits of float32 as 8 hexadecimal digits: a string for a scalar, a flat list for an array."""
    array = np.asarray(values, np.float32)
    texts = [f"{word:08x}" for word in array.ravel().view(np.uint32).tolist()]
    return texts if array.ndim else texts[0]


def _headed(reference: str, count: int, tolerance: Any, **content: Any) -> dict[str, Any]:
    return {"reference": reference, "count": count, "tolerance": tolerance, **content}


FILES: dict[str, Callable[[], dict[str, Any]]] = {
    "tokenizer.json": tokenizer,
    "noise.json": noise,
    "schedule.json": schedule,
    "pixels.json": pixels,
    "tiny_bundle/end_to_end.json": end_to_end,
    "sdxl.json": sdxl,
    "default_bundle.json": default_bundle,
    "variation.json": variation,
}


def computed() -> dict[str, dict[str, Any]]:
    """Every golden file's content, by its path inside tests/golden."""
    return {name: make() for name, make in FILES.items()} | manifests()


def differences(expected: Any, found: Any, where: str = "", psnr_db: float = 50) -> list[str]:
    """Where two JSON values differ by more than is allowed: nothing, 1 ulp in bits, `psnr_db` in pictures."""
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        return [line for key in expected for line in differences(expected[key], found[key], f"{where}.{key}", psnr_db)]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = zip(expected, found, strict=True)
        return [line for i, pair in enumerate(pairs) for line in differences(*pair, f"{where}[{i}]", psnr_db)]
    if expected == found or _near(where.rpartition(".")[2], expected, found, psnr_db):
        return []
    return [f"{where}: {str(expected)[:60]} is now {str(found)[:60]}"]


def _near(key: str, expected: Any, found: Any, psnr_db: float) -> bool:
    """Allows 1 ulp for bits, NEAR for what networks compute, `psnr_db` for pictures; everything else is exact."""
    if key == "rgb" and isinstance(expected, str):
        a, b = (np.frombuffer(base64.b64decode(text), np.uint8).astype(float) for text in (expected, found))
        return len(a) == len(b) and float(np.mean((a - b) ** 2)) < 255**2 / 10 ** (psnr_db / 10)
    if key.partition("[")[0] in ("bits", "expected", "alphas", "sigmas") and isinstance(expected, str):
        return abs(int(expected, 16) - int(found, 16)) <= 1
    if key.partition("[")[0] == "near" and isinstance(expected, str):
        one, other = (float(np.uint32(int(text, 16)).view(np.float32)) for text in (expected, found))
        return abs(one - other) <= NEAR * max(1.0, abs(one))
    return False


def _text(data: dict[str, Any]) -> str:
    """JSON with one line per case, so that a change shows as the lines that changed."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace('},{"', '},\n{"').replace(':[{"', ':[\n{"') + "\n"


def write() -> None:
    """Writes every golden file whole."""
    for name, data in computed().items():
        (GOLDEN / name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(GOLDEN / name, _text(data).encode())
        print(GOLDEN / name)


def check() -> list[str]:
    """What differs between the golden files and a fresh computation; [] when nothing does."""
    lines = []
    for name, data in computed().items():
        if not (GOLDEN / name).is_file():
            lines.append(f"{name} is missing: run python -m scripts.golden")
            continue
        fresh = json.loads(json.dumps(data))
        tolerance = fresh["tolerance"] if isinstance(fresh.get("tolerance"), dict) else {}
        expected = json.loads((GOLDEN / name).read_text())
        lines += differences(expected, fresh, name, tolerance.get("check_psnr_db", 50))
    known = set(FILES) | set(manifests())
    stray = {path.relative_to(GOLDEN).as_posix() for path in (GOLDEN / "manifests").rglob("*.json")} - known
    return lines + [f"{name} is not written by scripts.golden" for name in sorted(stray)]


EXAMPLES = """examples:
  python -m scripts.golden
  python -m scripts.golden --check"""


def parser() -> Parser:
    """The command line."""
    made = command_parser("scripts.golden", __doc__, EXAMPLES, json=False)
    made.add_argument("--check", action="store_true", help="compare instead of writing")
    return made


def work(args: argparse.Namespace) -> int:
    """Write the files, or compare them; 1 when one differs."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if not args.check:
        write()
        return 0
    lines = check()
    for line in lines[:20]:
        print(line, file=sys.stderr)
    print(f"{len(lines)} differences" if lines else "every golden file is as computed")
    return 1 if lines else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())

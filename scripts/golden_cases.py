"""The inputs of the golden files: cases at the boundaries first, then seeded random ones."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

from runtime.variation import Variation
from scripts import variation_cases as varied

BOUNDARY_TEXTS = (
    "", " ", "\t\n", "a red fox, 3d style", "A RED FOX", "fox", "fox!", "!!!fox???", "...", "- - -",
    "a,b;c:d", "don't can't we'll I'm you're they've he'd it's", "DON'T WE'LL", "'s 't 're", "' s",
    "''ll", "rock'n'roll", "l'été", "it’s “curly”", "0", "42", "3d", "1234567890", "1.5", "v2.0-rc1",
    "½ ⅓", "Ⅷ", "x²", "٣٤", "１２", "1st 2nd", "🦊", "🦊🦊", "fox🦊fox", "👨‍👩‍👧", "❤️", "👍🏽", "🇫🇷",
    "漢字", "漢 字", "ひらがな カタカナ", "한국어", "你好，世界。", "é", "e\u0301", "cafe\u0301",
    "q\u0323\u0307", "q\u0307\u0323", "\u0301", "a\u0301\u0301", "नमस्ते", "สวัสดี", "שלום", "مرحبا",
    "a\u00a0b", "\u00a0", "a\u202fb", "a\u3000b", "a\u2028b", "a\u0085b", "a\u200bb", "a\ufeffb",
    "a\u00adb", "a\x1cb", "a\x00b", "\x7f", "İstanbul", "IŞIK ıI", "İ", "ß ẞ", "ΑΣ", "ΟΔΟΣ ΣΑΣ", "ŉ ǅ ﬁ",
    "ſ 'ſ", "K Å", "ᾼ", "ΐ", "<|endoftext|>", "<|startoftext|>", "a<|endoftext|>b", "<|EndOfText|>",
    "<|endoftext", "<| endoftext |>", "<|endoftext|><|endoftext|>", "<|startoftext|>a fox<|endoftext|>",
    "</w>", "fox</w>", "&amp; <b>", "#version: 0.2", "http://example.org/a?b=c&d=e", "snake_case_word",
    "CamelCase", "a--b", "(a) [b] {c}", "a\\b", '"quoted"', "$5 €5 £5",
    "supercalifragilisticexpialidocious", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "zxqjvk" * 20,
    "a" * 300, "!" * 200, "9" * 90,
    # marks that came after Unicode 9, by which the reference composes: no accent moves over them
    "a\u1ac1\u0301", "e\u08d3\u0301", "o\U00011070\u0301", "a\u1df6\u0323\u0301", "e\u0898\u0323\u0301",
)  # fmt: skip
TOKEN_COUNTS = (73, 74, 75, 76, 77, 78)  # around the 75 that fit between the marks
PIECES = (
    *"aeiostrdlmvSTDLM", *"0123", *"'<|>.,!?-_/ ", " ", " ", "'s", "'LL", "'re", "the", "fox", "style",
    "3d", "<|endoftext|>", "é", "e\u0301", "İ", "ß", "Σ", "漢", "字", "カ", "한", "ᄀ", "ᅡ", "ᆨ", "🦊",
    "\u200d", "\ufe0f", "½", "٣", "\u00a0", "\u3000", "\n", "\x1f", "ǅ", "ﬁ", "ñ", "я", "Я", "م",
    "\u0345",
)  # fmt: skip
RANDOM_TEXTS = 400

TOKEN_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
ADDED_TOKENS: tuple[tuple[str, dict[str, bool]], ...] = (
    ("<frog-toy>", {"normalized": True}),
    ("<frog", {"normalized": True}),
    ("<Exact>", {"normalized": False}),
    ("<one>", {"normalized": False, "single_word": True}),
    ("two Words", {"normalized": True}),
    ("Ünder", {"normalized": True}),
    ("on2", {"normalized": True, "single_word": True}),
    ("<wide>", {"normalized": False, "lstrip": True, "rstrip": True, "special": True}),
)
ADDED_PIECES = (
    *(content for content, _ in ADDED_TOKENS), "<FROG-TOY>", "<exact>", "TWO  words", "U\u0308nder", "ON2", "!", "!!",
    " ", " ", " ", "fox", "'s", ",", "_", "9", "é", "漢", "\u0301", "\u00a0", "½", "<|endoftext|>",
    "<|EndOfText|>", "\n",
)  # fmt: skip

NOISE_SEEDS = (
    0, 1, 7, 42, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 7, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1,
    -1, -7, -(2**31), -(2**63), 1234567890123456789,
)  # fmt: skip
NOISE_SHAPES = (
    (1,),
    (2,),
    (3, 5),
    (16,),
    (17,),
    (31,),
    (32,),
    (33,),
    (5, 4, 5),
    (4, 8, 8),
    (16, 16, 16),
    (4, 64, 64),
)

STEP_COUNTS = (1, 2, 3, 4, 5, 8, 25, 50, 1000)

PROMPTS = ("a red fox, 3d style", "a pizza", "snowman, flat style", "🦊 it's 42")
END_TO_END: tuple[dict[str, Any], ...] = (
    {"prompt": PROMPTS[0], "seed": "7", "num_inference_steps": 1},
    {"prompt": PROMPTS[0], "seed": "8", "num_inference_steps": 1},
    {"prompt": PROMPTS[1], "seed": "0", "num_inference_steps": 1},
    {"prompt": PROMPTS[2], "seed": "18446744073709551615", "num_inference_steps": 1},
    {"prompt": PROMPTS[3], "seed": "4294967303", "num_inference_steps": 1},
    {"prompt": PROMPTS[0], "seed": "7", "num_inference_steps": 2},
    {"prompt": PROMPTS[0], "seed": "7", "num_inference_steps": 3},
    {"prompt": PROMPTS[1], "seed": "3", "num_inference_steps": 4},
    {
        "prompt": PROMPTS[1],
        "seed": "3",
        "num_inference_steps": 2,
        "guidance_scale": 4.0,
        "negative_prompt": "cheese",
    },
)
# Of the default bundle. "to" and "t": text states mixed in a straight line with a second prompt's. "psnr_db": in place
# of the file's tolerance: one value that an 8-bit network rounds the other way spreads, from step to step even more.
DEFAULT_BUNDLE: tuple[dict[str, Any], ...] = (
    {"prompt": "a red fox, 3d style", "seed": "7", "num_inference_steps": 1},
    {"prompt": "a slice of pizza, flat style", "seed": "18446744073709551615", "num_inference_steps": 1},
    {"prompt": "🚀 rocket's, cartoon style", "seed": "4294967303", "num_inference_steps": 2, "psnr_db": 34},
    {"prompt": "a red car", "to": "a blue car", "t": 0.25, "seed": "0", "num_inference_steps": 1, "psnr_db": 36},
)


def tokenizer_texts() -> list[str]:
    """Boundary cases, every length around the limit, and random mixtures of awkward pieces."""
    draw = random.Random(7)
    mixtures = ["".join(draw.choices(PIECES, k=draw.randint(1, 60))) for _ in range(RANDOM_TEXTS)]
    lengths = [" ".join(["fox"] * count) for count in TOKEN_COUNTS]
    return [*BOUNDARY_TEXTS, *lengths, *mixtures]


def added_token_texts() -> list[str]:
    """Every added token alone, in a word, beside punctuation, in capitals, at the edge, and in random mixtures."""
    draw = random.Random(8)
    forms = ("{}", "a {}, red", "my{}x", "{}{}!", "A {}.", "fox! " * 36 + "{} {} {} {}")
    written = [one for content, _ in ADDED_TOKENS for one in (content, content.upper())]
    mixtures = ["".join(draw.choices(ADDED_PIECES, k=draw.randint(1, 30))) for _ in range(RANDOM_TEXTS // 2)]
    return ["", "fox", "fox!", "! a !", *(form.replace("{}", one) for one in written for form in forms), *mixtures]


def one_file_texts() -> list[str]:
    """The boundary cases, and the added token in every form."""
    forms = ("{}", "a {}, red", "my{}x", "{}{}!", "A {}.", "fox! " * 36 + "{} {} {} {}")
    return [*BOUNDARY_TEXTS, *(form.replace("{}", one) for one in ("<frog-toy>", "<FROG-TOY>") for form in forms)]


def pixel_values() -> list[float]:
    """Values of [-1, 1] pictures: ends, beyond them, the exact half, values beside each level's threshold."""
    special = [0.0, -0.0, 1.0, -1.0, 1.5, -1.5, 1e30, -1e30, 1e-30, math.inf, -math.inf, math.nan]
    thresholds = [(level + 0.5) / 255 * 2 - 1 for level in range(255)]
    return special + [edge + nudge for edge in thresholds for nudge in (-1e-5, 1e-5)]


# (diffusers' class, changes of the tiny bundle's configuration)
SCHEDULERS: list[tuple[str, dict[str, Any]]] = [
    ("DDIMScheduler", {}),
    ("EulerDiscreteScheduler", {"prediction_type": "epsilon"}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("HeunDiscreteScheduler", {}),
    ("LCMScheduler", {"prediction_type": "epsilon"}),
    ("TCDScheduler", {"prediction_type": "epsilon"}),
    ("DEISMultistepScheduler", {"prediction_type": "epsilon"}),
    ("DPMSolverMultistepScheduler", {}),
    ("UniPCMultistepScheduler", {}),
]
EULER_STEP: dict[str, Any] = {
    "timestep": 999,
    "alpha": 0.06826,
    "sigma": 0.99767,
    "latents": [14.6489],
    "outputs": [-14.6147],
    "noise_scale": 0.99767,
}
MULTISTEP = [
    {**EULER_STEP, "latents": [0.85], "outputs": [0.4], "noise": 0.25, "draw": 1},
    {"timestep": 499.5, "alpha": 0.6, "sigma": 0.8, "latents": [1.5, -0.25], "outputs": [-0.75, 0.125]},
]
HEUN = [EULER_STEP, {**MULTISTEP[1], "latents": [1.0, 0.5]}, {**MULTISTEP[1], "outputs": [1.0]}]


def manifests(
    base: dict[str, Any],
) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[str, dict[str, Any]]]]:
    """(valid, invalid) manifests by name, variations of `base`; an invalid one with what is wrong."""
    steps, files = base["steps"], base["files"]
    entry, facts = steps["1"][0], next(iter(files.values()))
    token = {"id": 914, "content": "<frog-toy>", **dict.fromkeys(TOKEN_FLAGS, False)}
    sdxl = _sdxl(base)
    valid = {
        "tiny": base,
        "sdxl": sdxl,
        "epsilon_int8": {**base, "prediction_type": "epsilon", "precision": "int8"},
        "one_step_only": {**base, "steps": {"1": steps["1"]}, "scaling_factor": 0.18215},
        "steps_of_euler": {**base, "steps": {"1": [EULER_STEP]}, "prediction_type": "epsilon"},
        "steps_with_memory": {**base, "steps": {"1": steps["1"], "2": MULTISTEP}},
        "steps_of_heun": {**base, "steps": {"1": steps["1"], "2": HEUN}},
        "tokens": {**base, "tokenizer": {"pad_id": 0, "added": [token]}},
        "sizes": {**base, "sizes": [base["image_size"], _larger(base, 2, 1), _larger(base, 1, 2)]},
        "variation": {**base, "variation": Variation.from_json(varied.table()).to_json()},
        "unicode_name": {**base, "name": "狐 🦊", "training": {"any": ["thing", None, 1.5]}},
    }
    invalid = {
        "sizes_none": ("no size at all", {**base, "sizes": []}),
        "sizes_odd": ("a size between two latents", {**base, "sizes": [base["image_size"], [_odd(base), _odd(base)]]}),
        "sizes_twice": ("a size twice", {**base, "sizes": [base["image_size"], base["image_size"]]}),
        "sizes_others": ("sizes without image_size", {**base, "sizes": [_larger(base, 2, 2)]}),
        "sizes_number": ("a size of one number", {**base, "sizes": [base["image_size"], [64]]}),
        "token_field": ("unknown field of a token", _with_token(base, {**token, "colour": "red"})),
        "token_id": ("a token's id is negative", _with_token(base, {**token, "id": -1})),
        "token_id_huge": ("a token's id is huge", _with_token(base, {**token, "id": 2**31})),
        "token_flag": ("a flag is a number", _with_token(base, {**token, "special": 0})),
        "token_empty": ("an empty token", _with_token(base, {**token, "content": ""})),
        "token_long": ("a long token", _with_token(base, {**token, "content": "x" * 201})),
        "token_space": ("white space at a token's end", _with_token(base, {**token, "content": "a "})),
        "token_twice": ("a token twice", {**base, "tokenizer": {"pad_id": 0, "added": [token, token]}}),
        "conditioning_field": ("unknown field of conditioning", _told(sdxl, colour="red")),
        "conditioning_order": ("the second text encoder first", _told(sdxl, text_encoders=_encoders(sdxl)[::-1])),
        "conditioning_alone": ("the second text encoder alone", _told(sdxl, text_encoders=_encoders(sdxl)[1:])),
        "conditioning_states": ("states of no layer", _with_encoder(sdxl, states="hidden_states.x")),
        "conditioning_pooled": ("pooled text by another name", _with_encoder(sdxl, pooled="pooler_output")),
        "conditioning_unpooled": ("time_ids without pooled text", _with_encoder(sdxl, pooled=None)),
        "conditioning_flag": ("time_ids is a number", _told(sdxl, time_ids=1)),
        "no_second_encoder": ("files lacks the second text encoder", {**base, "conditioning": sdxl["conditioning"]}),
        "pad_id": ("pad_id is a text", {**base, "tokenizer": {"pad_id": "0", "added": []}}),
        "version_2": ("unknown format_version", {**base, "format_version": 2}),
        "version_text": ("format_version is a text", {**base, "format_version": "1"}),
        "unknown_field": ("unknown field", {**base, "colour": "red"}),
        "no_name": ("missing field", {key: base[key] for key in base if key != "name"}),
        "empty_name": ("empty name", {**base, "name": ""}),
        "precision": ("unknown precision", {**base, "precision": "int3"}),
        "image_size": ("image_size of one number", {**base, "image_size": [128]}),
        "image_size_zero": ("image_size of 0", {**base, "image_size": [0, 128]}),
        "latent_shape": ("latent_shape of two numbers", {**base, "latent_shape": [16, 16]}),
        "prediction_type": ("unknown prediction_type", {**base, "prediction_type": "flow"}),
        "scaling_factor": ("scaling_factor of 0", {**base, "scaling_factor": 0}),
        "max_tokens": ("max_tokens is no whole number", {**base, "max_tokens": 77.5}),
        "no_steps": ("no steps", {**base, "steps": {}}),
        "step_count": ("two entries under 1", {**base, "steps": {"1": steps["2"]}}),
        "step_order": ("timesteps that rise", {**base, "steps": {"2": steps["2"][::-1]}}),
        "step_field": ("unknown field of a step", {**base, "steps": {"1": [{**entry, "beta": 0.1}]}}),
        "step_weights_alone": ("latents without outputs", {**base, "steps": {"1": [{**entry, "latents": [1.0]}]}}),
        "step_weight": ("a weight that is no number", {**base, "steps": {"1": [{**EULER_STEP, "outputs": ["1"]}]}}),
        "step_memory": (
            "outputs of no step",
            {**base, "steps": {"1": [{**EULER_STEP, "outputs": [1, 2]}]}},
        ),
        "step_draw": ("noise without a draw", {**base, "steps": {"1": [{**EULER_STEP, "noise": 0.5}]}}),
        "step_repeated": ("one timestep twice in two steps", {**base, "steps": {"2": [EULER_STEP, EULER_STEP]}}),
        "step_energy": ("alpha**2 + sigma**2 is not 1", {**base, "steps": {"1": [{**entry, "alpha": 0.9}]}}),
        "no_unet": ("files lacks the U-Net", {**base, "files": _without(files, "unet/model.onnx")}),
        "file_above": ("path out of the folder", {**base, "files": {**files, "../x": facts}}),
        "file_absolute": ("absolute path", {**base, "files": {**files, "/x": facts}}),
        "file_hash": ("sha256 too short", {**base, "files": {**files, "x": {**facts, "sha256": "ab"}}}),
        "file_size": ("bytes below 0", {**base, "files": {**files, "x": {**facts, "bytes": -1}}}),
        "file_field": ("unknown field of a file", {**base, "files": {**files, "x": {**facts, "md5": ""}}}),
        "licence": ("licence without a source", {**base, "licences": [{"what": "a", "licence": "b"}]}),
    }
    for name, (why, table) in varied.damaged().items():
        invalid[f"variation_{name}"] = (f"variation: {why}", {**base, "variation": table})
    return copy.deepcopy(valid), copy.deepcopy(invalid)


def _sdxl(base: dict[str, Any]) -> dict[str, Any]:
    """A manifest with two text encoders."""
    facts = next(iter(base["files"].values()))
    first = {"component": "text_encoder", "tokenizer": "tokenizer", "states": "hidden_states.11", "pooled": None}
    second = {"component": "text_encoder_2", "tokenizer": "tokenizer_2", "states": "hidden_states.31"}
    more = ("text_encoder_2/model.onnx", "tokenizer_2/vocab.json", "tokenizer_2/merges.txt")
    return {
        **base,
        "files": {**base["files"], **dict.fromkeys(more, facts)},
        "tokenizer_2": {"pad_id": 0, "added": []},
        "conditioning": {
            "text_encoders": [first, {**second, "pooled": "text_embeds"}],
            "time_ids": True,
            "zeros_without_negative_prompt": True,
        },
    }


def _encoders(sdxl: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sdxl["conditioning"]["text_encoders"]
    return found


def _told(sdxl: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**sdxl, "conditioning": {**sdxl["conditioning"], **changes}}


def _with_encoder(sdxl: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """With the second text encoder changed."""
    first, second = _encoders(sdxl)
    return _told(sdxl, text_encoders=[first, {**second, **changes}])


def _larger(base: dict[str, Any], down: int, across: int) -> list[int]:
    height, width = base["image_size"]
    return [height * down, width * across]


def _odd(base: dict[str, Any]) -> int:
    return int(base["image_size"][0]) + 1


def _with_token(base: dict[str, Any], token: dict[str, Any]) -> dict[str, Any]:
    return {**base, "tokenizer": {"pad_id": 0, "added": [token]}}


def _without(table: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: table[key] for key in table if key != name}

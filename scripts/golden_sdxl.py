"""Golden runs of SDXL's structure: what diffusers' pipeline gives a tiny U-Net, and what it makes of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from export.steps import steps_of
from runtime.manifest import step_entry
from runtime.tokenizer.vocabulary import MAX_TOKENS

CASES: list[dict[str, Any]] = [
    {"prompt": "a red fox", "seed": 7, "steps": 2, "guidance": 0.0, "negative_prompt": None},
    {"prompt": "a red fox", "seed": 8, "steps": 1, "guidance": 3.0, "negative_prompt": None},
    {"prompt": "their sky", "seed": 9, "steps": 2, "guidance": 2.5, "negative_prompt": "a fox"},
]
WIDTHS, PROJECTED, SIDE = (4, 6), 5, 8
ROWS = [0, 1, MAX_TOKENS - 1]  # of the states, that a call's entry holds
Bits = Callable[[Any], Any]


def pipeline(tokenizer: str) -> Any:
    """A StableDiffusionXLPipeline of random weights; the second tokenizer pads with "!"."""
    import torch
    from diffusers import AutoencoderTiny, EulerAncestralDiscreteScheduler, StableDiffusionXLPipeline
    from diffusers import UNet2DConditionModel as UNet
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    first = CLIPTokenizer.from_pretrained(tokenizer)
    second = CLIPTokenizer.from_pretrained(tokenizer, pad_token="!")
    shared = {"num_hidden_layers": 2, "num_attention_heads": 1, "vocab_size": len(first), "projection_dim": PROJECTED}
    ids = {
        "bos_token_id": first.bos_token_id,
        "eos_token_id": first.eos_token_id,
        "max_position_embeddings": MAX_TOKENS,
    }
    configs = [CLIPTextConfig(hidden_size=width, intermediate_size=8, **shared, **ids) for width in WIDTHS]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet(
            sample_size=SIDE,
            block_out_channels=(4, 8),
            norm_num_groups=2,
            layers_per_block=1,
            attention_head_dim=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=sum(WIDTHS),
            addition_embed_type="text_time",
            addition_time_embed_dim=2,
            projection_class_embeddings_input_dim=PROJECTED + 12,
        )
        encoders = CLIPTextModel(configs[0]), CLIPTextModelWithProjection(configs[1])
        vae = AutoencoderTiny(encoder_block_out_channels=(4,) * 4, decoder_block_out_channels=(4,) * 4)
    scheduler = EulerAncestralDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    pipe = StableDiffusionXLPipeline(vae, *encoders, first, second, unet.eval(), scheduler, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def manifest(pipe: Any, base: Mapping[str, Any]) -> dict[str, Any]:
    """What a bundle's manifest says of it. base: the tiny bundle's."""
    steps = {str(n): [step_entry(step) for step in steps_of(pipe.scheduler, n)] for n in (1, 2)}
    files = dict(base["files"])
    parts = ("text_encoder_2/model.onnx", "tokenizer_2/vocab.json", "tokenizer_2/merges.txt")
    files |= {name: next(iter(files.values())) for name in parts}
    encoders = [
        {"component": "text_encoder", "tokenizer": "tokenizer", "states": "hidden_states.1", "pooled": None},
        {
            "component": "text_encoder_2",
            "tokenizer": "tokenizer_2",
            "states": "hidden_states.1",
            "pooled": "text_embeds",
        },
    ]
    return {
        **base,
        "image_size": [8 * SIDE, 8 * SIDE],
        "latent_shape": [4, SIDE, SIDE],
        "prediction_type": "epsilon",
        "steps": steps,
        "files": files,
        "tokenizer": {"pad_id": pipe.tokenizer.pad_token_id, "added": []},
        "tokenizer_2": {"pad_id": pipe.tokenizer_2.pad_token_id, "added": []},
        "conditioning": {"text_encoders": encoders, "time_ids": True, "zeros_without_negative_prompt": True},
    }


def run(pipe: Any, case: Mapping[str, Any], near: Bits) -> dict[str, Any]:
    """One call of the pipeline: each call of its U-Net, and the latents at the end."""
    import torch

    calls: list[dict[str, Any]] = []

    def keep(_: Any, given: tuple[Any, ...], named: dict[str, Any], made: tuple[Any, ...]) -> None:
        rows = len(made[0])  # of guidance: the negative prompt first
        for i in reversed(range(rows)):
            added = named["added_cond_kwargs"]
            calls.append(
                {
                    "timestep": float(given[1]),
                    "sample": near(given[0][i]),
                    "encoder_hidden_states": near(named["encoder_hidden_states"][i, ROWS]),
                    "text_embeds": near(added["text_embeds"][i]),
                    "time_ids": [int(size) for size in added["time_ids"][i]],
                    "output": near(made[0][i]),
                }
            )

    hook = pipe.unet.register_forward_hook(keep, with_kwargs=True)
    made = pipe(
        case["prompt"],
        negative_prompt=case["negative_prompt"],
        num_inference_steps=case["steps"],
        guidance_scale=case["guidance"],
        generator=torch.Generator("cpu").manual_seed(case["seed"]),
        output_type="latent",
    )
    hook.remove()
    return {**case, "calls": calls, "latents": near(made.images[0])}


def texts() -> list[str]:
    """Every prompt of the cases."""
    return sorted({text for case in CASES for text in (case["prompt"], case["negative_prompt"]) if text is not None})


def encoded(pipe: Any, text: str, near: Bits) -> dict[str, Any]:
    """A prompt's ids, without padding, by both tokenizers, and what both encoders give."""
    import torch

    rows = []
    for name in ("", "_2"):
        tokenizer, model = getattr(pipe, f"tokenizer{name}"), getattr(pipe, f"text_encoder{name}")
        ids = tokenizer(text, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids
        with torch.no_grad():
            made = model(ids, output_hidden_states=True)
        length = len(tokenizer(text).input_ids)
        row = {"ids": ids[0, :length].tolist(), "states": near(made.hidden_states[-2][0])}
        rows.append(row | {"pooled": near(made.text_embeds[0]) if name else None})
    return {"text": text, "encoders": rows}


def near_bits(bits: Bits) -> Bits:
    """Floats of networks, which another processor computes nearly the same."""
    return lambda values: {"near": bits(np.asarray(values.detach(), np.float32))}

"""Builds networks, data and one ADD step from the settings; checks all of them before anything is trained."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from runtime.errors import UserError
from train.add.discriminator import VIRTUAL_BATCH, Discriminator
from train.add.feature_networks import FeatureNetwork, MobileNetTaps, PictureFeatures, TeacherFeatures, load_dino
from train.add.guide import TeacherGuide
from train.add.step import AddStep
from train.checkpoint import load_pipeline
from train.config import INITS, RANDOM_TEACHER, Config
from train.data.encoders import Encoders, encode_texts
from train.data.examples import DataSource, Examples
from train.data.pairs import Pairs
from train.data.sources import open_source
from train.diffusion import LAST_TIMESTEP, NoiseLevels
from train.families import KINDS, Kind
from train.folders import pipeline_kind
from train.latents import VaeDecoder, decode_all, fit_linear_decoder
from train.lora import add_lora
from train.opening.resolve import resolve_checkpoint
from train.opening.second_text import text_parts, told
from train.random_teacher import make_random_teacher
from train.run.engine import Engine, whole
from train.run.learning_rate import learning_rate, set_rate
from train.run.timing import Timer
from train.sizes import latent_side, text_widths
from train.student import build_student
from train.world.source import Drawing, is_world, open_world

log = logging.getLogger(__name__)
LINEAR_PROBE = 128  # pictures that the linear decoder is fitted to
COMPILED_TOLERANCE = 0.05  # how far compiled gradients may be from eager ones; rounding in bf16 gives 0.01
SAMPLES = 16  # pictures on a sheet of samples


@dataclass
class Parts:
    """The assembled run.

    probe: fixed real examples, the same in every process and after every resume; their captions are those of the
    samples and of the scores.
    """

    pipeline: Any  # StableDiffusionPipeline or StableDiffusionXLPipeline
    kind: Kind
    teacher: UNet2DConditionModel
    student: UNet2DConditionModel  # unwrapped
    source: DataSource
    probe: Examples
    levels: NoiseLevels
    step: AddStep
    timer: Timer


def build(config: Config, engine: Engine) -> Parts:
    """Raises UserError when teacher, data or settings do not fit together."""
    check_seen(config, engine)
    torch.manual_seed(config.seed)
    folder = resolve_checkpoint(_teacher_folder(config, engine))
    pipeline, kind = load_pipeline(folder, kinds=KINDS), pipeline_kind(folder, KINDS)
    text_encoder, tokenizer = text_parts(pipeline, kind)
    check_teacher(pipeline, config.teacher)
    told(pipeline.unet, pipeline.vae_scale_factor)
    if config.student == "lora" and engine.sharded:
        raise UserError("student=lora trains few weights: launch it without FSDP")
    student = make_student(pipeline, config)
    teacher = pipeline.unet.requires_grad_(False).eval()
    teacher.to(engine.device, torch.bfloat16 if engine.bf16 else torch.float32)
    side = latent_side(pipeline.unet) * pipeline.vae_scale_factor
    encoders = Encoders(pipeline.vae, text_encoder, tokenizer, side, engine.device)
    source = _open_source(config, engine, encoders)
    pairs = Pairs(Path(config.pairs), encoders, source.latent_shape) if config.pairs else None
    levels = NoiseLevels.of(pipeline.scheduler, engine.device)
    probe = take_probe(source, max(SAMPLES, config.score_pictures, LINEAR_PROBE * (config.decoder == "linear")))
    probe.latents, probe.text = engine.broadcast(probe.latents), engine.broadcast(probe.text)
    decoder = make_decoder(config, pipeline.vae, probe).to(engine.device)
    torch.manual_seed(config.seed)
    discriminator = make_discriminator(config, teacher, levels, source).to(engine.device)
    if config.gradient_checkpointing:
        student.enable_gradient_checkpointing()
    optimizer_d = torch.optim.AdamW(
        discriminator.heads.parameters(), lr=config.lr_discriminator, betas=(0.5, 0.99), weight_decay=0.0
    )
    wrapped, optimizer = engine.prepare(
        student,
        lambda trained: torch.optim.AdamW(
            trained, lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=not engine.sharded
        ),
    )
    forward = compiled(wrapped, probe, engine) if config.compile else wrapped
    negative = encode_texts(text_encoder, tokenizer, [config.negative_prompt])[0]
    guide = TeacherGuide(
        torch.compile(teacher) if config.compile else teacher,
        levels,
        source.no_text.to(engine.device),
        negative.to(engine.device),
        config,
    )
    rates, timer = partial(set_learning_rates, config, optimizer, optimizer_d), Timer()
    step = AddStep(
        config,
        engine,
        source,
        forward,
        discriminator,
        guide,
        levels,
        decoder,
        optimizer,
        optimizer_d,
        rates,
        timer,
        pairs,
    )
    return Parts(pipeline, kind, teacher, engine.unwrap(wrapped), source, probe, levels, step, timer)


def check_seen(config: Config, engine: Engine) -> None:
    """Raises UserError unless every micro-batch shows the discriminator equally many pictures, at least one."""
    parts, seen = config.batch // engine.micro_batch, config.adversarial_batch or config.batch
    if config.pair_batch % parts:
        raise UserError(
            f"pair_batch={config.pair_batch} cannot be dealt to {parts} micro-batches; make it a multiple of {parts}"
        )
    if seen % parts:
        raise UserError(
            f"adversarial_batch={seen} cannot be dealt to {parts} micro-batches; make it a multiple of {parts}"
        )
    if parts > 1 and seen // parts % VIRTUAL_BATCH:
        log.warning(
            "the discriminator's batch norm sees %d pictures at once instead of %d: the result depends on micro_batch",
            seen // parts,
            VIRTUAL_BATCH,
        )


def set_learning_rates(
    config: Config, optimizer: torch.optim.Optimizer, optimizer_d: torch.optim.Optimizer, step: int
) -> None:
    """The rates of a step, of the student and of the discriminator: warm-up, constant, half a cosine to zero."""
    for one, peak in ((optimizer, config.lr), (optimizer_d, config.lr_discriminator)):
        set_rate(one, learning_rate(step, peak, config.max_steps, config.warmup, config.decay_from))


def compiled(network: nn.Module, probe: Examples, engine: Engine) -> Any:
    """torch.compile's version of the student. Raises UserError when its gradients are not the network's own.

    torch 2.13 compiles the backward pass of some U-Nets wrongly on the CPU, their forward pass being right.
    """
    quick: Any = torch.compile(network)
    rows = slice(0, min(engine.micro_batch, len(probe.latents)))
    x, text = probe.latents[rows].to(engine.device), probe.text[rows].to(engine.device)
    timesteps = torch.full((len(x),), LAST_TIMESTEP, device=engine.device)
    gradients = []
    for one in (network, quick):
        network.zero_grad(set_to_none=True)
        with engine.autocast():
            output = one(x, timesteps, text).sample
        output.float().square().mean().backward()
        gradients.append([whole(p.grad).clone() for p in network.parameters() if p.grad is not None])
    network.zero_grad(set_to_none=True)
    apart = torch.stack([(a - b).norm() for a, b in zip(*gradients, strict=True)]).norm()
    share = float(apart / torch.stack([a.norm() for a in gradients[0]]).norm())
    if not share < COMPILED_TOLERANCE:
        raise UserError(
            f"compile=true: torch.compile computes different gradients for this network here ({share:.0%} apart); "
            "use compile=false"
        )
    return quick


def _teacher_folder(config: Config, engine: Engine) -> str | Path:
    """The teacher's folder; a random one is made in the run folder first."""
    if not config.teacher.startswith(RANDOM_TEACHER):
        return config.teacher
    folder = Path(config.run_dir) / "teacher"
    if engine.is_main and not (folder / "model_index.json").is_file():
        make_random_teacher(folder, config.teacher.removeprefix(RANDOM_TEACHER), seed=config.seed)
    engine.wait()
    return folder


def check_teacher(pipeline: Any, name: str) -> None:
    """Raises UserError unless the pipeline is shaped like Stable Diffusion 1, 2 or XL and its parts fit together."""
    unet, vae = pipeline.unet, pipeline.vae
    encoders = [one for key, one in pipeline.components.items() if key.startswith("text_encoder")]
    latents, width = vae.config.latent_channels, sum(one.config.hidden_size for one in encoders)
    if not isinstance(unet, UNet2DConditionModel):
        raise UserError(f"teacher={name}: its network is a {type(unet).__name__}; a UNet2DConditionModel is needed")
    if (unet.config.in_channels, unet.config.out_channels) != (latents, latents):
        raise UserError(
            f"teacher={name}: the U-Net maps {unet.config.in_channels} to {unet.config.out_channels} channels, the "
            f"autoencoder's latents have {latents}; an inpainting or foreign U-Net cannot be distilled"
        )
    latent_side(unet)
    if text_widths(unet) != {width}:
        raise UserError(
            f"teacher={name}: the U-Net reads texts {unet.config.cross_attention_dim} wide, the text encoder's are "
            f"{width} wide; these parts do not belong together"
        )


def make_student(pipeline: Any, config: Config) -> UNet2DConditionModel:
    """The student before training, in single precision. Raises UserError when the shape is impossible."""
    teacher = pipeline.unet
    if config.init not in INITS:
        start = load_pipeline(config.init, kinds=KINDS)  # a one-step checkpoint to continue from
        check_start(start, pipeline, config.init)
        teacher = start.unet
    name = "full" if config.init == "pretrained" or config.student == "lora" else config.student
    student = build_student(
        teacher,
        name,
        layers=config.layers,
        mid_block=config.mid_block,
        attention=config.attention,
        init="random" if config.init == "random" else "pruned",
    )
    if config.student == "lora":
        add_lora(student, config.lora_rank, config.lora_rank)
    return told(student, pipeline.vae_scale_factor).train()


def check_start(start: Any, teacher: Any, name: str) -> None:
    """Raises UserError unless a checkpoint is compatible with the teacher: latents, texts, schedule, prediction."""
    for key in ("in_channels", "out_channels", "cross_attention_dim", "sample_size", "addition_embed_type"):
        if (ours := start.unet.config[key]) != (theirs := teacher.unet.config[key]):
            raise UserError(f"init={name}: its U-Net has {key}={ours}, the teacher's has {theirs}")
    ours, theirs = NoiseLevels.of(start.scheduler), NoiseLevels.of(teacher.scheduler)
    if ours.prediction_type != theirs.prediction_type or not torch.allclose(ours.alpha, theirs.alpha, atol=1e-4):
        raise UserError(f"init={name}: its scheduler has another prediction type or noise level than the teacher's")


def _open_source(config: Config, engine: Engine, encoders: Encoders) -> DataSource:
    if is_world(config.data):
        if config.compositions:
            raise UserError(
                "compositions is for folders of shards: set compositions=0, this world has pairs of its own"
            )
        return open_world(config.data, encoders, Drawing.of(config), seed=config.seed, rank=engine.rank)
    return open_source(
        config.data,
        encoders,
        Path(config.run_dir) / "cache",
        streaming=config.streaming,
        seed=config.seed,
        rank=engine.rank,
        world=engine.world,
        shuffle_shards=config.shuffle_shards,
        bad_data=config.bad_data,
        cache_text=config.cache_text,
        compositions=config.compositions,
    )


def take_probe(source: DataSource, count: int) -> Examples:
    """Real examples that do not depend on how far the run is; the source's position stays where it was."""
    position = source.state()
    probe = source.take(count, slice(0, count), np.random.default_rng(0), 0.0)
    source.restore(position)
    return probe


def make_discriminator(
    config: Config, teacher: UNet2DConditionModel, levels: NoiseLevels, source: DataSource
) -> Discriminator:
    """ADD on pictures, or LADD on the teacher's features of latents."""
    network: FeatureNetwork
    if config.features == "teacher":
        network = TeacherFeatures(teacher, levels, source.latent_shape, config.precision == "bf16")
    else:
        taps = MobileNetTaps() if config.features == "mobilenet_v2" else load_dino(config.features_path)
        with torch.no_grad():
            widths = tuple(f.shape[1] for f in taps(torch.zeros(1, 3, 64, 64)))
        network = PictureFeatures(taps, widths, config.augment, config.feature_side)
    return Discriminator(network, source.no_text.shape[-1], config.conditioning)


def make_decoder(config: Config, vae: Any, probe: Examples) -> nn.Module:
    """How pictures are made in every step: the autoencoder's decoder, or its least-squares linear approximation."""
    if config.decoder == "vae":
        return VaeDecoder(vae)
    latents = probe.latents[:LINEAR_PROBE].cpu()
    return fit_linear_decoder(latents, decode_all(vae, latents))

"""What `runtime.bench` measures, put together: figures, ratios to peers, the table."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.bench.engines import PEERS, Engine, peer_folder, versions
from runtime.bench.machine import cpu_name, spread
from runtime.bench.run import Run, cold, prompt_of, ratios, steady
from runtime.bundle import resolve_bundle
from runtime.cache import cache_folder
from runtime.errors import Error
from runtime.progress import Rate

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"  # of a source tree


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The whole report. Raises Error, ValueError."""
    if args.turns < 1 or args.threads < 1 or args.cold_runs < 0:
        raise ValueError("--turns and --threads must be 1 or more, --cold-runs 0 or more")
    bundle = resolve_bundle(args.bundle)
    peers = [peer(name, bundle, args) for name in filter(None, args.against.split(","))]
    ours = Run(Engine("addkit", str(bundle), args.provider, args.threads), "")
    able = [ours, *(run for run in peers if not run.why)]
    facts = stages(bundle, args)
    with Rate((args.turns + 3 + (args.cold_runs + 1 if args.cold_runs else 0)) * len(able)) as progress:
        count = iter(range(1, 1_000_000))
        steady(able, args.turns, lambda: progress.done(next(count)))
        cold(able, args.cold_runs, lambda: progress.done(next(count)))
    return {
        "bundle": str(args.bundle or bundle.name),
        **facts,
        "threads": args.threads,
        "turns": args.turns,
        "cpu": cpu_name(),
        "cold_start_s": median(ours.cold_s),
        "latency_ms": spread(ours.ms),
        "images_per_s": round(1000 * len(ours.ms) / sum(ours.ms), 2),
        "peak_rss_mb": round(ours.peak_rss_mb, 1),
        "bundle_mb": round(sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) / 1e6, 1),
        "peers": {run.engine.name: against(ours, run) for run in peers},
    }


def peer(asked: str, bundle: Path, args: argparse.Namespace) -> Run:
    """A peer ready to run, from NAME or NAME=FOLDER; `why` says why it is unavailable. Raises ValueError."""
    name, _, given = asked.partition("=")
    if name not in PEERS:
        raise ValueError(f"there is no peer {name!r}: choose from {', '.join(PEERS)}")
    checkpoint = args.checkpoint or CHECKPOINTS / bundle.name
    if not checkpoint.is_dir() and args.checkpoint is not None:
        raise ValueError(f"there is no folder {checkpoint}: give the checkpoint as --checkpoint DIR")
    if given and not Path(given).is_dir():
        raise ValueError(f"there is no folder {given}: give --against {name}=FOLDER with an export that {name} opens")
    work = args.work or (cache_folder() or Path("out")) / "bench"
    try:
        known = versions(name)
        folder = Path(given) if given else peer_folder(name, bundle, checkpoint if checkpoint.is_dir() else None, work)
    except Error as error:
        return Run(Engine(name, "", "cpu", args.threads), "", why=str(error))
    return Run(Engine(name, str(folder), "cpu", args.threads), known)


def stages(bundle: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of each stage, medians; the rate of a stream of frames; both in this process."""
    import runtime

    with runtime.load(bundle, args.provider, threads=args.threads) as pipe:
        made = [pipe.run(prompt_of(turn), seed=turn)[0].ms for turn in range(-2, args.turns)][2:]
        median_ms = {stage: round(statistics.median(one[stage] for one in made), 3) for stage in made[0]}
        facts = {"provider": pipe.provider, "stages_ms": median_ms}
        if "vae_encoder/model.onnx" not in pipe.manifest.files:
            return facts
        frame = pipe(prompt_of(0), seed=0)[0]
        start = time.perf_counter()
        frames = sum(1 for _ in pipe.stream(prompt_of(0), images=[frame] * args.turns, strength=0.5, seed=1))
        return facts | {"stream_frames_per_s": round(frames / (time.perf_counter() - start), 2)}


def against(ours: Run, run: Run) -> dict[str, Any]:
    """A peer's figures and ours over them."""
    if run.why:
        return {"status": "not run", "why": run.why}
    facts = {
        "status": "run",
        "version": run.version,
        "latency_ms": spread(run.ms),
        "latency_ratio": ratios(ours.ms, run.ms),
        "peak_rss_mb": round(run.peak_rss_mb, 1),
        "peak_rss_ratio": round(ours.peak_rss_mb / run.peak_rss_mb, 3) if run.peak_rss_mb else None,
    }
    if run.cold_s:
        cold_ratio = ratios(ours.cold_s, run.cold_s)
        facts |= {"cold_start_s": median(run.cold_s), "cold_start_ratio": cold_ratio}
    return facts


def median(values: Sequence[float]) -> float | None:
    """The median, rounded to three decimals; None of no values."""
    return round(statistics.median(values), 3) if values else None


def table(facts: dict[str, Any]) -> str:
    """The report for a reader."""
    ms, stage = facts["latency_ms"], facts["stages_ms"]
    listed = ", ".join(f"{name} {value:.1f}" for name, value in stage.items() if name != "total")
    cold_start = "not run" if facts["cold_start_s"] is None else f"{facts['cold_start_s']:.2f} s"
    lines = [
        f"{facts['bundle']} on {facts['provider']}, {facts['threads']} threads, {facts['cpu']}",
        f"  a picture     {ms['median']:.1f} ms ({ms['min']:.1f} to {ms['max']:.1f}), "
        f"{facts['images_per_s']:.1f} per second",
        f"  stages        {listed} ms",
        f"  stream        {facts.get('stream_frames_per_s', 'not run')} frames per second from images",
        f"  cold start    {cold_start} from starting a process to a PNG on disk",
        f"  memory        {facts['peak_rss_mb']:.0f} MB at the peak, of a bundle of {facts['bundle_mb']:.1f} MB",
    ]
    for name, one in facts["peers"].items():
        if one["status"] == "not run":
            lines.append(f"  {name:<14}not run: {one['why']}")
            continue
        ratio, start = one["latency_ratio"], one.get("cold_start_ratio")
        lines.append(
            f"  {name:<14}{one['latency_ms']['median']:.1f} ms; ours is {ratio['median']:.2f} of it "
            f"({ratio['min']:.2f} to {ratio['max']:.2f}), in memory {one['peak_rss_ratio']}"
            + (f", at the start {start['median']:.2f}" if start else "")
        )
    return "\n".join(lines)

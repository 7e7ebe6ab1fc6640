"""`python -m train.doctor RUN`: reads a run's curves and says what is wrong with it, why, and what to try."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.command import Parser, command_parser, print_result, run_command
from runtime.errors import UserError
from runtime.files import check_writable
from train.config import Config, from_json
from train.run.curves import draw_curves
from train.run.telemetry import read_rows

EXAMPLES = """examples:
  python -m train.doctor runs/sticker
  python -m train.doctor runs/sticker --plot curves.png
exit code: 0 nothing is wrong, 1 something was found, 2 there is no run to read."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    name: str
    evidence: str  # the figures that say so
    advice: str  # what to try


def late(rows: Rows, key: str, share: float = 0.25) -> list[float]:
    """A curve's values over the last `share` of the logged rows that have it, at least two; [] when there are fewer."""
    values = [float(row[key]) for row in rows if key in row]
    count = max(2, round(len(values) * share))
    return values[-count:] if len(values) >= 2 else []


def early(rows: Rows, key: str, share: float = 0.25) -> list[float]:
    """The same over the first `share`."""
    values = [float(row[key]) for row in rows if key in row]
    return values[: max(2, round(len(values) * share))] if len(values) >= 2 else []


def collapse(rows: Rows, config: Config) -> Finding | None:
    """Pictures of different captions and seeds have become alike."""
    last, first = late(rows, "diversity"), early(rows, "diversity")
    if not last or statistics.mean(last) >= max(0.15, 0.4 * max(first)):
        return None
    return Finding(
        "collapse",
        f"a batch's pictures differ {statistics.mean(last):.2f} times as much as real ones do "
        f"(at the start: {max(first):.2f})",
        "a new run with a lower adversarial_weight or lr, a higher distillation_weight, loss=both, conditioning=both",
    )


def mean_of_each_caption(rows: Rows, config: Config) -> Finding | None:
    """Two seeds of a caption give one picture, where the teacher draws two."""
    last, teacher = (
        late(rows, "seed_spread"),
        [row["teacher_seed_spread"] for row in rows if "teacher_seed_spread" in row],
    )
    if not last or not teacher or teacher[0] < 0.1 or statistics.mean(last) >= 0.25 * teacher[0]:
        return None
    return Finding(
        "seeds do not matter: the student draws the mean",
        f"two seeds of a caption are {statistics.mean(last):.2f} times as far apart as real pictures, the teacher's "
        f"{teacher[0]:.2f} times",
        "pairs of noise and teacher's picture (python -m train.pairs, then pairs= and pair_batch=), "
        "adversarial_balance=1, reconstruction_weight=0, conditioning=text, more steps",
    )


def noisy_student(rows: Rows, config: Config) -> Finding | None:
    """Pictures differ more than real ones: the student passes its noise on."""
    last = late(rows, "diversity")
    if not last or statistics.mean(last) < 1.25:
        return None
    return Finding(
        "noisy student",
        f"a batch's pictures differ {statistics.mean(last):.2f} times as much as real ones do",
        "a new run with a lower adversarial_weight or lr, or loss=both; a student that starts from random weights "
        "needs a few hundred steps first",
    )


def winning_discriminator(rows: Rows, config: Config) -> Finding | None:
    """Real and fake are told apart beyond the hinge's margins: the discriminator has stopped teaching."""
    real, fake, loss = (late(rows, key) for key in ("d_accuracy_real", "d_accuracy_fake", "loss_d"))
    if not loss or min(statistics.mean(real), statistics.mean(fake)) < 0.93 or statistics.mean(loss) > 0.4:
        return None
    return Finding(
        "winning discriminator",
        f"it is right about {statistics.mean(real):.1%} of real and {statistics.mean(fake):.1%} of fake patches, "
        f"loss_d {statistics.mean(loss):.3f}",
        "raise r1_weight (tenfold), lower lr_discriminator, discriminator_updates=1, augment=true",
    )


def dead_discriminator(rows: Rows, config: Config) -> Finding | None:
    """Real and fake get the same logits: the adversarial gradient is noise."""
    real, fake, loss = (late(rows, key) for key in ("d_real", "d_fake", "loss_d"))
    if not loss or abs(statistics.mean(real) - statistics.mean(fake)) > 0.1 or statistics.mean(loss) < 1.85:
        return None
    return Finding(
        "dead discriminator",
        f"mean logits {statistics.mean(real):+.3f} for real, {statistics.mean(fake):+.3f} for fake, "
        f"loss_d {statistics.mean(loss):.2f} (2 is no opinion)",
        "raise lr_discriminator, discriminator_updates=2, lower r1_weight; in the first few dozen steps this is normal",
    )


def diverging_ema(rows: Rows, config: Config) -> Finding | None:
    """The trained weights run away from their average, which is what is saved."""
    last, first = late(rows, "ema_distance"), early(rows, "ema_distance")
    if not last or statistics.mean(last) < 0.1:  # healthy runs stay below 0.03
        return None
    return Finding(
        "diverging EMA",
        f"the weights are {statistics.mean(last):.0%} of the average's length away from it "
        f"(at the start: {statistics.mean(first):.0%})",
        "lower lr, shorten the average (ema=0.99), lower grad_clip; look at samples/ for the averaged student",
    )


def stalled_data(rows: Rows, config: Config) -> Finding | None:
    """Most of the time goes into waiting for pictures."""
    shares = late(rows, "data_share", 0.5)
    if not shares or statistics.median(shares) < 0.5:
        return None
    return Finding(
        "stalled data",
        f"{statistics.median(shares):.0%} of each step waits for data",
        "keep the shards on a local disk, cache_text=true, a larger shuffle_shards, or let the first epoch finish: "
        "what was encoded is cached",
    )


def not_finite(rows: Rows, config: Config) -> Finding | None:
    """Losses or gradients became NaN or infinite, and the run went back."""
    events = [row for row in rows if row.get("event") == "not_finite"]
    if not events:
        return None
    steps = ", ".join(str(row["step"]) for row in events)
    return Finding(
        "not finite",
        f"at steps {steps}: {events[-1]['what']}",
        "lower lr or adversarial_weight, raise warmup, precision=fp32; bad_data=skip if a picture is the cause",
    )


def clipped_gradient(rows: Rows, config: Config) -> Finding | None:
    """The clip decides the length of nearly every update."""
    norms = late(rows, "grad_norm", 0.5)
    if not norms or statistics.median(norms) < 5 * config.grad_clip:
        return None
    return Finding(
        "gradient above the clip",
        f"median grad_norm {statistics.median(norms):.2g}, grad_clip {config.grad_clip:g}",
        "raise grad_clip, or lower the weight of the term whose grad_* is the largest",
    )


def drowned_term(rows: Rows, config: Config) -> Finding | None:
    """One of the two objectives hardly counts."""
    ratios = late(rows, "grad_ratio", 0.5)
    if not ratios or 0.02 <= statistics.median(ratios) <= 50:
        return None
    name, other = ("adversarial", "distillation") if statistics.median(ratios) < 1 else ("distillation", "adversarial")
    return Finding(
        f"{name} term drowned",
        f"the adversarial gradient is {statistics.median(ratios):.3g} times the distillation gradient",
        f"raise {name}_weight or lower {other}_weight",
    )


CHECKS: tuple[Callable[[Rows, Config], Finding | None], ...] = (
    not_finite,
    collapse,
    mean_of_each_caption,
    noisy_student,
    winning_discriminator,
    dead_discriminator,
    diverging_ema,
    stalled_data,
    clipped_gradient,
    drowned_term,
)


def diagnose(run_dir: Path) -> list[Finding]:
    """Everything that a run's curves show to be wrong. Raises UserError when there is no run to read."""
    path = run_dir / "config.json"
    if not path.is_file():
        raise UserError(f"{run_dir}: no run there (config.json is missing)")
    config = from_json(path.read_text())
    rows = read_rows(run_dir / "metrics.jsonl")
    if len([row for row in rows if "grad_norm" in row]) < 2:
        raise UserError(f"{run_dir}: fewer than two logged steps; let it run on, or lower log_every")
    return [finding for check in CHECKS if (finding := check(rows, config))]


def parser() -> Parser:
    """The command line."""
    made = command_parser("train.doctor", __doc__, EXAMPLES)
    made.add_argument("run", type=Path, metavar="RUN", help="a run folder of python -m train")
    made.add_argument("--plot", type=Path, metavar="PNG", help="also draw the curves there")
    return made


def work(args: argparse.Namespace) -> int:
    """Print what is wrong; 1 when something is."""
    if args.plot:
        check_writable(args.plot)
    findings = diagnose(args.run)
    if args.plot:
        draw_curves(args.run, args.plot)
    if args.json:
        print_result(json.dumps({"run": str(args.run), "findings": [asdict(finding) for finding in findings]}))
    else:
        lines = [f"{one.name}\n  evidence: {one.evidence}\n  try:      {one.advice}" for one in findings]
        print_result("\n".join(lines or ["nothing wrong in the curves"]))
    return 1 if findings else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())

"""A run's curves as one picture."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import UserError
from runtime.files import whole_file
from train.run.telemetry import read_rows

# title -> curves; a panel without any of its curves is left out
PANELS = {
    "losses of the student": ("loss_adv", "loss_distill", "loss_rec"),
    "hinge loss of the discriminator": ("loss_d",),
    "mean logits": ("d_real", "d_fake"),
    "discriminator is right about": ("d_accuracy_real", "d_accuracy_fake"),
    "gradient at the student's x0": ("grad_adv", "grad_distill", "grad_rec"),
    "gradient of the weights": ("grad_norm", "grad_norm_d"),
    "R1": ("r1",),
    "diversity (real = 1)": ("diversity",),
    "distance to the average": ("ema_distance",),
    "KID-Lite0 at checkpoints": ("score_kid_lite0",),
    "learning rate": ("lr",),
    "pictures per second": ("pictures_per_s",),
}
COLUMNS = 4
LOGARITHMIC = ("losses of the student", "gradient at the student's x0", "gradient of the weights", "R1")


def draw_curves(run_dir: Path, target: Path) -> None:
    """Write every panel that the run has rows for as one PNG. Raises UserError when it has none."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in read_rows(run_dir / "metrics.jsonl") if "event" not in row]
    panels = {title: [key for key in keys if any(key in row for row in rows)] for title, keys in PANELS.items()}
    panels = {title: keys for title, keys in panels.items() if keys}
    if not panels:
        raise UserError(f"{run_dir}: no logged steps to draw")
    height = -(-len(panels) // COLUMNS)
    figure, axes = pyplot.subplots(height, COLUMNS, figsize=(16, 2.7 * height), squeeze=False, layout="constrained")
    for axis, (title, keys) in zip(axes.flat, panels.items(), strict=False):
        for key in keys:
            points = [(row["step"], row[key]) for row in rows if key in row]
            axis.plot(*zip(*points, strict=True), label=key, linewidth=1.2, marker="." if len(points) < 12 else "")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
        if title in LOGARITHMIC:
            axis.set_yscale("log")
        if len(keys) > 1:
            axis.legend(fontsize=8)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as partial:
        figure.savefig(partial, dpi=110, format="png")
    pyplot.close(figure)

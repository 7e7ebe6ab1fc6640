"""A run: steps, curves, checkpoints, and what to do when it is interrupted or goes wrong. One loop for every task."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from runtime.command import tell
from runtime.errors import UserError
from runtime.files import check_folder, locked, write_text
from train.config import RunSettings, to_json
from train.finite import NotFinite
from train.progress import progress
from train.run.checkpoints import Checkpoints, State, fill_optimizer, on_cpu, optimizer_tensors
from train.run.engine import Engine, seed_step, settled
from train.run.task import Task, Values
from train.run.telemetry import Telemetry, Window


def start(settings: RunSettings, processes: bool = False) -> Engine:
    """The engine of a run, before anything is read or built for it.

    processes: the task knows how to share its work. Raises UserError when the run cannot be here.
    """
    engine = Engine(settings)
    if engine.world > 1 and not processes:
        raise UserError("this training runs in one process: start it without accelerate launch")
    folder = Path(settings.run_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder to run in")
    refuse_old_state(folder)
    return engine


class Trainer:
    """One run of a task: steps, saves, resumes.

    The folder: config.json, checkpoints/step-N/ (safetensors and JSON), metrics.jsonl, TensorBoard's events.*, and
    what the task leaves there.
    """

    def __init__(self, task: Task, settings: RunSettings, engine: Engine) -> None:
        self.task, self.settings, self.engine = task, settings, engine
        self.run_dir = Path(settings.run_dir)
        self.checkpoints = Checkpoints(self.run_dir, settings.keep, task.go_on)
        self.step = 0
        self.passed_by: list[int] = []  # steps that gave values which are not finite, and are not taken again
        self.restored = 0
        self._stop = 0  # the signal that asked the run to end
        self._over = False  # its minutes have passed
        self._ends: float | None = None  # on the monotonic clock

    def run(self) -> Path:
        """Train to max_steps or for `minutes`, from the newest sound checkpoint; returns the folder of the result.

        SIGTERM and Ctrl-C save and end the process. Raises UserError when the run cannot continue.
        """
        if self.engine.is_main:
            self.run_dir.mkdir(parents=True, exist_ok=True)
        busy = f"another process is training in {self.run_dir}; wait for it, or choose another folder to run in"
        with locked(self.run_dir / ".lock", busy) if self.engine.is_main else nullcontext():
            fresh = self._begin()
            handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
            telemetry = Telemetry(self.run_dir, self.engine.is_main, self.step)
            try:
                if fresh:
                    self._keep(telemetry)
                self._train(telemetry)
            finally:
                telemetry.close()
                for number, handler in handlers.items():
                    signal.signal(number, handler)
            return self.task.finish(self.step, self.checkpoints.best())

    def _begin(self) -> bool:
        """Claim the folder and go to the newest checkpoint; True where there is none yet."""
        if self.checkpoints.steps():
            self.task.check_settings(self.run_dir / "config.json")
        if self.engine.is_main:
            write_text(self.run_dir / "config.json", to_json(self.settings))
            self.checkpoints.remove_remains()
        self.engine.wait()
        return not self.load_newest()

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._stop:  # asked twice: do not wait for the step
            raise KeyboardInterrupt
        self._stop = number

    def _train(self, telemetry: Telemetry) -> None:
        settings, window = self.settings, Window()
        self._ends = time.monotonic() + 60 * settings.minutes if settings.minutes else None
        bar = progress(
            self.task.name, settings.max_steps, self.task.unit, settings.batch, self.step, self.engine.is_main
        )
        with bar as advance:
            while self.step < settings.max_steps and not self._over:
                try:
                    window.add(self.train_step())
                except NotFinite as error:
                    advance(-(self.step - self._restore(error, telemetry)))
                    window = Window()
                    continue
                advance(1)
                window = self._after_step(window, telemetry)

    def train_step(self) -> Values:
        """One step; returns what was measured. Raises NotFinite."""
        seed_step(self.settings.seed, self.step)
        measured = {} if self.step in self.passed_by else self.task.step(self.step)
        self.step += 1
        return measured

    def _after_step(self, window: Window, telemetry: Telemetry) -> Window:
        """Log, save or end when it is time; returns the window that continues measuring."""
        stopping = self.engine.any(bool(self._stop))
        if self._ends is not None:
            self._over = self.engine.any(time.monotonic() > self._ends)
        last = self.step == self.settings.max_steps or self._over
        if self.step % self.settings.log_every == 0 or last or stopping:
            self._log(window, telemetry)
            window = Window()
        if stopping and not last:
            self.save()  # no samples, no score: whoever sent the signal may not wait for them
            self._end_early()
        if self.step % self.settings.save_every == 0 or last:
            self._keep(telemetry)
            window = Window()
        return window

    def _end_early(self) -> None:
        number = int(self._stop or signal.SIGTERM)
        if self.engine.is_main:
            name = signal.Signals(number).name
            tell(f"stopped by {name}: step {self.step} is saved in {self.run_dir}; to continue, {self.task.go_on}")
        self.engine.close()
        sys.exit(128 + number)

    def _restore(self, error: NotFinite, telemetry: Telemetry) -> int:
        """Return to the last good state and skip the failing step from now on; returns the step of that state.

        Everything random is a function of the step, so the same step would fail in the same way again.
        """
        failed = self.step
        self.restored += 1
        if self.restored > self.settings.nan_limit:
            raise UserError(
                f"step {failed}: {error}, and the run went back {self.settings.nan_limit} times already; start a new "
                f"run folder with a lower learning rate; `python -m train.doctor {self.run_dir}` may say more"
            ) from error
        passed_by = [*self.passed_by, failed]
        if not self.load_newest():
            raise UserError(f"step {failed}: {error}, and there is no sound checkpoint to go back to") from error
        self.passed_by = sorted({*self.passed_by, *passed_by})
        telemetry.go_back(self.step)
        telemetry.event(failed, "not_finite", what=str(error), back_to=self.step)
        if self.engine.is_main:
            tell(f"step {failed}: {error}; went back to the checkpoint of step {self.step}, step {failed} is skipped")
        return self.step

    def _log(self, window: Window, telemetry: Telemetry) -> None:
        count, seconds = max(1, window.count), window.seconds
        rate = count * self.settings.batch / seconds
        values = self.engine.mean(window.means()) | self.task.measure(seconds)
        optimizer = next(iter(self.task.optimizers.values()))
        values |= {"lr": float(optimizer.param_groups[0]["lr"]), f"{self.task.unit}_per_s": rate}
        telemetry.row(self.step, values)
        if self.engine.is_main and not sys.stderr.isatty():
            left = (self.settings.max_steps - self.step) * seconds / count
            shown = " ".join(f"{name} {value:.4g}" for name, value in values.items() if name.startswith("loss"))
            tell(
                f"step {self.step}/{self.settings.max_steps} {shown} {rate:.1f} {self.task.unit}/s, "
                f"{left / 60:.1f} min left"
            )

    def _keep(self, telemetry: Telemetry) -> None:
        """Samples, a score and a checkpoint of this step."""
        score = None
        try:
            score = self.task.keep(self.step, telemetry)
        except OSError as error:  # a full disk, say: the checkpoint matters more
            tell(f"step {self.step}: no samples, {error}")
        self.save(score)

    # ---- checkpoints ----------------------------------------------------------------------------------------

    def save(self, score: float | None = None) -> None:
        """Write checkpoints/step-N. All processes must call it; the main one writes."""
        state = self._state()
        failed = ""
        if self.engine.is_main:
            try:
                self.checkpoints.save(state, score)
            except UserError as error:
                failed = str(error)
        if self.engine.any(bool(failed)):
            raise UserError(failed or "the main process could not save a checkpoint")

    def _state(self) -> State:
        tensors = {
            name: {key: on_cpu(value) for key, value in module.state_dict().items()}
            for name, module in self.task.weights.items()
        }
        tensors |= {name: optimizer_tensors(optimizer) for name, optimizer in self.task.optimizers.items()}
        facts = {
            "data": self.engine.gather(self.task.position()),
            "processes": self.engine.world,
            "seed": self.settings.seed,
            "passed_by": self.passed_by,
            "restored": self.restored,
        }
        return State(self.step, tensors, facts)

    def load_newest(self) -> bool:
        """Go to the newest sound checkpoint of the run folder; False when there is none.

        Raises UserError when it is of another network.
        """
        state = self.checkpoints.newest()
        if state is None:
            return False
        try:
            self._fill(state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{self.checkpoints.folder}/step-{state.step} is of another network than these settings make; "
                "choose another folder to run in, or remove it"
            ) from error
        positions, world = state.facts["data"], self.engine.world
        if len(positions) == world:
            self.task.restore(positions[self.engine.rank])
        elif positions[0]:
            tell(
                f"the run was saved by {state.facts['processes']} processes and continues with {world}: "
                f"the data stream starts its epoch again"
            )
        self.step, self.passed_by = state.step, list(state.facts["passed_by"])
        self.restored = max(self.restored, state.facts["restored"])
        return True

    def _fill(self, state: State) -> None:
        for name, module in self.task.weights.items():
            module.load_state_dict(state.tensors[name])
        for name, optimizer in self.task.optimizers.items():
            fill_optimizer(optimizer, state.tensors[name])


def refuse_old_state(run_dir: Path) -> None:
    """Raises UserError when the folder holds a state in the format of version 0.1, which is no longer read."""
    if (run_dir / "state" / "state.json").is_file():
        raise UserError(
            f"{run_dir / 'state'} is a training state in the format of addkit 0.1, which this version cannot continue; "
            "finish that run with the version that began it, choose another folder to run in, or remove it"
        )


def run_task(make: Callable[[Engine], Task], settings: RunSettings) -> Path:
    """Run a task of one process to its end; returns the folder of the result. make: builds the task's networks."""
    check_folder(settings.run_dir)  # before any network is made
    settings = settled(settings)
    engine = start(settings)
    target = Trainer(make(engine), settings, engine).run()
    engine.close()
    return target

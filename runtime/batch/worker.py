"""What each worker process does: one session, rows in, picture files out; only facts about them go to the driver."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.batch.folder import worker_lock
from runtime.batch.reports import Made, Report, Reports, fatal
from runtime.batch.rows import Row, Settings
from runtime.batch.shards import read_samples, shard_name, tar_bytes
from runtime.errors import BundleError, Error, OutputError, TruncationWarning
from runtime.provenance.options import usual_wish
from runtime.provenance.pictures import Signing
from runtime.variation.choice import NONE

if TYPE_CHECKING:
    from PIL import Image

    from runtime.pipeline import Pipeline

_UNWRITTEN = 8  # pictures that may wait for the disk while the next are computed


class Worker:
    """Ray Data's callable class. It writes and syncs one picture while it computes the next."""

    def __init__(self, settings: Settings, folder: str, bundle: str | None, todo: str) -> None:
        """`folder`: the output; `bundle`: as given to `runtime.load`; `todo`: the file of rows to do."""
        self.settings, self.folder, self.bundle, self.todo = settings, Path(folder), bundle, todo
        self._pipe: Pipeline | None = None
        self._lock = worker_lock(self.folder)
        self._writer = ThreadPoolExecutor(1)
        self._signing = Signing(usual_wish(), say=lambda line: None)  # the driver says it

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        """`batch`: "offset" in the file and "rows" to read there. Yields {"report": [JSON of a Report]}."""
        for offset, count in zip(batch["offset"], batch["rows"], strict=True):
            for report in self.reports(int(offset), int(count)):
                yield {"report": [json.dumps(report)]}

    def reports(self, offset: int, count: int) -> Iterator[Report]:
        """Makes a chunk; reports every second and at the end. An error that is not a row's fault ends it as "fatal"."""
        try:
            with open(self.todo, "rb") as file:
                file.seek(offset)
                rows = [Row.from_line(line) for line in islice(file, count)]
            self.pipe()  # no row is to blame when it cannot be opened
            yield from self._shard(rows) if self.settings.shard_size else self._files(rows)
        except (Error, OSError) as error:
            yield fatal(error)

    def pipe(self) -> Pipeline:
        """The session, opened by the first picture; BundleError when it is not the driver's bundle."""
        if self._pipe is None:
            from runtime.pipeline import load

            warnings.simplefilter("ignore", TruncationWarning)  # the manifest says it
            pipe = load(self.bundle, self.settings.provider, threads=1)
            if pipe.bundle.sha256 != self.settings.bundle_sha256:
                raise BundleError(f"{pipe.bundle.folder} on a worker is not the driver's bundle: copy that one there")
            pipe.open()
            self._pipe = pipe
        return self._pipe

    def _files(self, rows: list[Row]) -> Iterator[Report]:
        """Writes each picture to a file of its own."""
        report = Reports()
        waiting: deque[tuple[Row, Future[Made]]] = deque()
        for row in rows:
            waiting.append((row, self._begun(row)))
            while waiting and (len(waiting) > _UNWRITTEN or waiting[0][1].done()):
                report.take(*waiting.popleft())
            yield from report.due()
        for row, future in waiting:
            report.take(row, future)
        yield report.rest()

    def _begun(self, row: Row) -> Future[Made]:
        """Hands the picture to the writer thread; the future raises its errors."""
        path = self.folder / row.path
        try:
            row = self._completed(row)
            there = self._there(row, path)
            if there is not None:
                return _ended((there, None))
            image, ms = self._computed(row)
        except (BundleError, ValueError) as error:
            return _failed(error)
        return self._writer.submit(self._written, row, path, image, ms)

    def _written(self, row: Row, path: Path, image: Image.Image, ms: dict[str, float]) -> Made:
        from runtime.files import write_whole

        data = self._encoded(row, image)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make folder {path.parent}: {error.strerror}") from error
        write_whole(path, data)
        return self._facts(row, data, path=row.path), ms

    def _shard(self, rows: list[Row]) -> Iterator[Report]:
        """Writes all pictures to one tar file."""
        assert self.settings.shard_size
        name = shard_name(rows[0].row, self.settings.shard_size)
        report, samples = Reports(), []
        rows = list(self._all_completed(rows, report))
        there = self._shard_there(rows, self.folder / name)
        if there is not None:
            for row, facts in zip(rows, there, strict=True):
                report.hold(row, facts, None)
            yield report.rest()
            return
        for row in rows:
            try:
                image, ms = self._computed(row)
                data = self._encoded(row, image)
                samples.append((self._facts(row, data, path=name, member=row.path), data))
                report.hold(row, samples[-1][0], ms)
            except (BundleError, ValueError) as error:
                report.fail(row, error)
            yield from report.due(made=False)
        if samples:
            from runtime.files import write_whole

            write_whole(self.folder / name, tar_bytes(samples))
        yield report.rest()

    def _completed(self, row: Row) -> Row:
        """The row with the prompt that its picture shows. Raises ValueError."""
        prompt = self.pipe().complete(row.prompt, row.seed, row.variation)
        return row if prompt == row.prompt else replace(row, prompt=prompt, typed=row.prompt)

    def _all_completed(self, rows: list[Row], report: Reports) -> Iterator[Row]:
        for row in rows:
            try:
                yield self._completed(row)
            except ValueError as error:
                report.fail(row, error)

    def _computed(self, row: Row) -> tuple[Image.Image, dict[str, float]]:
        height, width = self._size(row)
        (made,) = self.pipe().run(
            row.prompt,
            seed=row.seed,
            variation=None,  # it is completed already
            num_inference_steps=self.settings.num_inference_steps,
            height=height,
            width=width,
            watermark=self.settings.watermark,
        )
        return made.image, {stage: round(value, 3) for stage, value in made.ms.items()}

    def _encoded(self, row: Row, image: Image.Image) -> bytes:
        from runtime.image_files import encode
        from runtime.provenance.claim import Facts

        format, facts = self.settings.format, Facts(self.settings.bundle, self.settings.bundle_sha256, row.prompt)
        data = encode(image, self._text(row), format, self.settings.quality)
        return self._signing.signed(data, format, facts)[0]

    def _text(self, row: Row) -> str:
        from runtime.image_files import settings_text

        return settings_text(
            row.prompt,
            row.seed,
            model=self.settings.bundle,
            size=self._size(row),
            steps=self.settings.num_inference_steps,
            typed=row.typed,
            plain=self._is_plain(row),
        )

    def _is_plain(self, row: Row) -> bool:
        """Whether a prompt stays as it was typed, although it could be completed."""
        return row.variation is None and self.pipe().manifest.variation is not None

    def _size(self, row: Row) -> tuple[int, int]:
        """(height, width) in pixels."""
        return row.size or self.pipe().manifest.image_size

    def _facts(self, row: Row, data: bytes, **where: str) -> dict[str, Any]:
        """The picture's line in the manifest."""
        pipe = self.pipe()
        height, width = self._size(row)
        dropped = pipe.tokenizer.encode(row.prompt, pipe.manifest.max_tokens).dropped_words
        return {
            "row": row.row,
            **where,
            "prompt": row.prompt,
            **({} if row.typed is None else {"typed_prompt": row.typed}),
            **({"variation": NONE} if self._is_plain(row) else {}),
            "seed": row.seed,
            "width": width,
            "height": height,
            "num_inference_steps": self.settings.num_inference_steps,
            "bundle": self.settings.bundle,
            "bundle_sha256": self.settings.bundle_sha256,
            "provider": self.settings.provider,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            **({"dropped_words": len(dropped)} if dropped else {}),
            **({"extra": row.extra} if row.extra else {}),
        }

    def _there(self, row: Row, path: Path) -> dict[str, Any] | None:
        """The facts of a picture that a killed run wrote but did not report; None unless it is exactly that picture."""
        from runtime.image_files import read_parameters

        if not path.exists():
            return None
        try:
            data = path.read_bytes()
            found = read_parameters(data)
        except ValueError:
            return None
        if found != (self._size(row), self._text(row)):
            return None
        return self._facts(row, data, path=row.path)

    def _shard_there(self, rows: list[Row], path: Path) -> list[dict[str, Any]] | None:
        """As `_there`, for a shard that holds exactly these rows."""
        if not path.exists():
            return None
        try:
            found = [facts for facts, _ in read_samples(path)]
        except ValueError:
            return None
        wanted = [(row.row, row.path, row.prompt, row.seed, self.settings.bundle_sha256) for row in rows]
        keys = ("row", "member", "prompt", "seed", "bundle_sha256")
        return found if [tuple(map(facts.get, keys)) for facts in found] == wanted else None


def _ended(made: Made) -> Future[Made]:
    future: Future[Made] = Future()
    future.set_result(made)
    return future


def _failed(error: Exception) -> Future[Made]:
    future: Future[Made] = Future()
    future.set_exception(error)
    return future

"""A batch run without Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from runtime.batch.worker import Worker


class OneProcess:
    """In place of the pool: one worker, in this process."""

    workers = 1

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> OneProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def reports(self, chunks: Sequence[dict[str, int]], arguments: dict[str, Any]) -> Iterator[Any]:
        """The worker's reports on all chunks, as Ray hands them over."""
        worker = Worker(**arguments)
        try:
            for chunk in chunks:
                for batch in worker({name: [value] for name, value in chunk.items()}):
                    yield from map(json.loads, batch["report"])
        finally:
            worker._lock.close()  # as the end of its process does

"""Pictures one after another: a prompt as it is typed, the frames of a camera."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from PIL import Image

from runtime.cancel import CancelToken, check_token
from runtime.errors import Cancelled
from runtime.generation import Generation

Run = Callable[..., list[Generation]]  # `Pipeline.run`


class Stream:
    """An iterator over pictures, each made when it is asked for.

    `cancel()`, from any thread, ends the iteration, even in the middle of a picture, which is lost.
    """

    def __init__(
        self, run: Run, prompts: str | Iterable[str], images: Iterable[Any] | None, options: dict[str, Any]
    ) -> None:
        """prompts: a text for every one of `images`, or an iterable; options as in `Pipeline.run`.

        Raises ValueError for one prompt without images, which would never end, and for several pictures per prompt.
        """
        if isinstance(prompts, str) and images is None:
            raise ValueError("stream needs an iterable of prompts, or images to go with the one prompt")
        if options.get("num_images_per_prompt", 1) != 1 or "image" in options:
            raise ValueError("stream makes one picture per prompt; give frames to start from as images=")
        self._run, self._options = run, options
        for name, given in (("prompts", prompts), ("images", images)):
            if given is not None and not isinstance(given, Iterable):
                raise ValueError(f"{name} must be an iterable, not {type(given).__name__}")
        token = options.pop("cancel", None)
        check_token(token)
        texts = itertools.repeat(prompts) if isinstance(prompts, str) else iter(prompts)
        self._jobs: Iterator[tuple[str, Any]] = zip(
            texts, itertools.repeat(None) if images is None else images, strict=False
        )
        self._token: CancelToken = token or CancelToken()

    def __iter__(self) -> Iterator[Image.Image]:
        return self

    def __next__(self) -> Image.Image:
        return self.next().image

    def next(self) -> Generation:
        """The next picture with its seed and milliseconds; StopIteration after the last and once cancelled."""
        if self._token.cancelled:
            raise StopIteration
        prompt, image = next(self._jobs)
        try:
            (made,) = self._run(prompt, image=image, cancel=self._token, **self._options)
        except Cancelled:
            raise StopIteration from None
        return made

    def cancel(self) -> None:
        """Ends the stream."""
        self._token.cancel()

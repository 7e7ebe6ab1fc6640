"""The errors that callers can tell apart. A wrong argument is a plain ValueError."""

from __future__ import annotations


class Error(Exception):
    """Base of the package's own errors; its text is one line that says what is wrong and what to do."""


class UserError(Error):
    """A setting, file or folder given to a command is wrong, and the user can fix it."""


class BundleError(Error):
    """A bundle or one of its files is missing, truncated, altered, or not what its manifest says."""


class ProviderError(Error):
    """ONNX Runtime is not installed, or cannot run on the provider that was asked for."""


class OutputError(UserError):
    """A file or folder cannot be written where it was asked for: no such folder, no permission, no space, taken."""


class MemoryLimitError(Error, MemoryError):
    """There is not enough memory, of the machine or of its GPU, for a network; nothing is wrong with the bundle."""


class ClosedError(Error):
    """A pipeline was used after `close`."""


class Cancelled(Error):
    """A call's CancelToken, or its stream, was cancelled before the picture was ready."""


class TruncationWarning(UserWarning):
    """A prompt had more tokens than the text encoder reads; the text names the words that were dropped."""


class ProviderWarning(UserWarning):
    """A different execution provider from the one asked for is used; the text says which and why."""

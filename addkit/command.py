"""The console script: `addkit VERB ...` does what `python -m MODULE ...` does, for every command of the packages."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from addkit.shadow import check_package

MISTAKE = 2
_OURS = ("runtime", "train", "export", "addkit")


class Verb(NamedTuple):
    """One command."""

    module: str  # whose `main(argv)` returns the exit code
    extra: str  # of the installation, without which it cannot run; "" for none
    says: str  # one line of the help


VERBS = {
    "generate": Verb("runtime.__main__", "", "pictures from prompts, or from a prompt and a start picture"),
    "batch": Verb("runtime.batch.__main__", "", "pictures from a file of prompts, resumable, on one machine or many"),
    "detect": Verb("runtime.detect.__main__", "", "whether pictures hold our invisible mark, and of which bundle"),
    "interpolate": Verb("runtime.interpolate.__main__", "", "frames between two pictures, or between those of a video"),
    "bench": Verb("runtime.bench.__main__", "", "cold start, time per stage, memory; other engines beside ours"),
    "provenance": Verb("runtime.provenance.__main__", "provenance", "what pictures say of how they were made"),
    "demo": Verb("runtime.demo.__main__", "", "serves the web app to this machine and to phones"),
    "train": Verb("train.__main__", "train", "distils a teacher into a one-step student (ADD)"),
    "data": Verb("train.data.__main__", "train", "shards to train on: the sticker set, or your own pictures"),
    "teacher": Verb("train.teacher", "train", "trains the teacher that a student is distilled from"),
    "autoencoder": Verb("train.autoencoder", "train", "trains the autoencoder of the latents"),
    "text-encoder": Verb("train.text_encoder", "train", "trains the text encoder"),
    "evaluate": Verb("train.evaluate.__main__", "train", "quality figures and contact sheets of a student or bundle"),
    "doctor": Verb("train.doctor", "train", "reads a run's curves and says what is wrong with it"),
    "ablation": Verb("train.ablation.__main__", "train", "short runs that differ in one setting each"),
    "pairs": Verb("train.pairs", "train", "noise and the teacher's pictures of it, for a distillation to learn from"),
    "export onnx": Verb("export.onnx.__main__", "export", "a checkpoint as an ONNX bundle, for generate"),
    "export coreml": Verb("export.coreml.__main__", "export", "a checkpoint as Core ML packages"),
    "export openvino": Verb("export.openvino.__main__", "export", "a checkpoint as OpenVINO IR"),
    "export mil": Verb("export.mil.__main__", "export", "computes a Core ML program without a Mac"),
    "export sign": Verb("export.sign", "signing", "signs a bundle, so that its users know who made it"),
    "export parity": Verb("export.parity.__main__", "export", "one report: how close exports are to their checkpoint"),
    "parity": Verb("export.parity.__main__", "export", "the same as export parity"),
}
_EXAMPLES = """examples:
  addkit generate "a fox, 3d style" --seed 7 -o fox.png
  addkit export onnx path/to/pipeline --out bundle --precision int8
  addkit VERB --help"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first words name and returns its exit code.

    argv: without the program's name; None means this process's own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        check_package("runtime")
        verb, rest = _split(words)
        if verb in VERBS:
            return _run(verb, rest)
        return _say(_help() if verb in ("-h", "--help") else _version())
    except (ImportError, _UnknownVerb) as error:
        if isinstance(error, ImportError) and "--debug" in words:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return MISTAKE


class _UnknownVerb(Exception):
    """What was typed names no command; the text says which there are."""


def _split(words: Sequence[str]) -> tuple[str, list[str]]:
    """The verb, or the option of `addkit` itself, and the words for it; _UnknownVerb."""
    first, *rest = words or [""]
    if first in VERBS or (first in ("-h", "--help", "--version") and not rest):
        return first, rest
    if first == "export":
        if rest[:1] in (["-h"], ["--help"]):
            return "--help", []
        second = " ".join(["export", *rest[:1]])
        if second in VERBS:
            return second, rest[1:]
        raise _UnknownVerb(_advice(second))
    raise _UnknownVerb(_advice(first))


def _advice(typed: str) -> str:
    near = difflib.get_close_matches(typed, VERBS, n=1) or [verb for verb in VERBS if typed and verb.endswith(typed)]
    known = ", ".join(verb for verb in VERBS if verb.startswith("export ") or not typed.startswith("export"))
    what = f"there is no command {typed!r}" if typed not in ("", "export") else "say what to do"
    meant = f"did you mean addkit {near[0]}?" if near and typed != "export" else f"choose one of {known}"
    return f"{what}: {meant} (see addkit --help)"


def _run(verb: str, rest: list[str]) -> int:
    """Raises ImportError, in one line, where something that the command needs is not installed."""
    module, extra, _ = VERBS[verb]
    check_package(module.partition(".")[0])
    from runtime.command import called_as

    try:
        with called_as(f"addkit {verb}"):
            return int(importlib.import_module(module).main(rest) or 0)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not extra or not missing or missing in _OURS:
            raise
        remedy = f'pip install "addkit[{extra}]"'
        raise ImportError(f"addkit {verb} needs {missing}, which is not installed: {remedy}") from error


def _help() -> str:
    width = max(map(len, VERBS))
    rows = "\n".join(f"  {name:{width}}  {verb.says}" for name, verb in VERBS.items())
    options = (
        f"  {'--version':{width}}  the version\n  {'-h, --help':{width}}  this help, or a verb's: addkit VERB --help"
    )
    title = "Adversarial diffusion distillation: pictures in one step, training, export."
    return f"usage: addkit VERB ...\n\n{title}\n\nverbs:\n{rows}\n\noptions:\n{options}\n\n{_EXAMPLES}"


def _version() -> str:
    from addkit import __version__

    return f"addkit {__version__}"


def _say(text: str) -> int:
    from runtime.command import print_result

    print_result(text)
    return 0

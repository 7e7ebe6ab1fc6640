"""How tests/test_readme.py runs each command of README: as written, at toy size, or not at all, and why.

A new command in README needs a line here, and a line here needs its command in README.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Run:
    """A command that is run, after the ones above it and in the same folder.

    replaced: words of the command and what stands in their place at toy size. made: what lies there afterwards.
    slow: run by `make test-slow` only. code: the exit code.
    """

    made: tuple[str, ...] = ()
    replaced: dict[str, str] = field(default_factory=dict)
    slow: bool = False
    code: int = 0


@dataclass(frozen=True)
class NotHere:
    """A command that no test can run, and why; `instead`: the file that tests what it does."""

    why: str
    instead: str


TOY_RUN = (
    "--preset sticker teacher=teacher student=custom layers=1,1,1 max_steps=2 save_every=1 log_every=1 "
    "batch=8 adversarial_batch=4 score_pictures=0 threads=1"
)

COMMANDS: dict[str, Run | NotHere] = {
    "pip install .": NotHere("an installation of its own", "tests/test_install.py"),
    'addkit generate "a fox, 3d style" --seed 7 -o fox.png': Run(made=("fox.png",)),
    "make demo": NotHere("ten minutes", "Makefile"),
    "make test": NotHere("this is it", "Makefile"),
    'pip install ".[export]"': NotHere("an installation of its own", "pyproject.toml"),
    "hf download stabilityai/sd-turbo --local-dir sd-turbo": NotHere("gigabytes", "docs/exports.md"),
    "addkit export onnx sd-turbo --out out/sd-turbo --precision int8 --dry-run": Run(
        replaced={"onnx sd-turbo": "onnx teacher"}, slow=True
    ),
    "addkit export onnx sd-turbo --out out/sd-turbo --precision int8": Run(
        made=("out/sd-turbo/manifest.json",), replaced={"onnx sd-turbo": "onnx teacher", "int8": "fp16"}, slow=True
    ),
    'addkit generate "a red bicycle" --bundle out/sd-turbo -o bicycle.png': Run(made=("bicycle.png",), slow=True),
    'pip install ".[batch,video,demo]"': NotHere("an installation of its own", "pyproject.toml"),
    "addkit batch prompts.csv --out pictures": Run(made=("pictures/run.json",)),
    "addkit interpolate whale.png guitar.png --frames 8 --out morph": Run(made=("morph",)),
    "addkit interpolate clip.mp4 --frames 1 --out double": Run(made=("double",)),
    "make web && addkit demo --host 0.0.0.0 --tls": NotHere("Node.js and a server", "tests/test_runtime_demo.py"),
    "make setup && . .venv/bin/activate": NotHere("an environment of its own", "Makefile"),
    "addkit data import my_pictures --out data/mine": Run(
        made=("data/mine",), replaced={"--out": "--size 64 --out"}, slow=True
    ),
    "addkit train --preset sticker data=data/mine compositions=0 run_dir=runs/mine": Run(
        made=("runs/mine/pipeline/model_index.json",), replaced={"--preset sticker": TOY_RUN}, slow=True
    ),
    "addkit train --resume runs/mine": Run(slow=True),
    "addkit evaluate runs/mine/pipeline --data data/mine": Run(
        replaced={"--data": "--n 4 --within 0 --text-embedder words --data"}, slow=True
    ),
    "addkit doctor runs/mine --plot curves.png": Run(made=("curves.png",), slow=True, code=1),
    "addkit export onnx runs/mine/pipeline --out out/mine --precision int8": Run(
        made=("out/mine/manifest.json",), replaced={"int8": "fp16"}, slow=True
    ),
    "addkit export coreml runs/mine/pipeline --out out/mine-coreml --quantize-nbits 6": Run(
        made=("out/mine-coreml",), replaced={"--quantize-nbits 6": "--quantize-nbits 8"}, slow=True
    ),
    "addkit export openvino runs/mine/pipeline --out out/mine-openvino": Run(made=("out/mine-openvino",), slow=True),
    "addkit parity runs/mine/pipeline out/mine out/mine-coreml out/mine-openvino --strip strip.png": Run(
        made=("strip.png",), slow=True
    ),
}

# Words in README's Python blocks, and their replacements.
PYTHON = {'"path/to/bundle"': '"sticker-128"'}

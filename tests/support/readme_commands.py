"""How each command of README is run by tests/test_readme.py: as it stands, at toy size, or not at all, and why.

A new command of README needs a line here, and a line here needs its command in README.
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
    "--preset sticker teacher=teacher layers=1,1,1 max_steps=2 save_every=1 log_every=1 batch=8 "
    "adversarial_batch=8 score_pictures=0 threads=1"
)

COMMANDS: dict[str, Run | NotHere] = {
    "pip install .": NotHere("an installation of its own", "tests/test_install.py"),
    'python -m runtime "a fox, 3d style" --seed 7 -o fox.png': Run(made=("fox.png",)),
    "make demo": NotHere("ten minutes", "Makefile"),
    "make test": NotHere("this is it", "Makefile"),
    'pip install ".[batch,video]"': NotHere("an installation of its own", "pyproject.toml"),
    "python -m runtime.batch prompts.csv --out pictures": Run(made=("pictures/run.json",)),
    "python -m runtime.interpolate whale.png guitar.png --frames 8 --out morph": Run(made=("morph",)),
    "python -m runtime.interpolate clip.mp4 --frames 1 --out double": Run(made=("double",)),
    "python -m runtime.bench --against diffusers,optimum,openvino": NotHere(
        "minutes, with four engines", "tests/test_runtime_bench.py"
    ),
    "make web": NotHere("Node.js", "mobile_demo/web/package.json"),
    "python -m runtime.demo --host 0.0.0.0 --tls": NotHere("a server", "tests/test_runtime_demo.py"),
    "make setup && . .venv/bin/activate": NotHere("an environment of its own", "Makefile"),
    "python -m train.data prepare --out data/stickers": NotHere("downloads the pictures", "tests/test_train_data.py"),
    "python -m train --preset sticker data=data/stickers run_dir=runs/mine": Run(
        made=("runs/mine/pipeline/model_index.json",), replaced={"--preset sticker": TOY_RUN}, slow=True
    ),
    "python -m train --resume runs/mine": Run(slow=True),
    "python -m train.evaluate runs/mine/pipeline --data data/stickers": Run(
        replaced={"--data": "--n 4 --within 0 --text-embedder words --data"}, slow=True
    ),
    "python -m train.sticker.card runs/mine/pipeline --data data/stickers --out out/card": Run(
        made=("out/card/sheet.webp",), slow=True
    ),
    "python -m export.onnx runs/mine/pipeline --out out/mine --precision int8": Run(
        made=("out/mine/manifest.json",), replaced={"int8": "fp16"}, slow=True
    ),
    "python -m export.coreml runs/mine/pipeline --out out/mine-coreml --quantize-nbits 6": Run(
        made=("out/mine-coreml",), replaced={"--quantize-nbits 6": "--quantize-nbits 8"}, slow=True
    ),
    "python -m export.openvino runs/mine/pipeline --out out/mine-openvino": Run(made=("out/mine-openvino",), slow=True),
    "python -m export.parity runs/mine/pipeline out/mine out/mine-coreml out/mine-openvino --strip strip.png": Run(
        made=("strip.png",), slow=True
    ),
    'python -m runtime "sunflower, 3d style" --bundle out/mine -o sunflower.png': Run(
        made=("sunflower.png",), slow=True
    ),
    "python -m train.doctor runs/mine --plot curves.png": Run(made=("curves.png",), slow=True, code=1),
    "python -m train.bench": NotHere("minutes, of two loops", "tests/test_train_run.py"),
    "python -m train.ablation --out runs/ablation": NotHere("hours", "tests/test_train_settings.py"),
}

# Words of README's Python blocks, and what stands in their place.
PYTHON = {'"path/to/bundle"': '"sticker-128"'}

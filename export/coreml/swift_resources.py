"""Resources/ as Apple's Swift package reads it: tokenizer, packages, and the script that compiles them on a Mac.

Source: ml-stable-diffusion, torch2coreml.py (bundle_resources_for_swift_cli) and
StableDiffusionPipeline+Resources.swift, which takes UnetChunk1 and UnetChunk2 where both are there, else Unet.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from export.configs import write_tokenizer
from export.coreml.run import NEEDS_MACOS, on_macos
from export.source import Source
from export.tokens import refuse_all_but_clips, tokens_of
from runtime.errors import UserError

FOLDER = "Resources"
SCRIPT = "compile.sh"
SWIFT_NAMES = {
    "text_encoder": "TextEncoder",
    "unet": "Unet",
    "unet_chunk1": "UnetChunk1",
    "unet_chunk2": "UnetChunk2",
    "vae_decoder": "VAEDecoder",
    "vae_encoder": "VAEEncoder",
}
TOKENIZER_FILES = ("vocab.json", "merges.txt")
APPLE_CHANNELS = 4  # of latents, which Encoder.swift assumes

COMPILE = """#!/bin/sh
# Compiles the packages in this folder for Apple's Swift package and removes them. Needs a Mac with Xcode.
set -eu
cd "$(dirname "$0")"
if [ "$(uname)" != Darwin ]; then
  echo "compile.sh: needs a Mac: xcrun coremlcompiler is part of Xcode; copy this folder there and run it again" >&2
  exit 2
fi
for name in {names}; do
  if [ -d "$name.mlpackage" ]; then
    xcrun coremlcompiler compile "$name.mlpackage" .
    rm -r "$name.mlpackage"
  fi
done
"""

README = """# {name} for Apple's Swift package (ml-stable-diffusion)

`sh {script}`, on a Mac with Xcode, compiles each .mlpackage into the .mlmodelc that Swift opens. Then

```swift
let pipeline = try StableDiffusionPipeline(resourcesAt: folder, controlNet: [])
var configuration = StableDiffusionPipeline.Configuration(prompt: "a red fox")
configuration.stepCount = 1
configuration.guidanceScale = 0  // the U-Net takes one picture at a time
configuration.schedulerType = .dpmSolverMultistepScheduler  // .pndmScheduler cannot make one step
configuration.schedulerTimestepSpacing = .linspace  // begins at t = 999
configuration.rngType = .torchRNG  // diffusers' pictures for the same seeds
let images = try pipeline.generateImages(configuration: configuration)
```
{limits}"""

LIMITS = """
Image to image does not work with that package: its Encoder.swift reads {apple} latent channels, this model has {ours}
(VAEEncoder gives mean and log-variance, {ours} channels each).
"""


def refuse_swift(source: Source) -> None:
    """Raise UserError when Apple's Swift package would draw other pictures, or none.

    Its BPETokenizer reads vocab.json and merges.txt alone; its SDXL pipeline always evaluates two texts at once.
    """
    if source.kind.second_text:
        raise UserError(
            "Apple's Swift package gives SDXL's U-Net two texts at a time, and the exported one takes one: export "
            "without --bundle-resources-for-swift-cli"
        )
    try:
        refuse_all_but_clips(tokens_of(source.pipe.tokenizer), "Apple's Swift package")
    except UserError as error:
        raise UserError(f"{error}; export without --bundle-resources-for-swift-cli") from error


def write_resources(folder: Path, source: Source, packages: dict[str, Path]) -> dict[str, Any]:
    """Write Resources/ into an export's folder and compile it where that is possible; returns how that went.

    Raises UserError when a Mac's compiler refuses a package.
    """
    resources = folder / FOLDER
    write_tokenizer(resources, source)
    for path in resources.iterdir():
        if path.name not in TOKENIZER_FILES:
            path.unlink()
    for part, path in packages.items():
        shutil.copytree(path, resources / f"{SWIFT_NAMES[part]}.mlpackage")
    channels = source.latent_shape[0]
    limits = "" if channels == APPLE_CHANNELS else LIMITS.format(apple=APPLE_CHANNELS, ours=channels)
    (resources / "README.md").write_text(README.format(name=source.name, script=SCRIPT, limits=limits))
    script = resources / SCRIPT
    script.write_text(COMPILE.format(names=" ".join(SWIFT_NAMES[part] for part in packages)))
    script.chmod(0o755)
    command = f"sh {FOLDER}/{SCRIPT}"
    if not on_macos():
        return {"status": "not run", "why": NEEDS_MACOS, "command": command}
    compile_here(script)
    return {"status": "passed", "why": "", "command": command}


def compile_here(script: Path) -> None:
    """Run the script; UserError with the compiler's own words when it fails."""
    done = subprocess.run([script], check=False, capture_output=True, text=True)
    if done.returncode:
        words = done.stderr.strip() or done.stdout.strip()
        raise UserError(f"xcrun coremlcompiler does not compile the packages: {words}")

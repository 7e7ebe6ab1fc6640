"""The engines that can run an export on this machine, and opening an export on one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.checks.measure import Network
from export.text import Told
from runtime.tokenizer.conditioning import Conditioning

CPU = "CPUExecutionProvider"
# ONNX Runtime's providers that people ask for, and what each needs.
NEEDS = {
    "CUDAExecutionProvider": "needs onnxruntime-gpu and an NVIDIA GPU",
    "CoreMLExecutionProvider": "needs macOS",
    "OpenVINOExecutionProvider": "needs onnxruntime-openvino",
}
REMOTE = "AzureExecutionProvider"  # sends inputs to a service instead of computing
DEVICES = ("CPU", "GPU", "NPU")  # of OpenVINO
EVALUATOR = "reference evaluator"  # of Core ML programs: export.mil.program


class NotHere(Exception):
    """This machine cannot run an engine after all; the message says why."""


@dataclass(frozen=True)
class Engine:
    """One way to run an export.

    options: for `open_network`; why: the reason if it cannot run here; half: it computes in fp16 or
    bf16 whatever the export stores; timed: its speed and memory are those of a real device.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    half: bool = False
    timed: bool = True


def engines(format: str) -> list[Engine]:
    """Every engine for a format, starting with the one that an export is judged by."""
    return list({"onnx": onnx_engines, "openvino": openvino_engines, "coreml": coreml_engines}[format]())


def onnx_engines() -> Iterator[Engine]:
    """The CPU, then this ONNX Runtime's other providers, then those it lacks."""
    import onnxruntime

    here = [name for name in onnxruntime.get_available_providers() if name not in (CPU, REMOTE)]
    yield from (Engine(name, {"provider": name}) for name in (CPU, *here))
    yield from (Engine(name, why=why) for name, why in NEEDS.items() if name not in here)


def openvino_engines() -> Iterator[Engine]:
    """Each device in f32, and in its own default precision where that differs; then the missing devices."""
    from export.openvino.run import load_openvino

    try:
        core = load_openvino().Core()
    except ImportError:
        yield Engine("CPU f32", why="openvino is not installed: pip install '.[export]'")
        return
    here = sorted(core.available_devices, key=lambda name: (name != "CPU", name))
    for device in here:
        if "FP32" in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):
            yield Engine(f"{device} f32", {"device": device, "precision_hint": "f32"})
        default = core.get_property(device, "INFERENCE_PRECISION_HINT").to_string()
        if default != "f32":
            yield Engine(f"{device} {default}", {"device": device}, half=True)
    for kind in DEVICES:
        if not any(device.startswith(kind) for device in here):
            yield Engine(kind, why=f"OpenVINO sees no {kind} here")


def coreml_engines() -> Iterator[Engine]:
    """The reference evaluator, which runs anywhere, and Core ML's compute units."""
    from export.coreml.options import COMPUTE_UNITS
    from export.coreml.run import NEEDS_MACOS, on_macos

    yield Engine(EVALUATOR, timed=False)
    why = "" if on_macos() else NEEDS_MACOS
    yield from (Engine(unit, {"compute_unit": unit}, why=why, half=True) for unit in COMPUTE_UNITS)


def open_network(format: str, path: Path, facts: Mapping[str, Any], options: Mapping[str, Any]) -> Network:
    """The export on an engine. facts: the export's own metadata. Raises NotHere when the engine does not start."""
    told = told_by(facts)
    if format == "onnx":
        return onnx_network(path, options["provider"], max(map(int, facts["steps"])) == 1, told)
    if format == "openvino":
        from export.openvino import run as openvino_run

        network: Network = openvino_run.network_of(path, **options, told=told)
        return network
    from export.coreml.package import packages_in
    from export.coreml.run import evaluated, predicted

    packages, scaling = packages_in(path, facts["name"]), float(facts["scaling_factor"])
    if not options:
        return evaluated(packages, scaling, told=told)
    return predicted(packages, scaling, options["compute_unit"], told)


def told_by(facts: Mapping[str, Any]) -> Told:
    """How an export is conditioned, by its own metadata."""
    conditioning = Conditioning.from_dict(facts["conditioning"]) if "conditioning" in facts else Conditioning()
    return Told(conditioning, facts["image_size"][0] // facts["latent_shape"][1])


def onnx_network(folder: Path, provider: str, one_step: bool, told: Told) -> Network:
    """A bundle's graphs on a provider; what the provider cannot run runs on the CPU."""
    import onnxruntime
    import torch

    from export.onnx.run import network

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 4
    names = list(dict.fromkeys((provider, CPU)))
    paths = {name: folder / name / "model.onnx" for name in told.conditioning.components}
    sessions = {
        name: onnxruntime.InferenceSession(str(path), settings, providers=names)
        for name, path in paths.items()
        if path.is_file()
    }
    for session in sessions.values():
        if session.get_providers()[0] != provider:
            raise NotHere(f"{provider} could not be started: {NEEDS.get(provider, 'ONNX Runtime gives no reason')}")
    return network(sessions, one_step, told)

"""What programs that embed the runtime rely on: closing, forks, cancelling, streams, caches, the safety hook."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import runtime
from runtime import cache as caches_cache
from runtime.cancel import CancelToken
from runtime.errors import Cancelled
from runtime.ort.device import BoundSession
from runtime.ort.session import Session

TINY = Path(__file__).parent / "golden" / "tiny_bundle"


@pytest.fixture(scope="module")
def pipe() -> runtime.Pipeline:
    return runtime.load(TINY, threads=1)


def drawn(pipe: runtime.Pipeline, seed: int = 7) -> bytes:
    image: bytes = pipe("a fox", seed=seed)[0].tobytes()
    return image


def test_a_closed_pipe_refuses_and_frees() -> None:
    with runtime.load(TINY) as pipe:
        drawn(pipe)
        sessions = list(pipe._networks.sessions.values())
        assert any(session.is_open for session in sessions)
    assert not any(session.is_open for session in sessions)
    with pytest.raises(runtime.ClosedError, match="load the bundle again"):
        drawn(pipe)
    pipe.close()  # twice does nothing


def test_closing_while_others_draw_gives_pictures_or_closed_error(pipe: runtime.Pipeline) -> None:
    expected, other, outcomes = drawn(pipe), runtime.load(TINY, threads=1), []

    def work() -> None:
        try:
            for _ in range(200):
                assert drawn(other) == expected
            outcomes.append("drew")
        except runtime.ClosedError:
            outcomes.append("closed")

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    time.sleep(0.02)
    other.close()
    for worker in workers:
        worker.join()
    assert len(outcomes) == 4 and "closed" in outcomes


def child(pipe: runtime.Pipeline, queue: Any) -> None:
    queue.put(drawn(pipe))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_draws_with_the_parents_pipe(pipe: runtime.Pipeline) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    expected = drawn(pipe)
    children = [context.Process(target=child, args=(pipe, queue)) for _ in range(2)]
    for process in children:
        process.start()
    found = [queue.get(timeout=60) for _ in children]
    for process in children:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert found == [expected] * 2 and drawn(pipe) == expected


def spawned(queue: Any) -> None:
    queue.put(drawn(runtime.load(TINY, threads=1)))


def test_a_spawned_child_draws_the_same(pipe: runtime.Pipeline) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=spawned, args=(queue,))
    process.start()
    assert queue.get(timeout=60) == drawn(pipe)
    process.join(timeout=60)


def slow_graph(path: Path, turns: int) -> None:
    """A U-Net that multiplies matrices for long."""
    value = helper.make_tensor_value_info
    inputs = [
        value("sample", TensorProto.FLOAT, [1, 600, 600]),
        value("timestep", TensorProto.FLOAT, [1]),
        value("encoder_hidden_states", TensorProto.FLOAT, [1, 1, 1]),
    ]
    names = ["sample", *(f"y{i}" for i in range(turns)), "out_sample"]
    nodes = [helper.make_node("MatMul", [names[i], "sample"], [names[i + 1]]) for i in range(turns + 1)]
    output = [value("out_sample", TensorProto.FLOAT, [1, 600, 600])]
    graph = helper.make_graph(nodes, "slow", inputs, output)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def test_cancelling_stops_within_a_network(tmp_path: Path) -> None:
    slow_graph(tmp_path / "model.onnx", turns=4000)
    session, token = Session("unet", tmp_path / "model.onnx", "cpu", threads=1), CancelToken()
    feeds: dict[str, Any] = {
        "sample": np.zeros((1, 600, 600), np.float32),
        "timestep": [1],
        "encoder_hidden_states": [[[1]]],
    }
    session.open()
    threading.Timer(0.2, token.cancel).start()
    with pytest.raises(Cancelled) as stopped:
        session.run(cancel=token, **feeds)
    assert "terminate" in str(stopped.value.__context__)  # ONNX Runtime's own message: it did not run to the end
    with pytest.raises(Cancelled):
        session.run(cancel=token, **feeds)  # a token stays cancelled


def test_a_token_that_nobody_cancels_changes_nothing(pipe: runtime.Pipeline) -> None:
    assert pipe("a fox", seed=7, cancel=CancelToken())[0].tobytes() == drawn(pipe)


def test_a_stream_draws_what_calls_draw(pipe: runtime.Pipeline) -> None:
    prompts = ["a fox", "a pizza", "a cake"]
    found = [image.tobytes() for image in pipe.stream(iter(prompts), seed=7)]
    assert found == [pipe(prompt, seed=7)[0].tobytes() for prompt in prompts]


def test_a_stream_reads_prompts_as_they_are_needed(pipe: runtime.Pipeline) -> None:
    read: list[int] = []

    def endless() -> Any:
        while True:
            read.append(1)
            yield "a fox"

    stream = pipe.stream(endless(), seed=7)
    first = next(stream)
    assert len(read) == 1 and first.size == pipe.manifest.image_size[::-1]
    stream.cancel()
    assert list(stream) == [] and len(read) == 1


def test_a_stream_of_frames_starts_from_them(pipe: runtime.Pipeline) -> None:
    frames = pipe(["a fox", "a pizza"], seed=[1, 2])
    found = list(pipe.stream("a fox", images=frames, seed=7, strength=0.5))
    expected = [pipe("a fox", image=frame, seed=7, strength=0.5)[0] for frame in frames]
    assert [image.tobytes() for image in found] == [image.tobytes() for image in expected]


def test_a_stream_without_an_end_or_with_several_pictures_is_refused(pipe: runtime.Pipeline) -> None:
    with pytest.raises(ValueError, match="iterable of prompts"):
        pipe.stream("a fox")
    with pytest.raises(ValueError, match="one picture per prompt"):
        pipe.stream(["a fox"], num_images_per_prompt=2)


def test_text_states_take_the_place_of_a_prompt(pipe: runtime.Pipeline) -> None:
    states = pipe.encode_prompt("a fox")
    assert states.shape[0] == pipe.manifest.max_tokens
    assert pipe(prompt_embeds=states, seed=7)[0].tobytes() == drawn(pipe)
    both = pipe(prompt_embeds=np.stack([states, pipe.encode_prompt("a pizza")]), seed=[7, 8])
    assert both[0].tobytes() == drawn(pipe) and both[1].tobytes() == pipe("a pizza", seed=8)[0].tobytes()
    with pytest.raises(ValueError, match="not both"):
        pipe("a fox", prompt_embeds=states)
    with pytest.raises(ValueError, match="prompt_embeds must be finite"):
        pipe(prompt_embeds=states[:3])
    with pytest.raises(ValueError, match="prompt must be a string"):
        pipe()


def test_latents_take_the_place_of_an_image(pipe: runtime.Pipeline) -> None:
    image = pipe("a pizza", seed=1)[0]
    latents = pipe.encode(image)
    assert latents.shape == pipe.manifest.latent_shape
    expected = pipe("a fox", image=image, strength=0.5, seed=7)[0].tobytes()
    assert pipe("a fox", image=latents, strength=0.5, seed=7)[0].tobytes() == expected


class Checker:
    """A safety checker that blackens what is bright."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.seen: list[Any] = []

    def __call__(self, *, images: Any, clip_input: Any) -> tuple[Any, Any]:
        self.seen.append(clip_input)
        found = [bool(image.mean() > self.limit) for image in images]
        return np.stack([image * (not bad) for image, bad in zip(images, found, strict=True)]), found


def test_a_safety_checker_sees_and_replaces_every_picture(pipe: runtime.Pipeline) -> None:
    strict, lax = (runtime.load(TINY, safety_checker=Checker(limit)) for limit in (0.0, 1.0))
    blackened, as_it_is = strict.run("a fox", seed=7)[0], lax.run("a fox", seed=7)[0]
    assert blackened.nsfw is True and as_it_is.nsfw is False
    assert strict("a fox", seed=7)[0].getextrema() == ((0, 0),) * 3
    assert drawn(lax) == drawn(pipe) and pipe.run("a fox", seed=7)[0].nsfw is None


def test_a_safety_checker_gets_what_its_feature_extractor_makes() -> None:
    checker: Any = Checker(1.0)
    checker.feature_extractor = lambda images, return_tensors: types.SimpleNamespace(
        pixel_values=(len(images), return_tensors)
    )
    drawn(runtime.load(TINY, safety_checker=checker))
    assert checker.seen == [(1, "np")]


@pytest.mark.parametrize("answer", [None, (np.zeros((1, 2, 2, 3)), [True]), (None, [True])])
def test_a_safety_checker_of_another_convention_is_refused(answer: Any) -> None:
    with pytest.raises(ValueError, match="safety_checker must return"):
        drawn(runtime.load(TINY, safety_checker=lambda **_: answer))


def entries(folder: Path) -> list[Path]:
    return sorted((folder / "graphs").glob("*"))


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(caches_cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_kept_graphs_draw_the_same_pictures(kept: Path, pipe: runtime.Pipeline) -> None:
    first = drawn(runtime.load(TINY, threads=1))
    made = entries(kept)
    assert len(made) == 3 and all((entry / "model.onnx").is_file() for entry in made)
    before = {entry: (entry / "model.onnx").stat().st_mtime_ns for entry in made}
    assert first == drawn(runtime.load(TINY, threads=1)) == drawn(pipe)
    assert entries(kept) == made
    assert before == {entry: (entry / "model.onnx").stat().st_mtime_ns for entry in made}


def test_a_damaged_kept_graph_is_made_again(kept: Path, pipe: runtime.Pipeline) -> None:
    drawn(runtime.load(TINY, threads=1))
    for entry in entries(kept):
        (entry / "model.onnx").write_bytes(b"no graph")
    assert drawn(runtime.load(TINY, threads=1)) == drawn(pipe)
    assert all((entry / "model.onnx").stat().st_size > 100 for entry in entries(kept))


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: runtime.Pipeline
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(caches_cache.VARIABLE, str(tmp_path / "file" / "below"))
    assert drawn(runtime.load(TINY, threads=1)) == drawn(pipe)


def test_an_old_entry_goes_and_a_changed_bundle_gets_its_own(kept: Path, tmp_path: Path) -> None:
    drawn(runtime.load(TINY, threads=1))
    old = entries(kept)[0]
    os.utime(old, (1, 1))
    copy = shutil.copytree(TINY, tmp_path / "copy")
    for path in copy.rglob("*"):
        os.utime(path, (2_000_000_000, 2_000_000_000))
    drawn(runtime.load(copy, threads=1))
    assert old not in entries(kept) and len(entries(kept)) == 5


def test_what_was_not_verified_is_not_kept(kept: Path) -> None:
    drawn(runtime.load(TINY, threads=1, verify=False))
    assert entries(kept) == []


def test_off_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(caches_cache.VARIABLE, "off")
    assert caches_cache.cache_folder() is None
    monkeypatch.setenv(caches_cache.VARIABLE, "/somewhere")
    assert caches_cache.cache_folder() == Path("/somewhere")


def test_bound_inputs_give_what_plain_runs_give() -> None:
    """The path of CUDA on the processor: the same tensors, new values at every call, other shapes in between."""
    session = onnxruntime.InferenceSession(TINY / "vae_decoder" / "model.onnx", providers=["CPUExecutionProvider"])
    bound = BoundSession(session, "cpu", capture=False)
    shape = runtime.load(TINY).manifest.latent_shape
    for seed, batch in ((1, 1), (2, 1), (3, 2), (4, 2), (5, 1)):
        feed = {"latent_sample": np.random.default_rng(seed).standard_normal((batch, *shape)).astype(np.float32)}
        expected = session.run(["sample"], feed)[0]
        (found,) = bound.run(["sample"], feed, onnxruntime.RunOptions())
        np.testing.assert_array_equal(found, expected)


def test_importing_is_cheap_and_light() -> None:
    script = "import sys, runtime; print(sorted(m for m in sys.modules if m in ('numpy', 'PIL', 'onnxruntime')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def zipped(tmp_path: Path) -> Path:
    """The runtime as a zip file on the path, with the tiny bundle as its only one."""
    target = tmp_path / "runtime.zip"
    package = Path(runtime.__file__).parent
    with zipfile.ZipFile(target, "w") as archive:
        for path in package.rglob("*.py"):
            archive.write(path, f"runtime/{path.relative_to(package).as_posix()}")
        for path in TINY.rglob("*"):
            if path.is_file():
                archive.write(path, f"runtime/bundles/sticker-128/{path.relative_to(TINY).as_posix()}")
    return target


@pytest.mark.parametrize("cache", ["off", "kept"])
def test_the_package_draws_out_of_a_zip_file(tmp_path: Path, cache: str) -> None:
    archive, out = zipped(tmp_path), tmp_path / "fox.png"
    kept = str(tmp_path / "c") if cache == "kept" else "off"
    environment = os.environ | {"PYTHONPATH": str(archive), caches_cache.VARIABLE: kept}
    command = [sys.executable, "-m", "runtime", "a fox", "--seed", "7", "-o", str(out)]
    for _ in range(2):
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
    expected = tmp_path / "plain.png"
    pipe_command = [sys.executable, "-m", "runtime", "a fox", "--seed", "7", "-o", str(expected), "--bundle", str(TINY)]
    subprocess.run(pipe_command, check=True, capture_output=True, cwd=Path(runtime.__file__).parent.parent)
    assert out.read_bytes() == expected.read_bytes()
    assert (tmp_path / "c" / "bundles").is_dir() == (cache == "kept")


def test_the_package_draws_where_nothing_can_be_written(tmp_path: Path) -> None:
    package = tmp_path / "site" / "runtime"
    shutil.copytree(Path(runtime.__file__).parent, package, ignore=shutil.ignore_patterns("bundles", "__pycache__"))
    shutil.copytree(TINY, package / "bundles" / "sticker-128")
    for path in [package.parent, *package.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted(path.name for path in package.rglob("*"))
    environment = os.environ | {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "runtime", "a fox", "--seed", "7", "-o", str(tmp_path / "fox.png")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment)
    after = sorted(path.name for path in package.rglob("*"))
    for path in [package.parent, *package.rglob("*")]:
        path.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert after == before and (tmp_path / "fox.png").is_file()

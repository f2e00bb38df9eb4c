"""Makes the nano checkpoint's tokenizer: byte-level BPE over the training phrases, with NEO-ov's special tokens.

The real vocabulary has 151,936 rows; at the nano model's width they alone would be 29 M parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from neo_edge.prompt import place_frames
from neo_edge.tokenizer import MARKUP
from neo_edge_calibration.scenes import FAMILIES, make_question

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
IMAGE_CONTEXT, IMAGE_START, IMAGE_END = "<IMG_CONTEXT>", "<img>", "</img>"
SPECIAL_TOKENS = (  # Qwen3's three, then NEO's list in upstream's order
    *(END_OF_TEXT, TURN_START, TURN_END),
    *(IMAGE_CONTEXT, IMAGE_START, IMAGE_END),
    *("<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"),
    *("<|action_start|>", "<|action_end|>", "<|plugin|>", "<|interpreter|>"),
)
VOCABULARY = 1024 - len(SPECIAL_TOKENS)
PHRASES_PER_FAMILY = 1500
# Qwen's rule for words; unlike Qwen's, a number up to 9999 is one piece and so is the comma between two.
PIECES = r", |[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,4}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def train_tokenizer() -> Tokenizer:
    """The same tokenizer at every call: the phrases come from a fixed seed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_phrases(), trainer)
    tokenizer.add_tokens(
        [AddedToken(token, special=token not in MARKUP, normalized=False) for token in SPECIAL_TOKENS]
    )
    return tokenizer


def _phrases() -> Iterator[str]:
    yield "\n".join(_without_special(f"{number}" for number in range(0, 1001, 10)))
    yield from (
        "user\n",
        "assistant\n",
        "system\nReason step by step.",
        "Image-1: ",
        "Frame1 is at [00:01.00]:",
    )
    yield place_frames("", [0.0, 1.0], duration_s=2.0, fps=1.0).replace("<image>", "")
    for family in FAMILIES:
        for index in range(PHRASES_PER_FAMILY):
            question = make_question(family, "vocabulary", index)
            yield from _without_special((question.prompt, question.response))


def _without_special(phrases: Iterable[str]) -> Iterator[str]:
    for phrase in phrases:
        for token in SPECIAL_TOKENS:
            phrase = phrase.replace(token, "\n")
        yield phrase

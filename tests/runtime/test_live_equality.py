"""What is watched live is what one full prefill of the same content computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from live_sequences import watch_randomly
from numpy_backend import NumpyBackend
from tiny_golden import TOKENS

import neo_edge
from neo_edge.checkpoint import resolve_checkpoint
from neo_edge.options import SamplingOptions
from neo_edge.prompt import (
    Message,
    encode_chat,
    encode_watch_start,
    encode_watched_frame,
    encode_watched_question,
    place_frames,
)
from neo_edge.protocols import get_protocol
from neo_edge.tokenizer import Tokenizer, load_tokenizer
from neo_edge_runtime import Frame, Model

TOLERANCE = 1e-4  # float32: the same sums in runs of other sizes


@pytest.mark.parametrize(("variant", "sequences"), [("fp32", 200), ("fp32-portable", 20)])
def test_random_sequences_of_frames_and_questions_equal_full_prefills(
    tiny_bundle: Path, variant: str, sequences: int
) -> None:
    small = replace(get_protocol("edge"), min_pixels=32 * 32)
    with neo_edge.load(tiny_bundle, variant=variant, threads=1, protocol=small) as model:
        watched = [watch_randomly(model, seed) for seed in range(sequences)]
    assert max(one.worst for one in watched) <= TOLERANCE
    assert sum(one.questions for one in watched) > 2 * sequences
    assert sum(one.windows_cut for one in watched) > sequences / 4


def test_an_answer_is_the_one_about_the_same_frames_at_once(
    backend: NumpyBackend, tokenizer: Tokenizer
) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, max_pixels=64 * 96)
    pictures = np.random.default_rng(3).integers(0, 256, (4, 64, 96, 3)).astype(np.uint8)
    frames = [Frame(picture, 0.5 * number) for number, picture in enumerate(pictures)]
    options = SamplingOptions(temperature=1.0, seed=5, repetition_penalty=1.3, max_new_tokens=12)
    at_once = model.generate("what happens?", frames=frames, options=options)
    with model.watch() as live:
        for frame in frames:
            live.add(frame.image, frame.time_s or 0.0)
        for _ in range(2):  # the first left no trace
            answer = live.ask("what happens?", options=options).finish()
            assert answer.token_ids == at_once.token_ids
            assert answer.usage.prompt_tokens == at_once.usage.prompt_tokens


@pytest.mark.parametrize("kind", ["nano", "bytes"])
@pytest.mark.parametrize("question", ["Where?", "\n\n what\n", " a", ""])
def test_watched_pieces_are_the_tokens_of_the_whole_prompt(
    kind: str, question: str, tokenizer: Tokenizer
) -> None:
    if kind == "nano":
        loaded = load_tokenizer(resolve_checkpoint("neo-ov-nano"))
        assert loaded is not None
        tokenizer = loaded
    for system in ("", "Be brief."):
        for times in ([], [0.0], [0.0, 0.5, 61.25]):
            text = place_frames(question, times) if times else question
            whole = encode_chat(
                tokenizer, [Message("user", text, len(times))], [3] * len(times), system=system
            )
            pieces = [encode_watched_frame(tokenizer, time_s, 3) for time_s in times]
            joined = [token for piece in pieces for token in piece]
            assert [
                *encode_watch_start(tokenizer, system=system),
                *joined,
                *encode_watched_question(tokenizer, question),
            ] == whole

"""What is watched live is what one full prefill of the same content computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from live_sequences import full_logits, live_logits, random_picture, watch_randomly
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

SMALL = replace(get_protocol("edge"), min_pixels=32 * 32)  # the pictures stay as small as they are
TOLERANCE = 1e-4  # float32: the same sums in runs of other sizes


@pytest.mark.parametrize(("variant", "sequences"), [("fp32", 200), ("fp32-portable", 20)])
def test_random_sequences_of_frames_and_questions_equal_full_prefills(
    tiny_bundle: Path, variant: str, sequences: int
) -> None:
    with neo_edge.load(tiny_bundle, variant=variant, threads=1, protocol=SMALL) as model:
        watched = [watch_randomly(model, seed) for seed in range(sequences)]
    assert max(one.worst for one in watched) <= TOLERANCE
    assert sum(one.questions for one in watched) > 2 * sequences
    assert sum(one.windows_cut for one in watched) > sequences / 4


def test_every_frame_and_its_time_count(tiny_bundle: Path) -> None:
    """What the comparison above would see: one frame that is another, or of another time, moves the logits."""
    rng = np.random.default_rng(2)
    frames = [(0.5 * number, random_picture(rng)) for number in range(4)]
    with (
        neo_edge.load(tiny_bundle, variant="fp32", threads=1, protocol=SMALL) as model,
        model.watch(every=None) as live,
    ):
        for time_s, picture in frames:
            live.add(picture, time_s)
        found = live_logits(live, "where?", [], [7])
        for place in range(4):
            for other in ((frames[place][0], random_picture(rng)), (0.5 * place + 0.25, frames[place][1])):
                changed = [*frames[:place], other, *frames[place + 1 :]]
                expected = full_logits(model, changed, "where?", [], [7], system="")
                assert np.abs(found - expected).max() > 100 * TOLERANCE


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

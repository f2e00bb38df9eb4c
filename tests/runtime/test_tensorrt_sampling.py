"""Sampled answers from the largest logits that the device finds: the same tokens as from all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tensorrt_bundle import Fakes
from tiny_golden import TOKENS, append_text

from neo_edge.bundle import Bundle
from neo_edge.errors import InputError, SessionClosedError
from neo_edge.options import SamplingOptions
from neo_edge.tokenizer import Tokenizer
from neo_edge_runtime import Choices, Model, Session
from neo_edge_runtime.backend import Candidates, ChoosingState, DecoderInputs

STEPS = 12
ROW = 1280  # bytes of 320 logits, whole pieces of 256
FEW = 2 * 768 + 256  # of half as many tokens and logits, and what is known of the others


def answer(fakes: Fakes, options: SamplingOptions) -> tuple[tuple[int, ...], int]:
    """An answer's tokens, and the bytes that its steps brought back."""
    with Model(fakes.open("fp32-portable"), tokens=TOKENS) as model:
        found = model.generate([5, 6, 7, 8], options=options)
    assert len(found.token_ids) == STEPS + 1
    return found.token_ids, fakes.device.copied_back - ROW


@pytest.mark.parametrize(
    ("changes", "brought_back"),
    [
        ({"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05}, FEW),
        ({"temperature": 1.5, "top_k": 100}, FEW),
        ({"temperature": 1e-3, "top_p": 0.9}, FEW),
        ({"temperature": 1.0, "min_p": 0.9}, FEW),
        ({"repetition_penalty": 1.3}, FEW),
        ({"temperature": 1.0, "top_p": 0.99}, FEW + ROW),
        ({"temperature": 1.0, "top_k": 200}, FEW + ROW),
        ({"temperature": 1.0, "top_k": 1024}, ROW),
        ({"temperature": 1.0}, ROW),
        ({"temperature": 1.0, "top_k": 20, "repetition_penalty": 0.8}, ROW),
    ],
)
def test_an_answer_is_that_of_all_logits_and_what_comes_back_is_known(
    engine_bundle: Bundle, changes: dict[str, float], brought_back: int
) -> None:
    options = SamplingOptions(max_new_tokens=STEPS + 1, seed=3, **changes)  # type: ignore[arg-type]
    with_kernels, without = Fakes(engine_bundle), Fakes(engine_bundle, has_kernels=False)
    found, back = answer(with_kernels, options)
    expected, _ = answer(without, options)
    assert found == expected
    assert back == STEPS * brought_back
    assert with_kernels.device.launches == STEPS - 1
    assert without.device.launches == 0


def test_constrained_answers_look_at_all_logits(fakes: Fakes, tokenizer: Tokenizer) -> None:
    options = SamplingOptions(temperature=1.0, top_k=5, seed=0)
    with Model(fakes.open("fp32-portable"), tokens=replace(TOKENS, eos=(316,)), tokenizer=tokenizer) as model:
        found = model.generate("?", constraint=Choices(["yes", "yep"]), options=options)
    assert found.text in ("yes", "yep")
    assert fakes.device.copied_back == len(found.token_ids) * ROW


def one_token(state: ChoosingState, tokens: int = 1) -> DecoderInputs:
    return DecoderInputs(
        inputs_embeds=np.ones((1, tokens, 64), np.float32),
        position_ids=np.zeros((1, 3, tokens), np.int32),
        visible_length=np.full((1, tokens), state.capacity // 2, np.int32),
        write_index=np.zeros(1, np.int32),
        logits_index=np.zeros((1, 1), np.int32),
    )


def test_whole_logits_are_those_of_the_step_whose_candidates_came_before(fakes: Fakes) -> None:
    backend = fakes.open("fp32-portable")
    state = backend.new_state(batch=1, capacity=256)
    assert isinstance(state, ChoosingState)
    with pytest.raises(InputError, match="no step has run"):
        state.whole_logits()
    hidden = backend.traits.config.decoder.hidden_size
    inputs = replace(one_token(state), inputs_embeds=np.ones((1, 1, hidden), np.float32))
    for run in range(3):  # as it is, captured, replayed
        temperature = 0.5 + run
        found = state.run_candidates(inputs, temperature)
        logits = state.whole_logits()[0, 0]
        assert found.tokens.tolist() == np.flatnonzero(logits > np.float32(found.below)).tolist()
        np.testing.assert_array_equal(found.logits, logits[found.tokens])
        total = np.exp((logits - logits.max()).astype(np.float64) / temperature).sum()
        assert abs(found.total - total) < found.total_error * total
        assert 0 < found.total_error < 1e-4
    long = replace(one_token(state, 2), inputs_embeds=np.ones((1, 2, hidden), np.float32))
    with pytest.raises(
        InputError, match=r"after \[1, 2\] tokens; they are found for one token of one sequence"
    ):
        state.run_candidates(long, 1.0)
    backend.close()


@pytest.mark.parametrize("has_kernels", [True, False])
def test_a_logit_that_is_not_finite_closes_the_session(engine_bundle: Bundle, has_kernels: bool) -> None:
    fakes = Fakes(engine_bundle, has_kernels=has_kernels)
    backend = fakes.open("fp32-portable")
    session = Session(backend)
    append_text(session, [1, 2, 3])
    fakes.device.array(session.lend_state()._cache.tensors["value_cache.0"])[...] = np.nan  # type: ignore[attr-defined]

    def never(_: Candidates) -> int:
        raise AssertionError("nothing is chosen of such logits")

    with pytest.raises(SessionClosedError, match="a logit that is not finite after 3 tokens"):
        session.decode_narrowed(4, 1.0, never)
    backend.close()

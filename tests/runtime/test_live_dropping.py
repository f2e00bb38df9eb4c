"""A window that slides over the cache: what goes, what stays, and where it then stands in t."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from live_sequences import live_logits, random_picture
from numpy_backend import NumpyBackend, NumpyState
from tiny_golden import TOKENS, append_text

import neo_edge
from neo_edge.bundle import open_bundle
from neo_edge.errors import BackendError
from neo_edge.positions import SequenceLayout, layout
from neo_edge.prompt import encode_watch_start, encode_watched_frame, encode_watched_question
from neo_edge.protocols import get_protocol
from neo_edge.tokenizer import Tokenizer
from neo_edge_runtime import Checkpoint, LiveSession, Model, Session
from neo_edge_runtime.backend import DecoderInputs
from neo_edge_runtime.live.sliding import keep_tokens, shift_positions
from neo_edge_runtime.live.window import Policy
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.vision_encoder import encode_images

SMALL = replace(get_protocol("edge"), min_pixels=32 * 32)  # the test's pictures stay as small as they are
FORCED = [7, 8, 9]


@pytest.fixture
def model(backend: NumpyBackend, tokenizer: Tokenizer) -> Model:
    return Model(backend, tokens=TOKENS, tokenizer=tokenizer, protocol=SMALL)


def show(live: LiveSession, count: int, *, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    pictures = [random_picture(rng) for _ in range(count)]
    for number, picture in enumerate(pictures):
        assert live.add(picture, 0.5 * number) == "used"
    return pictures


class Rows:
    """The policy `drop` restated: frames' rows of the cache in a list, laid one behind the other before every run."""

    def __init__(self, model: Model, backend: NumpyBackend, *, max_frames: int) -> None:
        assert model.tokenizer is not None
        self.model, self.backend, self.tokenizer = model, backend, model.tokenizer
        self.max_frames = max_frames
        self.start = encode_watch_start(self.tokenizer, system="be brief")
        self.start_t, self.next_t = 0, len(self.start)
        self.frames: list[tuple[int, np.ndarray, np.ndarray]] = []  # first t, keys, values

    def add(self, picture: np.ndarray, time_s: float) -> None:
        if len(self.frames) == self.max_frames:
            self.frames = self.frames[1:]
            self.start_t = self.frames[0][0] - len(self.start)
        sized = self.model._prompts.size_frame(picture)
        ids = encode_watched_frame(self.tokenizer, time_s, sized.grid.visual_tokens)
        state, length = self.laid_out(len(ids))
        piece = layout(ids, [sized.grid], TOKENS, start_length=length, start_t=self.next_t)
        embeds = self.backend.token_embedding[ids]
        embeds[piece.is_visual] = encode_images(self.backend, [sized])
        run(state, embeds, piece, length)
        own = slice(length, length + len(ids))
        self.frames.append((self.next_t, state.keys[:, :, :, own], state.values[:, :, :, own]))
        self.next_t = piece.next_t

    def ask(self, question: str) -> np.ndarray:
        ids = encode_watched_question(self.tokenizer, question)
        state, length = self.laid_out(len(ids))
        piece = layout(ids, [], TOKENS, start_length=length, start_t=self.next_t)
        return run(state, self.backend.token_embedding[ids], piece, length)

    def laid_out(self, room: int) -> tuple[NumpyState, int]:
        length = len(self.start) + sum(keys.shape[3] for _, keys, _ in self.frames)
        state = self.backend.new_state(batch=1, capacity=length + room)
        piece = layout(self.start, [], TOKENS, start_t=self.start_t)
        run(state, self.backend.token_embedding[self.start], piece, 0)
        at = len(self.start)
        for _, keys, values in self.frames:
            state.keys[:, :, :, at : at + keys.shape[3]] = keys
            state.values[:, :, :, at : at + keys.shape[3]] = values
            at += keys.shape[3]
        return state, length


def run(state: NumpyState, embeds: np.ndarray, piece: SequenceLayout, at: int) -> np.ndarray:
    return state.run(
        DecoderInputs(
            inputs_embeds=embeds[None],
            position_ids=piece.position_ids[None],
            visible_length=piece.visible_length[None],
            write_index=np.array([at], np.int32),
            logits_index=np.arange(len(embeds), dtype=np.int32)[None],
        )
    )[0]


def test_a_full_window_keeps_the_newest_frames_rows_behind_a_start_that_moves_up(
    model: Model, backend: NumpyBackend
) -> None:
    live = model.watch(max_frames=5, every=None, prompt="be brief")
    rows, rng = Rows(model, backend, max_frames=5), np.random.default_rng(0)
    for number in range(17):
        picture = random_picture(rng)
        live.add(picture, 0.5 * number)
        rows.add(picture, 0.5 * number)
        if number in (4, 5, 9, 16):
            np.testing.assert_allclose(
                live_logits(live, "where?", [], []), rows.ask("where?"), atol=1e-5, rtol=0
            )
    assert live.stats().windows_cut == 12


def test_a_start_that_cannot_be_run_again_stays_where_it_was_until_the_next_frames_go(
    model: Model, backend: NumpyBackend
) -> None:
    live = model.watch(max_frames=3, every=None, prompt="be brief")
    rows, rng = Rows(model, backend, max_frames=3), np.random.default_rng(0)
    for number in range(6):
        picture = random_picture(rng)
        if number == 3:
            backend.failing_token = ord("b")  # of the system prompt
            with pytest.raises(BackendError, match="as the test wanted"):
                live.add(picture, number)
            backend.failing_token = None
            rows.frames = rows.frames[1:]
        else:
            live.add(picture, number)
            rows.add(picture, number)
        np.testing.assert_allclose(live_logits(live, "where?", [], []), rows.ask("where?"), atol=1e-5, rtol=0)
    assert (live.stats().windows_cut, live.stats().frames_dropped) == (2, 1)


def test_a_large_window_drops_an_eighth_at_once(model: Model) -> None:
    live = model.watch(max_frames=24, every=None)
    show(live, 24)
    assert live.stats().windows_cut == 0
    live.add(random_picture(np.random.default_rng(1)), 100.0)
    assert (live.stats().windows_cut, live.stats().frames_in_window) == (1, 22)
    assert live.stats().cache_fill == pytest.approx(22 / 24)


def test_recomputing_drops_half(model: Model) -> None:
    live = model.watch(max_frames=5, every=None, policy="recompute")
    show(live, 6)
    stats = live.stats()
    assert (stats.windows_cut, stats.frames_in_window) == (1, 3)
    assert stats.tokens_recomputed > 0
    assert stats.mean_frame.window_ms > 0


@pytest.mark.parametrize("policy", ["drop", "recompute"])
def test_a_window_of_one_frame_shows_the_newest(model: Model, policy: Policy) -> None:
    live = model.watch(max_frames=1, every=None, policy=policy)
    picture = show(live, 4)[-1]
    other = model.watch(max_frames=1, every=None)
    other.add(picture, 1.5)
    found, expected = (live_logits(one, "where?", [], FORCED) for one in (live, other))
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_cache_and_bookkeeping_stay_as_large_as_the_window(model: Model, backend: NumpyBackend) -> None:
    live = model.watch(max_frames=6, every=None)
    sizes = []
    for number in range(150):
        live.add(np.full((32, 64, 3), number, np.uint8), number)
        sizes.append((live.stats().cache_tokens, len(backend.states[-1].grown_to)))
        assert len(live._session.checkpoints) <= 1 + live.stats().cache_tokens
        assert len(live._window.ids) == live.stats().cache_tokens
    assert max(sizes[50:]) <= max(sizes[:50])
    assert live.stats().windows_cut == 144


def test_positions_go_back_before_the_models_last_one(tokenizer: Tokenizer) -> None:
    from tiny_golden import GOLDEN

    few, many = NumpyBackend(GOLDEN), NumpyBackend(GOLDEN)
    config = replace(few.config, decoder=replace(few.config.decoder, max_positions=160))
    few.config, few.traits = config, replace(few.traits, config=config)
    lives = []
    for backend in (few, many):
        model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, protocol=SMALL)
        live = model.watch(max_frames=4, every=None, prompt="be brief")
        show(live, 40)
        lives.append((live, live_logits(live, "where?", [], FORCED)))
    assert lives[0][0].stats().positions_shifted >= 2
    assert lives[0][0].stats().next_t <= 120  # a quarter is left to the question
    assert lives[1][0].stats().positions_shifted == 0
    # What tokens are to each other does not change.
    np.testing.assert_allclose(lives[0][1], lives[1][1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("policy", ["drop", "recompute"])
def test_frames_leave_room_for_a_question_where_the_context_is_small(
    backend: NumpyBackend, tokenizer: Tokenizer, policy: Policy
) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, protocol=SMALL, max_context_tokens=200)
    live = model.watch(max_frames=64, every=None, policy=policy)
    show(live, 30)
    assert 4 <= live.stats().frames_in_window < 12
    assert live.stats().cache_tokens <= 150
    assert live.ask("what is there to be seen?").request.cached_tokens == live.stats().cache_tokens


def test_a_window_that_the_context_bounds_keeps_most_of_its_frames_and_turns_no_keys(
    backend: NumpyBackend, tokenizer: Tokenizer
) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, protocol=SMALL, max_context_tokens=200)
    live = model.watch(max_frames=64, every=None)
    sizes = []
    for number in range(40):
        live.add(np.full((32, 64, 3), number, np.uint8), number)
        sizes.append(live.stats().frames_in_window)
    most = max(sizes)
    assert most < 12
    assert set(sizes[most:]) <= {most - 1, most}  # an eighth of it is one frame
    assert live.stats().windows_cut > 20
    assert live.stats().positions_shifted == 0


@pytest.mark.parametrize("policy", ["drop", "recompute"])
def test_a_window_of_one_frame_runs_nothing_but_its_frames(
    model: Model, backend: NumpyBackend, policy: Policy
) -> None:
    live = model.watch(max_frames=1, every=None, policy=policy)
    show(live, 3)
    backend.runs.clear()
    live.add(random_picture(np.random.default_rng(5)), 9.0)
    assert sum(backend.runs) == len(live._window.frames[0].ids)
    assert live.stats().tokens_recomputed == 0


@pytest.mark.parametrize("variant", ["fp32", "fp32-portable"])
def test_the_lowered_caches_slide_as_the_oracles(tiny_bundle: Path, variant: str, model: Model) -> None:
    with neo_edge.load(tiny_bundle, variant=variant, threads=1, protocol=SMALL) as lowered:
        found = []
        for one in (lowered, model):
            live = one.watch(max_frames=5, every=None, prompt="be brief")
            show(live, 23)
            found.append(live_logits(live, "where?", [], FORCED))
    np.testing.assert_allclose(found[0], found[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("variant", "tolerance"), [("fp32", 1e-4), ("fp32-portable", 1e-4), ("fp16", 2e-2)])
@pytest.mark.parametrize("steps", [61, -17])
def test_shifted_positions_are_those_of_a_prefill_at_other_positions(
    tiny_bundle: Path, variant: str, tolerance: float, steps: int
) -> None:
    backend = OrtBackend(open_bundle(tiny_bundle), variant, threads=1)
    rows = []
    for begin, turn in ((100, steps), (100 + steps, 0)):
        with Session(backend) as session:
            session.stand_at(Checkpoint(0, begin))
            append_text(session, [5, 6, 7, 8])
            append_text(session, list(range(40, 90)))
            if turn:
                shift_positions(session, turn)
            assert session.checkpoint == Checkpoint(54, 154 + steps)
            rows.append(append_text(session, [9, 10]))
    np.testing.assert_allclose(rows[0], rows[1], atol=tolerance, rtol=0)
    # They matter: without the turn the same tokens give something else.
    with Session(backend) as session:
        session.stand_at(Checkpoint(0, 100))
        append_text(session, [5, 6, 7, 8, *range(40, 90)])
        session.stand_at(Checkpoint(54, 154 + steps))
        assert np.abs(append_text(session, [9, 10]) - rows[1]).max() > 5 * tolerance
    backend.close()


def test_kept_tokens_move_as_little_as_they_can(backend: NumpyBackend) -> None:
    session = Session(backend)
    append_text(session, list(range(10)))
    before = backend.states[-1].keys.copy()
    kept = np.array([1, 1, 0, 0, 0, 1, 1, 0, 1, 1], np.bool_)
    order = keep_tokens(session, kept)
    assert order.tolist() == [0, 1, 6, 8, 9, 5]
    state = backend.states[-1]
    np.testing.assert_array_equal(state.keys[:, :, :, :6], before[:, :, :, order])
    assert session.checkpoint == Checkpoint(6, 10)
    assert [point.length for point in session.checkpoints] == [0, 6]


def test_a_backend_that_cannot_slide_is_told_to_recompute(tokenizer: Tokenizer) -> None:
    from tiny_golden import GOLDEN

    backend = StiffBackend(GOLDEN)
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, protocol=SMALL)
    with pytest.raises(BackendError, match="StiffState cannot drop tokens from its cache: watch with policy"):
        model.watch()
    live = model.watch(max_frames=2, every=None, policy="recompute")
    show(live, 5)
    assert live.stats().windows_cut == 3


class StiffBackend(NumpyBackend):
    """Its caches only grow."""

    def new_state(self, *, batch: int, capacity: int) -> NumpyState:
        state = super().new_state(batch=batch, capacity=capacity)
        return StiffState(self, state.keys, state.values)


class StiffState(NumpyState):
    move = None  # type: ignore[assignment]

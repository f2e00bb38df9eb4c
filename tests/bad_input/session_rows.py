"""Bad days of a session: its bundle goes away, its numbers spoil, it is used after its end or out of order."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
from bad_row import Action, Place, Row
from numpy_backend import NumpyBackend
from tiny_golden import GOLDEN, TOKENS, append_text, prefill, read_golden, text_layout

import neo_edge
from neo_edge.errors import (
    BackendError,
    BundleError,
    ContextOverflowError,
    InputError,
    SessionClosedError,
)
from neo_edge.options import SamplingOptions
from neo_edge.positions import layout
from neo_edge.tokenizer import load_tokenizer
from neo_edge_runtime import Completion, Model
from neo_edge_runtime.memory import MemoryBudget
from neo_edge_runtime.session import Checkpoint, Session

SHORT = SamplingOptions(max_new_tokens=4)


class Case:
    """A session behind the golden prompt of two pictures, over the numpy model."""

    def __init__(self, **limits: Any) -> None:
        self.backend, self.budget = NumpyBackend(GOLDEN), MemoryBudget()
        self.session = Session(self.backend, budget=self.budget, **limits)
        prefill(self.session, self.backend, read_golden("multi_image"))


def session(broken: str, use: Callable[[Case], object], error: type[Exception], *words: str) -> Row:
    """The session stands where it stood, or is closed and has given everything back."""

    def prepare(_: Place) -> Action:
        case = Case()

        def act() -> object:
            before = case.session.checkpoint, case.budget.held_bytes
            try:
                return use(case)
            finally:
                closed = case.session.capacity == 0
                assert closed or (case.session.checkpoint, case.budget.held_bytes) == before
                assert not closed or case.budget.held_bytes == 0

        return act

    return Row(broken, prepare, error, words)


def model(broken: str, use: Callable[[Model], object], error: type[Exception], *words: str) -> Row:
    def prepare(place: Place) -> Action:
        loaded = Model(NumpyBackend(GOLDEN), tokens=TOKENS, tokenizer=load_tokenizer(place.checkpoint))
        return lambda: use(loaded)

    return Row(broken, prepare, error, words)


def bundle_gone(broken: str, happens: Callable[[Place], object]) -> Row:
    """A model that is loaded goes on answering, the same as before."""

    def prepare(place: Place) -> Action:
        shutil.copytree(place.bundle, place.folder / "in use.bundle")
        loaded = neo_edge.load(place.folder / "in use.bundle", threads=1)
        expected = loaded.generate("hello", options=SHORT).token_ids
        happens(place)

        def act() -> object:
            with loaded:
                return loaded.generate("hello", options=SHORT).token_ids == expected

        return act

    return Row(f"{broken} while in use: answers", prepare, None, gives=lambda same: same is True)


def _moved_then_loaded(place: Place) -> Action:
    first, second = place.folder / "a.bundle", place.folder / "b.bundle"
    shutil.copytree(place.bundle, first)
    first.rename(second)
    return lambda: neo_edge.load(first)


def _swapped(place: Place) -> None:
    """As an export with --overwrite does it."""
    target = place.folder / "in use.bundle"
    target.rename(place.folder / "old")
    shutil.copytree(place.bundle, target)
    for path in (target / "fp32").iterdir():
        path.write_bytes(b"something else")
    shutil.rmtree(place.folder / "old")


def _poisoned(case: Case) -> object:
    case.backend.poison = True
    return case.session.decode(1)


def _poisoned_prefill(case: Case) -> object:
    case.backend.poison = True
    return append_text(case.session, [1, 2])


def _failing(case: Case) -> object:
    def run(_: object) -> object:
        raise BackendError("the device was unplugged: plug it in")

    case.backend.states[-1].run = run  # type: ignore[assignment]
    return append_text(case.session, [1, 2])


def _closed(use: Callable[[Session], object]) -> Callable[[Case], object]:
    def act(case: Case) -> object:
        case.session.close()
        return use(case.session)

    return act


def _rewound_twice(case: Case) -> object:
    start, late = case.session.checkpoints[0], case.session.checkpoint
    case.session.rewind(start)
    case.session.rewind(start)
    append_text(case.session, list(range(40)))
    try:
        return case.session.rewind(late)
    finally:
        case.session.close()


def _closed_model(use: Callable[[Model], object]) -> Callable[[Model], object]:
    def act(loaded: Model) -> object:
        loaded.close()
        return use(loaded)

    return act


def _closed_under_a_chat(loaded: Model) -> object:
    conversation = loaded.chat()
    conversation.send("hello", options=SHORT)
    conversation.close()
    return conversation.send("again")


def _chat_rewound(turns: int) -> Callable[[Model], object]:
    def act(loaded: Model) -> object:
        with loaded.chat() as conversation:
            conversation.send("hello", options=SHORT)
            return conversation.rewind(turns)

    return act


def _full(_: Place) -> Action:
    limited = Model(NumpyBackend(GOLDEN), tokens=TOKENS, max_context_tokens=8)
    return lambda: limited.generate([1, 2, 3, 4, 5], options=SamplingOptions(max_new_tokens=99))


def _ends_for_want_of_room(found: object) -> bool:
    return isinstance(found, Completion) and found.stop_reason == "context_full" and len(found.token_ids) == 4


CLOSED, OPEN = "the session is closed", "open another one"
LOAD = "load the bundle again"
SESSION_ROWS = (
    bundle_gone("a bundle deleted", lambda place: shutil.rmtree(place.folder / "in use.bundle")),
    bundle_gone("a bundle moved", lambda p: (p.folder / "in use.bundle").rename(p.folder / "elsewhere")),
    bundle_gone("a bundle overwritten", _swapped),
    Row(
        "a bundle that moved away", _moved_then_loaded, BundleError, ("does not exist", "give the directory")
    ),
    Row("a context that fills up: the answer ends", _full, None, gives=_ends_for_want_of_room),
    session(
        "NaN out of a decode step", _poisoned, SessionClosedError, "not finite", "neo-edge parity", "float32"
    ),
    session("NaN out of a prefill", _poisoned_prefill, SessionClosedError, "not finite", "neo-edge parity"),
    session("a backend that fails", _failing, BackendError, "plug it in"),
    session("prefill after close", _closed(lambda s: append_text(s, [1])), SessionClosedError, CLOSED, OPEN),
    session("decode after close", _closed(lambda s: s.decode(1)), SessionClosedError, CLOSED, OPEN),
    session(
        "rewind after close", _closed(lambda s: s.rewind(Checkpoint(0, 0))), SessionClosedError, CLOSED, OPEN
    ),
    session("fork after close", _closed(lambda s: s.fork()), SessionClosedError, CLOSED, OPEN),
    session(
        "a rewind into a picture", lambda c: c.session.checkpoint_at(8), InputError, "stays whole", "nearest"
    ),
    session(
        "a rewind beyond the end",
        lambda c: c.session.checkpoint_at(999),
        InputError,
        "it holds 31",
        "nearest",
    ),
    session(
        "a rewind below zero", lambda c: c.session.checkpoint_at(-1), InputError, "to -1 tokens", "nearest"
    ),
    session(
        "a rewind to another session's point",
        lambda c: c.session.rewind(Checkpoint(1, 9)),
        InputError,
        "not of this session",
        "t is 1 there",
    ),
    session("a rewind to a point that is gone", _rewound_twice, InputError, "not of this session"),
    session(
        "a token beyond the vocabulary", lambda c: c.session.decode(320), InputError, "vocabulary 0..319"
    ),
    session("a token below zero", lambda c: c.session.decode(-1), InputError, "vocabulary 0..319"),
    session(
        "tokens laid out for another place",
        lambda c: c.session.prefill(np.array([1]), layout([1], [], TOKENS)),
        InputError,
        "start_length and start_t",
    ),
    session(
        "more tokens than their layout",
        lambda c: c.session.prefill(np.array([1, 2]), text_layout(c.session, [1])),
        InputError,
        "its layout is of 1 tokens",
    ),
    session(
        "visual tokens without a place",
        lambda c: c.session.prefill(np.array([1]), text_layout(c.session, [1]), np.ones((2, 64), np.float32)),
        InputError,
        "this prompt needs (0, 64)",
    ),
    session(
        "no tokens",
        lambda c: c.session.prefill(np.array([], int), text_layout(c.session, [])),
        InputError,
        "0 tokens must end behind a text token",
    ),
    session(
        "more tokens than positions",
        lambda c: append_text(c.session, [1] * 41_000),
        ContextOverflowError,
        "made for 40960",
        "shorten the prompt or rewind",
    ),
    Row(
        "decode before prefill",
        lambda _: lambda: Session(NumpyBackend(GOLDEN)).decode(1),
        InputError,
        ("is empty", "prefill a prompt"),
    ),
    model(
        "a closed model",
        _closed_model(lambda m: m.generate("a")),
        SessionClosedError,
        "model is closed",
        LOAD,
    ),
    model(
        "a chat of a closed model", _closed_model(lambda m: m.chat()), SessionClosedError, "is closed", LOAD
    ),
    model("a closed chat", _closed_under_a_chat, SessionClosedError, CLOSED, OPEN),
    model("a chat rewound too far", _chat_rewound(2), InputError, "2 turns", "the conversation has 1"),
    model("a chat rewound by nothing", _chat_rewound(0), InputError, "0 turns", "the conversation has 1"),
    model(
        "a completion before its time",
        lambda m: m.stream("a", options=SHORT).completion,
        InputError,
        "not finished",
        "iterate the stream to its end",
    ),
)

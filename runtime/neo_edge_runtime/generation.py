"""The loop that makes an answer: prefill, then choose, hand out, decode, until something ends it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from neo_edge.errors import ContextOverflowError, InputError, MemoryBudgetError
from neo_edge_runtime.answer import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from neo_edge_runtime.completion import Completion
    from neo_edge_runtime.request import PreparedRequest
    from neo_edge_runtime.session import Session

_log = logging.getLogger(__name__)


class Stream:
    """An answer as it is made: iterate it for pieces of text, each of whole characters.

    Work happens in the iterating thread, while it waits for the next piece; `cancel` may come from any thread.
    Leaving a `with` block, or dropping the stream, is cancelling. Iterating raises `BackendError` when a run fails, and
    `SessionClosedError` when a logit is not finite or the model was closed meanwhile.
    """

    def __init__(self, request: PreparedRequest, on_end: Callable[[Sequence[int], bool], None]) -> None:
        """`on_end` gets the answer's tokens, and whether question and answer took place: False when it was cancelled
        before it began, or failed. Called once.
        """
        self._answer = Answer(request)
        # The generator holds the answer and not the stream: a stream that is dropped is freed, and so its session.
        self._pieces = _pieces(self._answer, on_end)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def request(self) -> PreparedRequest:
        """What was asked, as tokens."""
        return self._answer.request

    @property
    def completion(self) -> Completion:
        """The whole answer, once the iteration has ended; raises `InputError` before."""
        if self._answer.completion is None:
            raise InputError("the answer is not finished: iterate the stream to its end, or close it")
        return self._answer.completion

    def finish(self) -> Completion:
        """Iterates to the end, without cancelling, and gives the whole answer."""
        for _ in self:
            pass
        return self.completion

    def cancel(self) -> None:
        """Ends the answer after the step that is running; the iteration then stops by itself."""
        self._answer.cancelled.set()

    def close(self) -> None:
        """Cancels and finishes what is left, so that `completion` is there and the cache is in order."""
        self.cancel()
        for _ in self:
            pass

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pieces(answer: Answer, on_end: Callable[[Sequence[int], bool], None]) -> Iterator[str]:
    try:
        piece = answer.begin()
        while answer.reason is None:
            if piece:
                yield piece
            piece = _step(answer)
        piece += answer.finish()
        if piece:
            yield piece
    finally:
        on_end(answer.tokens, answer.prefilled and answer.completion is not None)


def _decoded(answer: Answer, session: Session, last: int) -> int | npt.NDArray[np.float32]:
    """The next token where few logits decide it, else all logits."""
    if answer.takes_likeliest:
        return session.decode_likeliest(last)
    if answer.narrows:
        # Greedy answers that penalize have no temperature, and look at no sum.
        return session.decode_narrowed(last, answer.request.options.temperature or 1.0, answer.choose)
    return session.decode(last)


def _step(answer: Answer) -> str:
    if answer.cancelled.is_set():
        answer.reason = "cancelled"
        return ""
    started = time.perf_counter()
    session, last = answer.request.session, answer.tokens[-1]
    try:
        chosen = _decoded(answer, session, last)
    except (ContextOverflowError, MemoryBudgetError) as error:
        _log.warning("the answer ends here: %s", error)
        answer.reason = "context_full"
        return ""
    piece = answer.push(chosen) if isinstance(chosen, int) else answer.advance(chosen)
    answer.add_step(time.perf_counter() - started)
    return piece

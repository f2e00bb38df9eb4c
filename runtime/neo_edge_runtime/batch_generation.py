"""The loop that makes several answers: fill free rows with prompts, decode all rows in one run, hand out, repeat."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple

from neo_edge.errors import ContextOverflowError, InputError, MemoryBudgetError, NeoEdgeError
from neo_edge_runtime.answer import Answer
from neo_edge_runtime.completion import Completion

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from neo_edge_runtime.batch_session import BatchRow, BatchSession
    from neo_edge_runtime.request import PreparedRequest

OnError = Literal["raise", "return"]
"""What becomes of a batch when one of its requests fails.

`raise`: the error ends it. `return`: the request's completion has the error, and the others go on.
"""

_log = logging.getLogger(__name__)


class BatchPiece(NamedTuple):
    """What a request has newly got; its last piece, and no other, has the completion."""

    row: int  # which request, counted from 0
    text: str  # whole characters; may be empty in the last piece
    completion: Completion | None


class BatchStream:
    """Answers to several requests as they are made: iterate it for each `BatchPiece`, whichever row it is of.

        for row, text, completion in model.stream_batch(requests):
            print(row, text if completion is None else completion.stop_reason)

    Work happens in the iterating thread; `cancel` may come from any thread. Leaving a `with` block, or dropping the
    stream, cancels all rows.
    """

    def __init__(
        self,
        requests: Sequence[PreparedRequest | Completion],
        names: Sequence[str],
        batch: BatchSession,
        batch_size: int,
        *,
        on_error: OnError = "raise",
    ) -> None:
        """Takes the batch and the requests' sessions over, and closes them.

        Args:
            requests: what to ask; a request that was refused stands here as its completion.
            names: of the requests, for messages.
            batch: empty.
            batch_size: rows of it that are used.
            on_error: what one that fails means for the others.
        """
        self._answers = [
            request if isinstance(request, Completion) else Answer(request) for request in requests
        ]
        # The schedule does not hold the stream: one that is dropped is freed, and so are its caches.
        self._pieces = _Schedule(self._answers, names, batch, batch_size, on_error).run()

    def __iter__(self) -> Iterator[BatchPiece]:
        return self

    def __next__(self) -> BatchPiece:
        return next(self._pieces)

    @property
    def requests(self) -> list[PreparedRequest | None]:
        """What was asked, as tokens; None where the request was refused."""
        return [answer.request if isinstance(answer, Answer) else None for answer in self._answers]

    @property
    def completions(self) -> list[Completion | None]:
        """The answers, in the order of the requests; None while one is not finished."""
        return [answer.completion if isinstance(answer, Answer) else answer for answer in self._answers]

    def finish(self) -> list[Completion]:
        """Iterates to the end, without cancelling, and gives all answers in the order of the requests."""
        for _ in self:
            pass
        found = [completion for completion in self.completions if completion is not None]
        if len(found) < len(self._answers):
            raise InputError(
                "the stream ended before its answers did: an error or a dropped iteration ended it"
            )
        return found

    def cancel(self, row: int | None = None) -> None:
        """Ends one request's answer after the step that is running, or all of them; those that wait never run."""
        if row is not None and not 0 <= row < len(self._answers):
            raise InputError(
                f"row {row} cannot be cancelled: the batch has {len(self._answers)} requests, from 0 on"
            )
        for answer in self._answers if row is None else [self._answers[row]]:
            if isinstance(answer, Answer):
                answer.cancelled.set()

    def close(self) -> None:
        """Cancels and finishes what is left, so that every completion is there."""
        self.cancel()
        for _ in self:
            pass

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Schedule:
    """Which request runs when: as many as the batch has rows; the next one starts when a row gets free."""

    def __init__(
        self,
        answers: Sequence[Answer | Completion],
        names: Sequence[str],
        batch: BatchSession,
        batch_size: int,
        on_error: OnError,
    ) -> None:
        self._answers = {
            number: answer for number, answer in enumerate(answers) if isinstance(answer, Answer)
        }
        self._refused = {
            number: answer for number, answer in enumerate(answers) if isinstance(answer, Completion)
        }
        self._names, self._batch, self._batch_size, self._on_error = names, batch, batch_size, on_error
        self._waiting = deque(self._answers)
        self._running: dict[BatchRow, int] = {}
        self._started = 0.0
        self._waits_for_memory = False

    def run(self) -> Iterator[BatchPiece]:
        self._started = time.perf_counter()
        try:
            for number, completion in self._refused.items():
                yield BatchPiece(number, "", completion)
            while self._waiting or self._running:
                yield from self._start_waiting()
                yield from self._end_those_without_room()
                yield from self._decode()
        finally:
            self._batch.close()
            for answer in self._answers.values():
                answer.request.session.close()

    def _start_waiting(self) -> Iterator[BatchPiece]:
        while self._waiting and len(self._running) < self._batch_size and not self._waits_for_memory:
            number = self._waiting[0]
            try:
                text = self._begin(number)
            except NeoEdgeError as error:
                if isinstance(error, MemoryBudgetError) and self._may_begin_later(number):
                    self._waits_for_memory = True  # until one of the running rows has ended
                    return
                self._fail(number, error)
                text = ""
            self._waiting.popleft()
            self._answers[number].request.session.close()
            yield from self._piece(number, text)

    def _begin(self, number: int) -> str:
        answer = self._answers[number]
        session, tokens = answer.request.session, len(answer.request.input_ids)
        text = answer.begin(time.perf_counter() - self._started, beside=self._batch.need(tokens))
        if answer.reason is None:
            self._running[self._batch.join(session)] = number
        return text

    def _may_begin_later(self, number: int) -> bool:
        return bool(self._running) and not self._answers[number].prefilled

    def _fail(self, number: int, error: NeoEdgeError) -> None:
        if self._on_error == "raise":
            raise error
        self._answers[number].fail(error)

    def _end_those_without_room(self) -> Iterator[BatchPiece]:
        for row, number in list(self._running.items()):
            answer = self._answers[number]
            if answer.cancelled.is_set():
                answer.reason = "cancelled"
            else:
                try:
                    self._batch.reserve(row)
                except (ContextOverflowError, MemoryBudgetError) as error:
                    _log.warning("the answer to %s ends here: %s", self._names[number], error)
                    answer.reason = "context_full"
            if answer.reason is not None:
                self._drop(row)
                yield from self._piece(number, "")

    def _decode(self) -> Iterator[BatchPiece]:
        if not self._running:
            return
        started = time.perf_counter()
        running = list(self._running.items())
        found = self._batch.decode_each({row: self._answers[number].tokens[-1] for row, number in running})
        texts = [self._advance(number, found[row]) for row, number in running]
        step_s = time.perf_counter() - started
        for row, number in running:
            self._answers[number].add_step(step_s)
            if self._answers[number].reason is not None:
                self._drop(row)
        for (_, number), text in zip(running, texts, strict=True):
            yield from self._piece(number, text)

    def _advance(self, number: int, found: npt.NDArray[np.float32] | NeoEdgeError) -> str:
        if isinstance(found, NeoEdgeError):
            self._fail(number, found)
            return ""
        try:
            return self._answers[number].advance(found)
        except NeoEdgeError as error:
            self._fail(number, error)
            return ""

    def _drop(self, row: BatchRow) -> None:
        del self._running[row]
        if row in self._batch.rows:  # one that failed has left by itself
            self._batch.leave(row)
        self._waits_for_memory = False
        self._batch.expect(len(self._running) + len(self._waiting))

    def _piece(self, number: int, text: str) -> Iterator[BatchPiece]:
        answer = self._answers[number]
        if answer.reason is not None:
            text += answer.finish()
            yield BatchPiece(number, text, answer.completion)
        elif text:
            yield BatchPiece(number, text, None)

"""The loop that makes an answer: prefill, then choose, hand out, decode, until something ends it."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from neo_edge.errors import ContextOverflowError, InputError, MemoryBudgetError
from neo_edge_runtime.completion import Completion, StopReason, Usage
from neo_edge_runtime.memory import peak_memory_bytes
from neo_edge_runtime.prefill_plan import PrefillCancelledError
from neo_edge_runtime.sampling import Sampler
from neo_edge_runtime.text_stream import TextStream
from neo_edge_runtime.vision_encoder import encode_images

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from neo_edge_runtime.request import Request

_log = logging.getLogger(__name__)


class Stream:
    """An answer as it is made: iterate it for pieces of text, each of whole characters.

    Work happens in the iterating thread, while it waits for the next piece; `cancel` may come from any thread.
    Leaving a `with` block, or dropping the stream, is cancelling.
    """

    def __init__(self, request: Request, on_end: Callable[[Sequence[int], bool], None]) -> None:
        """`on_end` gets the answer's tokens and whether the prompt went into the session; called once."""
        self._answer = _Answer(request, on_end)
        # The generator holds the answer and not the stream: a stream that is dropped is freed, and so its session.
        self._pieces = self._answer.run()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def request(self) -> Request:
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


class _Answer:
    """One answer: schedule, run, postprocess, until something ends it."""

    def __init__(self, request: Request, on_end: Callable[[Sequence[int], bool], None]) -> None:
        self.request, self._on_end = request, on_end
        self.cancelled = threading.Event()
        self.completion: Completion | None = None
        self._tokens: list[int] = []
        self._text: list[str] = []
        self._prefilled = False
        self._first_token_s: float | None = None
        self._decode_s, self._decoded = 0.0, 0

    def run(self) -> Iterator[str]:
        """Pieces of text; `completion` is there when they end."""
        try:
            reason = yield from self._steps()
            self.completion = self._finished(reason)
        finally:
            self._on_end(self._tokens, self._prefilled)

    def _steps(self) -> Generator[str, None, StopReason]:
        request = self.request
        text = TextStream(request.tokenizer, request.options.stop)
        sampler = Sampler(request.options, (*request.earlier_ids, *request.input_ids.tolist()))
        started = time.perf_counter()
        try:
            logits = self._prefill()
        except PrefillCancelledError:
            return "cancelled"
        self._prefilled = True
        token = sampler.sample(logits)
        self._first_token_s = request.preparation_s + time.perf_counter() - started
        while True:
            if token in request.eos:
                reason: StopReason = "eos"
                break
            self._tokens.append(token)
            piece = text.push(token)
            if piece:
                self._text.append(piece)
                yield piece
            if text.stopped:
                reason = "stop_string"
                break
            if len(self._tokens) >= request.options.max_new_tokens:
                reason = "max_tokens"
                break
            if self.cancelled.is_set():
                reason = "cancelled"
                break
            started = time.perf_counter()
            try:
                logits = request.session.decode(token)
            except (ContextOverflowError, MemoryBudgetError) as error:
                _log.warning("the answer ends here: %s", error)
                reason = "context_full"
                break
            token = sampler.sample(logits)
            self._decode_s += time.perf_counter() - started
            self._decoded += 1
        rest = text.finish()
        if rest:
            self._text.append(rest)
            yield rest
        return reason

    def _prefill(self) -> npt.NDArray[np.float32]:
        request = self.request
        if self.cancelled.is_set():
            raise PrefillCancelledError
        visual_tokens = encode_images(request.backend, request.images)
        logits: npt.NDArray[np.float32] = request.session.prefill(
            request.input_ids, request.layout, visual_tokens, cancelled=self.cancelled
        )[-1]
        return logits

    def _finished(self, reason: StopReason) -> Completion:
        request = self.request
        cached = request.cached_tokens
        first, rate = self._first_token_s, self._decoded / self._decode_s if self._decoded else None
        usage = Usage(
            prompt_tokens=cached + len(request.input_ids),
            cached_tokens=cached,
            visual_tokens=int(request.layout.is_visual.sum()),
            completion_tokens=len(self._tokens),
            time_to_first_token_ms=None if first is None else first * 1e3,
            tokens_per_second=rate,
            peak_memory_bytes=peak_memory_bytes(),
        )
        return Completion("".join(self._text), tuple(self._tokens), reason, usage)

"""One answer in the making: its tokens, its text, why it ended and what it cost."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from neo_edge_runtime.completion import Completion, StopReason, Usage
from neo_edge_runtime.memory import MemoryNeed, peak_memory_bytes
from neo_edge_runtime.prefill_plan import PrefillCancelledError
from neo_edge_runtime.sampling import Sampler
from neo_edge_runtime.text_stream import TextStream
from neo_edge_runtime.vision_encoder import encode_images, encoding_need

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from neo_edge.errors import NeoEdgeError
    from neo_edge_runtime.backend import Candidates
    from neo_edge_runtime.request import PreparedRequest


class Answer:
    """What a request has got so far. `reason` is None while it goes on; `finish` then makes the `completion`."""

    def __init__(self, request: PreparedRequest) -> None:
        self.request = request
        self.cancelled = threading.Event()
        self.tokens: list[int] = []
        self.prefilled = False
        self.reason: StopReason | None = None
        self.error: NeoEdgeError | None = None
        self.completion: Completion | None = None
        self._text: list[str] = []
        self._stream = TextStream(request.tokenizer, request.options.stop)
        self._sampler = Sampler(request.options, (*request.earlier_ids, *request.input_ids.tolist()))
        self._matcher = None if request.constraint is None else request.constraint.start()
        self._first_token_s: float | None = None
        self._decode_s, self._decoded = 0.0, 0

    def begin(self, waited_s: float = 0.0, *, beside: MemoryNeed | None = None) -> str:
        """Encodes the pictures, prefills and takes the first token; the text that is certain now.

        Args:
            waited_s: seconds between the request's preparation and now that count for its first token.
            beside: memory that the caller will take for the same request.

        Raises:
            MemoryBudgetError: there is no room now; nothing has run, and it may begin later.
            NeoEdgeError: of the kinds that `Session.prefill` raises.
        """
        started = time.perf_counter()
        try:
            logits = self._prefill(beside or MemoryNeed())
        except PrefillCancelledError:
            self.reason = "cancelled"
            return ""
        self.prefilled = True
        piece = self.advance(logits)
        self._first_token_s = self.request.preparation_s + waited_s + time.perf_counter() - started
        return piece

    def advance(self, logits: npt.NDArray[np.float32]) -> str:
        """Takes the next token from [V] logits, which this may overwrite; the text that is certain now.

        Raises:
            ConstraintError: the answer's constraint grew beyond what can be followed.
        """
        matcher = self._matcher
        return self.push(self._sampler.sample(logits, None if matcher is None else matcher.allowed()))

    @property
    def takes_likeliest(self) -> bool:
        """Whether the next token is the arg-max of the logits, whatever came before."""
        return self._matcher is None and self._sampler.takes_likeliest

    @property
    def narrows(self) -> bool:
        """Whether `choose` mostly decides without all logits."""
        return self._matcher is None and self._sampler.narrows

    def choose(self, found: Candidates) -> int | None:
        """The next token, still to be pushed; None: `advance` must see all logits."""
        return self._sampler.sample_narrowed(found)

    def push(self, token: int) -> str:
        """Takes a token that is chosen already; as `advance`."""
        matcher = self._matcher
        if token in self.request.eos:
            self.reason = "eos"
            return ""
        self.tokens.append(token)
        piece = self._stream.push(token)
        self._text.append(piece)
        full = len(self.tokens) >= self.request.options.max_new_tokens
        if matcher is not None:
            matcher.push(token)
        if self._stream.stopped:
            self.reason = "stop_string"
        elif matcher is not None and (matcher.closed or (full and matcher.complete)):
            self.reason = "complete"
        elif full:
            self.reason = "max_tokens"
        return piece

    def add_step(self, seconds: float) -> None:
        """Counts a decode step, its choice of the token included."""
        self._decode_s += seconds
        self._decoded += 1

    def fail(self, error: NeoEdgeError) -> None:
        """Ends it here; what it has got so far stays."""
        self.error, self.reason = error, "error"

    def finish(self) -> str:
        """Makes the completion; the text that was held back until now."""
        assert self.reason is not None
        rest = self._stream.finish()
        self._text.append(rest)
        self.completion = Completion(
            "".join(self._text),
            tuple(self.tokens),
            self.reason,
            self._usage(),
            self.error,
            warnings=self.request.warnings,
        )
        return rest

    def _prefill(self, beside: MemoryNeed) -> npt.NDArray[np.float32]:
        request = self.request
        if self.cancelled.is_set():
            raise PrefillCancelledError
        need = beside + encoding_need(request.backend, request.images)
        with request.session.reserve(request.layout, beside=need):
            visual_tokens = encode_images(request.backend, request.images)
            logits: npt.NDArray[np.float32] = request.session.prefill(
                request.input_ids, request.layout, visual_tokens, cancelled=self.cancelled
            )[-1]
        return logits

    def _usage(self) -> Usage:
        request = self.request
        cached = request.cached_tokens
        first = self._first_token_s
        return Usage(
            prompt_tokens=cached + len(request.input_ids),
            cached_tokens=cached,
            visual_tokens=int(request.layout.is_visual.sum()),
            completion_tokens=len(self.tokens),
            time_to_first_token_ms=None if first is None else first * 1e3,
            tokens_per_second=self._decoded / self._decode_s if self._decoded else None,
            peak_memory_bytes=peak_memory_bytes(),
        )

"""Several requests -> what a batch runs: each checked before any runs, and named in what is wrong with it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from neo_edge.errors import ContextOverflowError, InputError, MemoryBudgetError, TokenizerError
from neo_edge_runtime.batch_generation import OnError
from neo_edge_runtime.batch_request import Request
from neo_edge_runtime.completion import Completion
from neo_edge_runtime.vision_encoder import encoding_need

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from neo_edge_runtime.batch_session import BatchSession
    from neo_edge_runtime.request import PreparedRequest

_REFUSED = (
    InputError,
    TokenizerError,
    ContextOverflowError,
    MemoryBudgetError,
)  # what may be wrong with one request


def require_requests(requests: Sequence[Request], batch_size: int, on_error: str) -> None:
    """Passes what `Model.stream_batch` takes; raises `InputError`."""
    if on_error not in get_args(OnError):
        raise InputError(f"on_error is {on_error!r}; it must be one of {', '.join(get_args(OnError))}")
    if isinstance(requests, Request) or batch_size < 1:
        raise InputError(
            f"stream_batch takes a list of requests and a batch_size of 1 or above; found "
            f"{type(requests).__name__} and {batch_size}"
        )
    for number, asked in enumerate(requests):
        if not isinstance(asked, Request):
            raise InputError(
                f"request {number} is of type {type(asked).__name__}: pass neo_edge.Request(prompt, ...)"
            )


def prepare_requests(
    requests: Sequence[Request],
    names: Sequence[str],
    prepare: Callable[[Request], PreparedRequest],
    batch: BatchSession,
    batch_size: int,
    *,
    on_error: OnError,
    started: float,
) -> list[PreparedRequest | Completion]:
    """All of them ready to run.

    Args:
        requests: what is asked.
        names: of the requests, for messages.
        prepare: checks one of them and reads its pictures.
        batch: empty.
        batch_size: rows of it that are used.
        on_error: `raise`: the first that is refused raises. `return`: its completion, with the error, stands in its
            place.
        started: `time.perf_counter()` when work on them began; each waits for all.

    Raises:
        NeoEdgeError: of the kinds that `prepare` raises, and `MemoryBudgetError`.
    """
    prepared: list[PreparedRequest | Completion] = []
    for name, asked in zip(names, requests, strict=True):
        try:
            request = _named(name, asked, prepare)
            if on_error == "return":
                _require_memory([request], [name], batch, batch_size)
            prepared.append(request)
        except _REFUSED as error:
            if on_error == "raise":
                raise
            prepared.append(Completion.of_error(error))
    if on_error == "raise":
        runnable = [request for request in prepared if not isinstance(request, Completion)]
        _require_memory(runnable, names, batch, batch_size)
    waited_s = time.perf_counter() - started
    return [
        request if isinstance(request, Completion) else replace(request, preparation_s=waited_s)
        for request in prepared
    ]


def _named(name: str, asked: Request, prepare: Callable[[Request], PreparedRequest]) -> PreparedRequest:
    try:
        return prepare(asked)
    except _REFUSED as error:
        raise type(error)(f"{name}: {error}") from error


def _require_memory(
    requests: Sequence[PreparedRequest], names: Sequence[str], batch: BatchSession, batch_size: int
) -> None:
    """Passes when each prompt can be prefilled while the batch is full of sequences as long as the longest.

    Raises:
        MemoryBudgetError: it cannot; the message has the numbers and the request.
    """
    longest = max((len(request.input_ids) for request in requests), default=0)
    full = batch.need(longest)
    for name, request in zip(names, requests, strict=True):
        try:
            request.session.preflight(
                request.layout, beside=full + encoding_need(request.backend, request.images)
            )
        except MemoryBudgetError as error:
            raise MemoryBudgetError(
                f"{name}, in a batch of {batch_size} of up to {longest} tokens: {error}, or pass a smaller "
                "batch_size"
            ) from error

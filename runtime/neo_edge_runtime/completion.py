"""What an answer is: its text, why it ended and what it cost."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

from neo_edge.errors import AnswerError
from neo_edge.shown import shown
from neo_edge_runtime.memory import peak_memory_bytes

if TYPE_CHECKING:
    from neo_edge.errors import NeoEdgeError

StopReason = Literal["eos", "complete", "stop_string", "max_tokens", "cancelled", "context_full", "error"]
"""What ended an answer.

`eos`: the model did. `complete`: it satisfies its constraint, and nothing may follow or the options' limit came just
there; a constrained answer that ended by neither of these two is only the beginning of one. `stop_string`: one of the
options' `stop` came. `max_tokens`: the options' limit was reached. `cancelled`: the caller asked for it.
`context_full`: no further token fits the context or the memory. `error`: one of a batch failed, and the caller had
asked for `on_error="return"`.
"""

_WHOLE = ("eos", "complete", "stop_string")


@dataclass(frozen=True)
class Usage:
    """What one answer cost."""

    prompt_tokens: int  # tokens before the answer, those that the cache held included
    cached_tokens: int  # of these, how many were in the cache and cost nothing
    visual_tokens: int  # of the rest, how many came from pictures
    completion_tokens: int  # tokens of the answer, as in `Completion.token_ids`
    time_to_first_token_ms: float | None  # pictures, vision, prefill, first choice; None: there was no token
    tokens_per_second: float | None  # decoding, after the first token; None: there was no second
    peak_memory_bytes: int | None  # the process's largest resident size so far; None: the system does not say


@dataclass(frozen=True)
class Completion:
    """One answer."""

    text: str  # without the stop string; empty when the bundle has no tokenizer
    token_ids: tuple[int, ...]  # all chosen tokens but the end-of-text token
    stop_reason: StopReason  # what ended it
    usage: Usage  # what it cost
    error: NeoEdgeError | None = None  # what failed, with stop_reason `error` and with no other
    warnings: tuple[str, ...] = ()  # what was wrong with its videos, whose good frames were used

    @classmethod
    def of_error(cls, error: NeoEdgeError) -> Completion:
        """That of a request which never ran."""
        return cls("", (), "error", Usage(0, 0, 0, 0, None, None, peak_memory_bytes()), error)

    def json(self) -> object:
        """What the text says as JSON, such as an answer with the constraint `JsonSchema`.

        Raises:
            AnswerError: it is no JSON, or was cut short.
        """
        if self.stop_reason not in _WHOLE:
            raise AnswerError(
                f"the answer {shown(self.text)} is only the beginning of one, since it ended by {self.stop_reason}: "
                "give it room, such as more max_new_tokens"
            )
        try:
            value: object = json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise AnswerError(
                f"the answer {shown(self.text)} is no JSON ({error}): ask with constraint=JsonSchema(...)"
            ) from error
        return value

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON: `error` as its type and message, and `warnings`, each where there is one."""
        plain = asdict(replace(self, error=None))
        del plain["error"]
        if self.error is not None:
            plain["error"] = {"type": type(self.error).__name__, "message": str(self.error)}
        if not self.warnings:
            del plain["warnings"]
        return plain

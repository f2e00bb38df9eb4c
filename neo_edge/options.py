"""How the next token is chosen and when an answer ends."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral

from neo_edge.errors import InputError
from neo_edge.real_number import is_real
from neo_edge.shown import shown

# Beyond these, logits in float32 would end in infinity or all be the same.
_TEMPERATURES = (1e-6, 1e6)
_PENALTIES = (1e-3, 1e3)


@dataclass(frozen=True)
class SamplingOptions:
    """Sampling for one answer; the defaults are greedy and repeatable."""

    temperature: float = 0.0  # 0: greedy, the likeliest token
    top_k: int | None = None  # keep the k likeliest tokens
    top_p: float | None = None  # keep the fewest tokens whose probabilities reach p
    min_p: float | None = None  # keep tokens at least this fraction as likely as the likeliest
    repetition_penalty: float = (
        1.0  # divides (positive) or multiplies (negative) logits of tokens already seen
    )
    max_new_tokens: int = 512  # an answer ends here at the latest
    seed: int | None = None  # None: different each time, when sampling
    stop: tuple[str, ...] = ()  # the answer ends before the first of these

    def __post_init__(self) -> None:
        # A lone string would be taken for its letters.
        if isinstance(self.stop, str):
            raise InputError(
                f"stop is {shown(self.stop)}; pass a tuple of strings, such as ({shown(self.stop)},)"
            )
        if not isinstance(self.stop, Iterable):
            raise InputError(f"stop is {shown(self.stop)}; pass a tuple of strings, () for none")
        object.__setattr__(self, "stop", tuple(self.stop))
        _check(
            "temperature",
            self.temperature,
            _number(self.temperature, at_least=0)
            and (self.temperature == 0 or _TEMPERATURES[0] <= self.temperature <= _TEMPERATURES[1]),
            f"0 (greedy), or from {_TEMPERATURES[0]:g} to {_TEMPERATURES[1]:g}",
        )
        _check(
            "top_k", self.top_k, self.top_k is None or _whole(self.top_k, at_least=1), "1 or above, or None"
        )
        _check(
            "top_p",
            self.top_p,
            self.top_p is None or (_number(self.top_p, at_least=0) and 0 < self.top_p <= 1),
            "above 0 and at most 1, or None",
        )
        _check(
            "min_p",
            self.min_p,
            self.min_p is None or (_number(self.min_p, at_least=0) and self.min_p <= 1),
            "between 0 and 1, or None",
        )
        _check(
            "repetition_penalty",
            self.repetition_penalty,
            _number(self.repetition_penalty, at_least=_PENALTIES[0])
            and self.repetition_penalty <= _PENALTIES[1],
            f"from {_PENALTIES[0]:g} to {_PENALTIES[1]:g}; 1.0 changes nothing",
        )
        _check("max_new_tokens", self.max_new_tokens, _whole(self.max_new_tokens, at_least=1), "1 or above")
        _check("seed", self.seed, self.seed is None or _whole(self.seed, at_least=0), "0 or above, or None")
        _check(
            "stop", self.stop, all(isinstance(text, str) and text for text in self.stop), "non-empty strings"
        )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0


def _number(value: object, *, at_least: float) -> bool:
    return is_real(value) and at_least <= value < math.inf  # isfinite raises for numbers beyond any float


def _whole(value: object, *, at_least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= at_least


def _check(field: str, value: object, allowed: bool, wanted: str) -> None:
    if not allowed:
        raise InputError(f"{field} is {shown(value)}; it must be {wanted}")

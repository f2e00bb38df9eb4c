"""One row of the table of bad input: what is broken, and what must come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

Action = Callable[[], object]


@dataclass(frozen=True)
class Place:
    """What a row may use."""

    folder: Path  # empty, the row's own
    bundle: Path  # a whole bundle of the tiny model, fp32, with a tokenizer; to be copied, not altered
    checkpoint: Path  # the checkpoint that it was made from
    quantized: Path  # the bundle with a variant `eight`, of 8 bits
    patch: pytest.MonkeyPatch


@dataclass(frozen=True)
class Row:
    """A bad input.

    `prepare` breaks something in `Place.folder` and gives the call that must cope with it. That call raises `error`
    with a message that holds all of `words`; or, where `error` is None, gives something that `gives` accepts.
    """

    broken: str
    prepare: Callable[[Place], Action]
    error: type[BaseException] | None
    words: tuple[str, ...] = ()
    gives: Callable[[object], bool] | None = None
    peak_mib: int = 160  # how far memory may rise meanwhile

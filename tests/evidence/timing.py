"""Times contenders in turn, so that a drift of the machine's speed meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]  # one entry a round


@dataclass(frozen=True)
class Contender:
    """Something to time."""

    run: Callable[[], object]
    repeats: int = 1  # calls a round; the round's figure is their median
    prepare: Callable[[], object] | None = None  # before each call, not timed


def interleave(
    contenders: Mapping[str, Contender], *, rounds: int, rest_s: float = 0.3
) -> dict[str, Seconds]:
    """Seconds a call of each contender in each round.

    Args:
        contenders: run in this order in every round.
        rounds: that count; one more comes first and does not.
        rest_s: pause before each contender, in which the threads of the one before it stop spinning.
    """
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            time.sleep(rest_s)
            _once(contender)  # wakes its threads
            seconds = float(np.median([_once(contender) for _ in range(contender.repeats)]))
            if number:
                found[name].append(seconds)
    return {name: np.array(seconds) for name, seconds in found.items()}


def spread(values: Seconds, digits: int = 2) -> str:
    """Median, and the range of all rounds."""
    return f"{np.median(values):.{digits}f} ({values.min():.{digits}f} to {values.max():.{digits}f})"


def _once(contender: Contender) -> float:
    if contender.prepare is not None:
        contender.prepare()
    started = time.perf_counter()
    contender.run()
    return time.perf_counter() - started

"""Times contenders in turn, so that a drift of the machine's speed meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]  # one entry a round


class Clock(Protocol):
    """Where time comes from; tests have one of their own."""

    def now(self) -> float:
        """Seconds since some fixed moment."""
        ...

    def sleep(self, seconds: float) -> None:
        """Waits."""
        ...


class SystemClock:
    """The machine's."""

    def now(self) -> float:
        """Seconds, to fractions of a microsecond."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)


@dataclass(frozen=True)
class Contender:
    """Something to time."""

    run: Callable[[], object]
    repeats: int = 1  # calls a round; the round's figure is their median
    prepare: Callable[[], object] | None = None  # before each call, not timed


def interleave(
    contenders: Mapping[str, Contender],
    *,
    rounds: int,
    rest_s: float = 0.3,
    clock: Clock | None = None,
    on_round: Callable[[], None] = lambda: None,
) -> dict[str, Seconds]:
    """Seconds a call of each contender in each round.

    Args:
        contenders: run in this order in every round.
        rounds: that count; one more comes first and does not.
        rest_s: pause before each contender, in which the threads of the one before it stop spinning.
        clock: None: the machine's.
        on_round: called behind each round that counts.
    """
    clock = clock or SystemClock()
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            clock.sleep(rest_s)
            _once(contender, clock)  # wakes its threads
            seconds = float(np.median([_once(contender, clock) for _ in range(contender.repeats)]))
            if number:
                found[name].append(seconds)
        if number:
            on_round()
    return {name: np.array(seconds) for name, seconds in found.items()}


def spread(values: Seconds, digits: int = 2) -> str:
    """Median, and the range of all rounds."""
    return f"{np.median(values):.{digits}f} ({values.min():.{digits}f} to {values.max():.{digits}f})"


def mean_and_deviation(values: Seconds) -> tuple[float, float]:
    """Mean, and the sample's standard deviation (0 of a single one)."""
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _once(contender: Contender, clock: Clock) -> float:
    if contender.prepare is not None:
        contender.prepare()
    started = clock.now()
    contender.run()
    return clock.now() - started

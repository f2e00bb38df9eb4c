"""Asks blocks of questions, in this process or in several; the blocks, and so the answers, are the same."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TYPE_CHECKING

from neo_edge.errors import BackendError, InputError
from neo_edge_calibration.quality.asking import Interviewer

if TYPE_CHECKING:
    from neo_edge.bundle import Bundle
    from neo_edge_calibration.quality.comparison import Comparison
    from neo_edge_calibration.question import Questions

BLOCK = 16  # questions: enough to decode well together, few enough to share among processes


class ReferenceAnswers:
    """What the reference said to each question: hand the same object to every measurement with the same data.

    The first measurement fills it; later ones need not let the reference decode.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._answers: list[tuple[int, ...]] = []

    def begin(self, key: tuple[object, ...]) -> None:
        """Names whose they are; raises `InputError` when they are of another reference or other questions."""
        if self._key is not None and self._key != key:
            raise InputError(
                "these reference answers are to other questions: begin with new ReferenceAnswers()"
            )
        self._key = key

    def part(self, start: int, end: int) -> list[tuple[int, ...]] | None:
        """Those of a block; None while they are not known."""
        return self._answers[start:end] or None

    def keep(self, comparisons: Sequence[Comparison]) -> None:
        """Takes those of a whole measurement."""
        self._answers = [comparison.reference_answer for comparison in comparisons]


def ask_here(
    bundle: Bundle, variants: Sequence[str], questions: Questions, known: ReferenceAnswers, threads: int
) -> Iterator[list[Comparison]]:
    """Block after block, in this process; the first variant is the reference."""
    with Interviewer(bundle, variants, threads=threads) as interviewer:
        for start in range(0, len(questions), BLOCK):
            block = list(questions.part(start, start + BLOCK))
            yield interviewer.ask(block, known.part(start, start + BLOCK))


def ask_in_processes(
    bundle: Bundle,
    variants: Sequence[str],
    questions: Questions,
    known: ReferenceAnswers,
    threads: int,
    processes: int,
) -> Iterator[list[Comparison]]:
    """The same blocks in the same order, from processes that each load all variants.

    Raises:
        BackendError: a process was ended from outside, which is what a system does that is short of memory.
    """
    starts = range(0, len(questions), BLOCK)
    pool = ProcessPoolExecutor(
        min(processes, len(starts)), get_context("spawn"), _begin, (bundle, tuple(variants), threads)
    )
    try:
        yield from pool.map(
            _ask_block,
            [questions.part(start, start + BLOCK) for start in starts],
            [known.part(start, start + BLOCK) for start in starts],
        )
    except BrokenProcessPool as error:
        raise BackendError(
            f"one of {processes} measuring processes ended early ({error}): use fewer, each loads "
            f"{', '.join(variants)}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


# Of a measuring process: what to load, and the loaded variants from its first block on.
_job: tuple[Bundle, tuple[str, ...], int] | None = None
_interviewer: Interviewer | None = None


def _begin(bundle: Bundle, variants: tuple[str, ...], threads: int) -> None:
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _job = (bundle, variants, threads)


def _ask_block(questions: Questions, known: list[tuple[int, ...]] | None) -> list[Comparison]:
    global _interviewer
    if _interviewer is None:
        assert _job is not None
        bundle, variants, threads = _job
        _interviewer = Interviewer(bundle, variants, threads=threads)
    return _interviewer.ask(list(questions), known)

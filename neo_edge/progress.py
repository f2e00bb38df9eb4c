"""Progress of long work: a bar on a terminal, plain lines in a log, both on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Generic, NoReturn, TextIO, TypeVar, overload

from tqdm import tqdm

T = TypeVar("T")

_LINE_EVERY_S = 10.0


class Progress(Generic[T]):
    """Counts units of work; iterate over it, or use it in a `with` statement and call `update`."""

    def __init__(
        self, iterable: Iterable[T], total: int | None, description: str, unit: str, stream: TextIO
    ) -> None:
        self._iterable = iterable
        self._total = total
        self._description = description
        self._unit = unit
        self._stream = stream
        self._done = 0
        self._printed: int | None = None
        self._next_line_s = time.monotonic() + _LINE_EVERY_S
        self._bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> Progress[T]:
        if self._stream.isatty():
            self._bar = tqdm(
                total=self._total,
                desc=self._description,
                unit=self._unit if self._unit == "B" else f" {self._unit}",
                unit_scale=self._unit == "B",
                file=self._stream,
                dynamic_ncols=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self._printed != self._done:
            self._print_line()

    def __iter__(self) -> Iterator[T]:
        with self:
            for item in self._iterable:
                yield item
                self.update()

    def update(self, count: int = 1) -> None:
        """Counts work that is done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() >= self._next_line_s:
            self._print_line()

    def note(self, text: str) -> None:
        """Prints a line that stays, above the bar where there is one."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def _print_line(self) -> None:
        counts = [str(count) for count in (self._done, self._total) if count is not None]
        if self._unit == "B":
            counts = [tqdm.format_sizeof(float(count)) for count in counts]
        text = f"{self._description}: {'/'.join(counts)} {self._unit}"
        print(text, file=self._stream, flush=True)
        self._printed = self._done
        self._next_line_s = time.monotonic() + _LINE_EVERY_S


@overload
def progress(
    iterable_or_total: int, description: str, unit: str = "it", *, stream: TextIO | None = None
) -> Progress[int]: ...
@overload
def progress(
    iterable_or_total: Iterable[T], description: str, unit: str = "it", *, stream: TextIO | None = None
) -> Progress[T]: ...
def progress(
    iterable_or_total: Iterable[T] | int, description: str, unit: str = "it", *, stream: TextIO | None = None
) -> Progress[T] | Progress[int]:
    """Progress over an iterable, or over a number of units that `update` counts.

    for tensor in progress(tensors, "streaming", "tensors"): ...

    with progress(size_bytes, "hashing", "B") as bar: bar.update(len(chunk))

    Args:
        iterable_or_total: what to go through, or how many units there are.
        description: what is being done.
        unit: what is counted; `B` is shown with prefixes.
        stream: standard error when None.
    """
    target = sys.stderr if stream is None else stream
    if isinstance(iterable_or_total, int):
        return Progress(range(iterable_or_total), iterable_or_total, description, unit, target)
    total = len(iterable_or_total) if isinstance(iterable_or_total, Sized) else None
    return Progress(iterable_or_total, total, description, unit, target)

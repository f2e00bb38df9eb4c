"""Ctrl-C while TensorRT works: asked for by its progress monitor, raised when its call has returned."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Cancellation:
    """Whether the user wants no more of it."""

    def __init__(self, wakeup: int | None) -> None:
        self._wakeup = wakeup
        self._asked = threading.Event()

    @property
    def requested(self) -> bool:
        """True from the first Ctrl-C on, also in other threads while the main one is inside C++."""
        # Python's own handlers wait for the main thread; the byte in the pipe comes at once.
        if self._wakeup is not None and select.select([self._wakeup], [], [], 0)[0]:
            self._asked.set()
        return self._asked.is_set()

    def request(self, _number: int, _frame: FrameType | None) -> None:
        """A signal's handler."""
        self._asked.set()


@contextmanager
def ctrl_c_waits() -> Iterator[Cancellation]:
    """Keeps Ctrl-C from becoming an exception in a callback, where C++ would lose it; raises it at the end.

    Raises:
        KeyboardInterrupt: it came.
    """
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield Cancellation(None)
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    cancellation = Cancellation(reader)
    handler, wakeup = signal.signal(signal.SIGINT, cancellation.request), signal.set_wakeup_fd(writer)
    try:
        yield cancellation
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGINT, handler)
        requested = cancellation.requested
        os.close(reader)
        os.close(writer)
        if requested:
            raise KeyboardInterrupt

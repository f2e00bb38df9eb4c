"""An answer of a live session: a stream that any thread may end."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from neo_edge_runtime.generation import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from neo_edge_runtime.request import PreparedRequest


class LiveAnswer(Stream):
    """As `Stream`; `close` may come from another thread while this one waits for a piece.

    It also ends when it is dropped without having been iterated, since its session would wait for it for ever.
    """

    def __init__(self, request: PreparedRequest, on_end: Callable[[Sequence[int], bool], None]) -> None:
        self._stepping = threading.Lock()
        super().__init__(request, on_end)

    def __next__(self) -> str:
        with self._stepping:
            return super().__next__()

    def __del__(self) -> None:
        if hasattr(self, "_pieces"):
            self.close()  # runs nothing: a cancelled answer ends before its next step

"""A folder of pictures: those that are put there from now on, or all that it holds at a steady rate."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from neo_edge.errors import SourceError
from neo_edge_runtime.live.pacing import stopped_before
from neo_edge_runtime.video import Frame

POLL_S = 0.1
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

_State = tuple[int, int]  # when a file was written, in nanoseconds, and its bytes


class FolderSource:
    """A file is a frame when it has stood unchanged from one look to the next, so none is seen half written.

    A file that is written again, such as `latest.jpg`, is a new frame. Names that begin with a dot, and endings that
    are no picture's, are left out.
    """

    can_reopen = True

    def __init__(self, folder: Path, rate_hz: float | None) -> None:
        """`rate_hz` None: what comes from now on."""
        self.name = str(folder)
        self._folder, self._rate_hz = folder.absolute(), rate_hz
        self._given: dict[str, _State] | None = (
            None  # kept between two calls of `frames`, so that none is lost
        )

    def frames(self, stopped: threading.Event) -> Iterator[Frame]:
        """As `FrameSource.frames`.

        Raises:
            SourceError: the folder is gone.
        """
        return self._coming(stopped) if self._rate_hz is None else self._all(stopped, self._rate_hz)

    def _all(self, stopped: threading.Event, rate_hz: float) -> Iterator[Frame]:
        started = time.monotonic()
        for number, name in enumerate(sorted(self._look(), key=_natural)):
            time_s = number / rate_hz
            if stopped_before(started + time_s, stopped):
                return
            yield Frame(self._folder / name, time_s)

    def _coming(self, stopped: threading.Event) -> Iterator[Frame]:
        if self._given is None:
            self._given = self._look()
        before = self._given
        while not stopped.wait(POLL_S):
            now = self._look()
            settled = [name for name in now if before.get(name) == now[name] != self._given.get(name)]
            for name in sorted(settled, key=lambda name: (now[name][0], _natural(name))):
                yield Frame(self._folder / name)
            # Names that are gone are forgotten: the folder may be emptied and filled for years.
            self._given = {
                name: now[name] if name in settled else self._given.get(name, (-1, -1)) for name in now
            }
            before = now

    def _look(self) -> dict[str, _State]:
        found: dict[str, _State] = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or not entry.name.lower().endswith(SUFFIXES):
                        continue
                    try:
                        if entry.is_file():
                            state = entry.stat()
                            found[entry.name] = (state.st_mtime_ns, state.st_size)
                    except OSError:
                        continue  # deleted between the two
        except OSError as error:
            raise SourceError(
                f"the folder {self.name} cannot be read ({error.strerror}): see that it is there"
            ) from error
        return found


def _natural(name: str) -> list[str | int]:
    """Sorts `frame-10` behind `frame-9`."""
    return [int(part) if number % 2 else part for number, part in enumerate(re.split(r"(\d+)", name))]

"""Pictures that a program makes or has: a list is played, an iterator gives them as they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from neo_edge.errors import InputError
from neo_edge.real_number import is_real
from neo_edge_runtime.image_input import ImageSource
from neo_edge_runtime.live.pacing import stopped_before
from neo_edge_runtime.video import Frame

TimedPicture = ImageSource | Frame | tuple[ImageSource, float]


class ArraySource:
    """A list is a recording and has times; anything else is live and sets its own pace."""

    name = "the pictures that were given"

    def __init__(self, pictures: Iterable[TimedPicture], rate_hz: float | None) -> None:
        """`rate_hz` gives a list of pictures their times.

        Raises:
            InputError: a list without times, or a rate for something that is not a list.
        """
        self._pictures, self._rate_hz = pictures, rate_hz
        self._recorded = isinstance(pictures, Sequence | np.ndarray)
        self.can_reopen = not isinstance(pictures, Iterator)
        if rate_hz is not None and not self._recorded:
            raise InputError(
                "rate_hz is for lists and folders, and an iterator sets its own pace: leave it out"
            )

    def frames(self, stopped: threading.Event) -> Iterator[Frame]:
        """As `FrameSource.frames`.

        Raises:
            InputError: a list of pictures without times.
        """
        started, first_s = time.monotonic(), 0.0
        for number, picture in enumerate(self._pictures):
            if stopped.is_set():
                return
            image, time_s = _parts(picture)
            if self._rate_hz is not None:
                time_s = number / self._rate_hz
            if self._recorded:
                if time_s is None:
                    raise InputError(
                        f"picture {number} of a list has no time: give (image, time_s), or rate_hz=, or an iterator "
                        "whose pictures are live"
                    )
                first_s = time_s if number == 0 else first_s
                if stopped_before(started + time_s - first_s, stopped):
                    return
            yield Frame(_own(image), time_s)


def _parts(picture: TimedPicture) -> tuple[ImageSource, float | None]:
    if isinstance(picture, Frame):
        return picture.image, picture.time_s
    if isinstance(picture, tuple):
        if len(picture) != 2 or not is_real(picture[1]):
            raise InputError(
                f"a frame of a live source is an image, (image, time_s) or a Frame; found a tuple of "
                f"{', '.join(type(part).__name__ for part in picture) or 'nothing'}"
            )
        return picture[0], float(picture[1])
    return picture, None  # where it is no image, `load_image` says so


def _own(image: ImageSource) -> ImageSource:
    """A copy of an array: a camera's library may write its next frame over it. One on a GPU stays where it is."""
    return image.copy() if isinstance(image, np.ndarray) else image

"""A question that brings images and videos: which stands where, and the text with one `<image>` per picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from neo_edge.errors import PromptError
from neo_edge.prompt import IMAGE_PLACE, place_frames, place_images
from neo_edge.protocols import MultiImageStyle, VideoStyle
from neo_edge.unicode_text import require_text

VIDEO_PLACE = "<video>"
"""Where a video stands in the text of a message that brings videos; plain text in one that brings none."""

Kind = Literal["image", "video"]

# A new line behind a video's place is the one that ends its last frame.
_PLACES = re.compile(f"{re.escape(IMAGE_PLACE)}|{re.escape(VIDEO_PLACE)}\n?")


@dataclass(frozen=True)
class FrameTimes:
    """What a prompt says about one video."""

    times_s: Sequence[float | None]  # of each frame, in seconds; None: unknown
    duration_s: float | None = None  # of the whole video; with fps
    fps: float | None = None  # frames per second at which the frames were taken


@dataclass(frozen=True)
class PlacedMedia:
    """A text with an `<image>` for each image and each frame."""

    text: str
    order: tuple[tuple[Kind, int], ...]  # of the places: which kind, and the how-many-th of its kind, from 0


def place_media(
    text: str,
    images: int,
    videos: Sequence[FrameTimes],
    *,
    image_style: MultiImageStyle = "inline",
    video_style: VideoStyle = "inline",
) -> PlacedMedia:
    """Puts images and videos, mixed in any order, where the text says `<image>` and `<video>`.

    What the text has no place for comes before it: images first, then videos. A video becomes what `place_frames`
    writes of it.

    Raises:
        PromptError: places of a kind that are not one for each of it, or impossible frames (as `place_frames`).
    """
    require_text(text, "a message's text")
    found = text.count(VIDEO_PLACE) if videos else 0
    if found not in (0, len(videos)):
        raise PromptError(
            f"the text has {found} {VIDEO_PLACE} places for {len(videos)} videos: write one per video, or none to put "
            "them all before the text"
        )
    if videos and not found:
        text = VIDEO_PLACE * len(videos) + text
    text = place_images(text, images, image_style)
    if not images and videos and IMAGE_PLACE in text:
        raise PromptError(
            f"the text has an {IMAGE_PLACE} place and brings videos only: pass images too, or leave it out"
        )
    numbers: dict[Kind, int] = {"image": 0, "video": 0}
    order: list[tuple[Kind, int]] = []

    def written(place: re.Match[str]) -> str:
        kind: Kind = "image" if place[0] == IMAGE_PLACE else "video"
        if not (images if kind == "image" else videos):
            return place[0]
        order.append((kind, numbers[kind]))
        numbers[kind] += 1
        if kind == "image":
            return IMAGE_PLACE
        video = videos[order[-1][1]]
        return place_frames("", video.times_s, duration_s=video.duration_s, fps=video.fps, style=video_style)

    return PlacedMedia(_PLACES.sub(written, text), tuple(order))

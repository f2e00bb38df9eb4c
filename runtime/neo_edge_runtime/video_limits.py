"""How much of a video file is read at most."""

from __future__ import annotations

from dataclasses import dataclass, fields

from neo_edge.errors import InputError
from neo_edge.shown import shown
from neo_edge_runtime.image_input import MAX_ENCODED_PIXELS

_ENDLESS = 1e18  # an exabyte


@dataclass(frozen=True)
class VideoLimits:
    """Ceilings for one video file; a file or a request beyond one of them is refused before it is decoded.

    Those of a model (`neo_edge.load(..., video_limits=...)`) hold for all its requests. A request can lower them and
    never raise them.
    """

    max_duration_s: float = (
        4 * 3600.0
    )  # of the whole file, since all its packets are listed: seconds of a long film
    max_frames: int = 1024  # that the model is shown; upstream shows 256
    max_pixels: int = MAX_ENCODED_PIXELS  # of one frame before it is resized
    max_decoded_bytes: int = 1 << 40  # of all frames that must be decoded to get at the chosen ones, as RGB

    def __post_init__(self) -> None:
        for field in fields(self):
            value: object = getattr(self, field.name)
            whole = field.name != "max_duration_s"
            kinds = int if whole else (int, float)
            if isinstance(value, bool) or not (isinstance(value, kinds) and 0 < value < _ENDLESS):
                kind = "whole number" if whole else "number"
                raise InputError(f"{field.name} is {shown(value)}; it must be a {kind} above zero")

    def lowered(self, by: VideoLimits | None) -> VideoLimits:
        """The lower of both, field by field."""
        if by is None:
            return self
        return VideoLimits(
            **{field.name: min(getattr(self, field.name), getattr(by, field.name)) for field in fields(self)}
        )

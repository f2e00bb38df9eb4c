"""One of several prompts that are asked together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from neo_edge.frame_sampling import FrameSampling
    from neo_edge.options import SamplingOptions
    from neo_edge_runtime.constraints import Constraint
    from neo_edge_runtime.image_input import ImageSource
    from neo_edge_runtime.video import Frame, VideoSource
    from neo_edge_runtime.video_limits import VideoLimits


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked; the fields are the arguments of `Model.stream`.

        Request("Is the door open?", images=["door.jpg"], options=SamplingOptions(max_new_tokens=8))

    Pictures are read when the batch starts, not here.
    """

    prompt: str | Sequence[int] | npt.NDArray[np.integer]  # a question, or token ids [S]
    images: Sequence[ImageSource] = ()  # in the order of their places
    frames: Sequence[Frame] | None = None  # of a video, instead of images
    video_duration_s: float | None = None  # seconds; with fps
    fps: float | None = None  # frames per second at which the frames were taken
    system: str | None = None  # None: the protocol's
    options: SamplingOptions | None = None  # None: the batch's, or the protocol's
    name: str | None = None  # what messages call it; None: its number in the batch
    videos: Sequence[VideoSource] = ()  # in the order of their places
    frame_sampling: FrameSampling | None = None  # of video files; None: the protocol's
    video_limits: VideoLimits | None = None  # can only lower the model's
    constraint: Constraint | None = None  # what the answer may be; None: anything

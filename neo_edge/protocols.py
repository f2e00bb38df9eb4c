"""Named ways to ask a model: system prompt, picture sizes, sampling and how images stand in the prompt.

A published score holds only for the protocol it was measured with, so upstream's are kept to the number.
`edge` is ours: an eighth of upstream's visual tokens for a usual camera picture. File names in the comments
are those of the public NEO repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from neo_edge.config import VisionConfig
from neo_edge.errors import InputError
from neo_edge.frame_sampling import FrameSampling
from neo_edge.options import SamplingOptions

MultiImageStyle = Literal["inline", "numbered"]
"""`inline`: `<image>` and a new line each. `numbered`: `Image-1: <image>`, when there are several."""

VideoStyle = Literal["inline", "numbered"]
"""`inline`: `[00:01.00]:<image>`. `numbered`: `Frame1 is at [00:01.00]:<image>`, or `Frame-1: <image>`."""


_LONG_VIDEO = FrameSampling("fps", fps=1.0, max_frames=256)  # 2B on Video-MME and LVBench


@dataclass(frozen=True)
class InferenceProtocol:
    """One way to ask."""

    name: str
    system_prompt: str  # empty: the system block is left out
    min_pixels: int | None  # None: the checkpoint's
    max_pixels: int | None  # None: the checkpoint's
    sampling: SamplingOptions  # unless a call brings its own
    multi_image_style: MultiImageStyle  # of images that the text has no place for
    video_style: VideoStyle  # of frames and their times
    max_visual_tokens: int | None = None  # a ceiling for each image, beside max_pixels
    max_frame_pixels: int | None = None  # the same for a frame of a video; None: as an image
    frame_sampling: FrameSampling = _LONG_VIDEO  # which frames of a video file, unless a call says otherwise

    def pixel_limits(self, vision: VisionConfig) -> tuple[int, int]:
        """(min_pixels, max_pixels) for one picture of this checkpoint, for `smart_resize`."""
        max_pixels = vision.max_pixels if self.max_pixels is None else self.max_pixels
        if self.max_visual_tokens is not None:
            max_pixels = min(max_pixels, self.max_visual_tokens * vision.token_size**2)
        min_pixels = vision.min_pixels if self.min_pixels is None else self.min_pixels
        return min(min_pixels, max_pixels), max_pixels

    def frame_pixel_limits(self, vision: VisionConfig) -> tuple[int, int]:
        """The same for one frame of a video."""
        min_pixels, max_pixels = self.pixel_limits(vision)
        if self.max_frame_pixels is not None:
            max_pixels = min(max_pixels, self.max_frame_pixels)
        return min(min_pixels, max_pixels), max_pixels


_TOKEN_AREA = 32 * 32  # pixels of a visual token, the unit in which upstream writes its limits

# VLMEvalKit_ov/vlmeval/vlm/neo/neo_chat.py:504-510
_OV_SAMPLING = SamplingOptions(
    temperature=0.6, top_p=0.95, top_k=20, repetition_penalty=1.05, max_new_tokens=16384
)
_OV_SYSTEM_PROMPT = "Reason step by step."  # VLMEvalKit_ov/vlmeval/vlm/neo/neo_chat.py:166

PROTOCOLS: dict[str, InferenceProtocol] = {
    protocol.name: protocol
    for protocol in (
        InferenceProtocol(
            name="edge",
            system_prompt="",
            min_pixels=None,
            max_pixels=None,
            max_visual_tokens=1024,  # an image's attention cannot be chunked: 16 heads x 1024^2 scores are 64 MiB
            sampling=SamplingOptions(max_new_tokens=512),
            multi_image_style="inline",
            video_style="inline",
            max_frame_pixels=360 * 640,  # upstream's for video, at most 225 tokens a frame
            frame_sampling=FrameSampling("fps", fps=1.0, max_frames=64),  # 14,400 visual tokens
        ),
        InferenceProtocol(
            name="neo-ov-image",
            system_prompt=_OV_SYSTEM_PROMPT,
            min_pixels=1280 * _TOKEN_AREA,  # VLMEvalKit_ov/vlmeval/config.py:1758-1765
            max_pixels=16384 * _TOKEN_AREA,
            sampling=_OV_SAMPLING,
            multi_image_style="inline",
            video_style="inline",
        ),
        InferenceProtocol(
            name="neo-ov-video",
            system_prompt=_OV_SYSTEM_PROMPT,
            min_pixels=4 * _TOKEN_AREA,  # per frame; VLMEvalKit_ov/vlmeval/config.py:1766-1773
            max_pixels=360 * 640,
            sampling=_OV_SAMPLING,
            multi_image_style="inline",
            video_style="inline",
        ),
        InferenceProtocol(
            name="neo-ov-spatial",
            system_prompt="",
            min_pixels=720 * 960,  # VLMEvalKit_ov/vlmeval/config.py:1774-1781
            max_pixels=720 * 960,
            sampling=SamplingOptions(max_new_tokens=4096),  # VLMEvalKit_ov/vlmeval/vlm/neo_si/neo_chat.py:202
            multi_image_style="numbered",
            video_style="numbered",
            frame_sampling=FrameSampling("uniform", frames=32),  # VSI-Bench_32frame, VLMEvalKit_ov/eval_si.sh
        ),
        InferenceProtocol(
            name="neo1.0",
            system_prompt="",
            min_pixels=1280 * _TOKEN_AREA,  # VLMEvalKit/vlmeval/config.py:1677-1690
            max_pixels=4096 * _TOKEN_AREA,
            sampling=SamplingOptions(max_new_tokens=4096),
            multi_image_style="numbered",
            video_style="numbered",
        ),
    )
}


def get_protocol(name: str) -> InferenceProtocol:
    """The preset of that name; raises `InputError` with the names there are."""
    try:
        return PROTOCOLS[name]
    except KeyError:
        raise InputError(f"there is no protocol {name!r}: use one of {', '.join(PROTOCOLS)}") from None

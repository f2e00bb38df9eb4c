"""A question and its pictures -> token ids and sized pictures, by the rules of a protocol."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.errors import InputError, PromptError, TokenizerError
from neo_edge.media_places import FrameTimes, place_media
from neo_edge.prompt import Message, encode_chat, encode_followup, place_frames
from neo_edge.tokens import SpecialTokens
from neo_edge_runtime.constraint_matching import ConstraintCompiler
from neo_edge_runtime.device_frame import device_frame, is_on_device
from neo_edge_runtime.image_input import is_one_image, load_image
from neo_edge_runtime.preprocessing import PixelLimits, size_frame, size_image
from neo_edge_runtime.video import Frame, Video
from neo_edge_runtime.video_limits import VideoLimits

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from PIL import Image

    from neo_edge.config import ModelConfig
    from neo_edge.frame_sampling import FrameSampling
    from neo_edge.protocols import InferenceProtocol
    from neo_edge.tokenizer import Tokenizer
    from neo_edge_runtime.image_input import ImageSource
    from neo_edge_runtime.preprocessing import SizedImage
    from neo_edge_runtime.video import VideoSource


@dataclass(frozen=True)
class AskedVideos:
    """Videos of one request, and how they are read."""

    sources: Sequence[VideoSource] = ()
    sampling: FrameSampling | None = None  # None: the protocol's
    limits: VideoLimits | None = None  # None: the model's, which also bound these


@dataclass(frozen=True)
class Pictures:
    """All pictures of a request as the model sees them, and the text with one `<image>` each."""

    sized: list[SizedImage]
    text: str
    warnings: tuple[str, ...] = ()  # of damaged videos


@dataclass(frozen=True)
class _SizedVideo:
    frames: list[SizedImage]
    times: FrameTimes
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class PromptAssembly:
    """How this model's prompts are put together; holds no state of any conversation."""

    config: ModelConfig
    tokens: SpecialTokens
    tokenizer: Tokenizer | None
    protocol: InferenceProtocol
    limits: PixelLimits
    upstream_image_rules: bool  # see `load_image`
    frame_limits: PixelLimits | None = None  # of a video's frame; None: as an image
    video_limits: VideoLimits = field(default_factory=VideoLimits)
    frames_on_device: bool = False  # whether the backend takes frames that lie on its device

    @cached_property
    def constraints(self) -> ConstraintCompiler:
        """Binds answers; keeps an index of the vocabulary, once something was bound."""
        return ConstraintCompiler(
            self.tokenizer, ends=self.tokens.eos, vocab_size=self.config.decoder.vocab_size
        )

    def pictures(
        self,
        text: str,
        images: Sequence[ImageSource],
        frames: Sequence[Frame] | None,
        video_duration_s: float | None,
        fps: float | None,
        videos: AskedVideos | None = None,
    ) -> Pictures:
        """Sized pictures, and the text with a place for each of them.

        Raises:
            ImageError: a picture cannot be read, or is too large.
            VideoError: a video cannot be read, or is beyond the limits.
            PromptError: frames beside images or videos, frames out of order, a video's length without frames, or
                places in the text that do not fit.
        """
        videos = videos or AskedVideos()
        if frames is None:
            if video_duration_s is not None or fps is not None:
                raise PromptError("video_duration_s and fps describe frames, and there are none: pass frames")
            return self._mixed(text, images, videos)
        if is_one_image(images) or len(images) or _is_one_video(videos.sources) or len(videos.sources):
            raise PromptError(
                "frames, and images or videos, cannot be asked about at once: pass the images as frames, or "
                "videos=[Video(frames)]"
            )
        frames = self._checked(frames)
        shown = place_frames(
            text,
            [frame.time_s for frame in frames],
            duration_s=video_duration_s,
            fps=fps,
            style=self.protocol.video_style,
        )
        return Pictures([self.size_frame(frame.image) for frame in frames], shown)

    def _mixed(self, text: str, images: Sequence[ImageSource], videos: AskedVideos) -> Pictures:
        if _is_one_video(videos.sources) or not isinstance(videos.sources, Iterable):
            raise InputError(
                f"videos is one {type(videos.sources).__name__}; pass a list, such as videos=[path]"
            )
        sized = self.size(images)
        if not len(videos.sources):
            return Pictures(sized, text)
        shown = [self._size_video(source, videos) for source in videos.sources]
        placed = place_media(
            text,
            len(sized),
            [video.times for video in shown],
            image_style=self.protocol.multi_image_style,
            video_style=self.protocol.video_style,
        )
        ordered = [
            picture
            for kind, number in placed.order
            for picture in ([sized[number]] if kind == "image" else shown[number].frames)
        ]
        return Pictures(ordered, placed.text, tuple(warning for video in shown for warning in video.warnings))

    def _size_video(self, source: VideoSource, videos: AskedVideos) -> _SizedVideo:
        from neo_edge_runtime.video_reading import read_frames

        limits = self.video_limits.lowered(videos.limits)
        if isinstance(source, Video):
            frames = self._checked(source.frames)
            if len(frames) > limits.max_frames:
                raise InputError(
                    f"a Video has {len(frames)} frames; at most {limits.max_frames} are shown to the model: pass "
                    "fewer, or raise max_frames of the model's VideoLimits"
                )
            return _SizedVideo(
                [self.size_frame(frame.image) for frame in frames],
                FrameTimes([frame.time_s for frame in frames], source.duration_s, source.fps),
                source.warnings,
            )
        sampling = videos.sampling or self.protocol.frame_sampling
        read = read_frames(source, sampling, limits, self._fit_frame)
        return _SizedVideo(
            list(read.frames), FrameTimes(read.times_s, read.duration_s, read.fps), read.warnings
        )

    def _checked(self, frames: Sequence[Frame]) -> list[Frame]:
        frames = list(frames)
        strange = [frame for frame in frames if not isinstance(frame, Frame)]
        if strange:
            raise InputError(
                f"a frame is {type(strange[0]).__name__}; pass Frame(image, time_s), time_s None where it is unknown"
            )
        return frames

    def size_frame(self, image: ImageSource) -> SizedImage:
        """Loads and resizes a frame; raises `ImageError`."""
        return self._load(image, self.frame_limits or self.limits)

    def _fit_frame(self, image: Image.Image) -> SizedImage:
        return size_image(image, self.config.vision, self.frame_limits or self.limits)

    def size(self, images: Sequence[ImageSource]) -> list[SizedImage]:
        """Loads and resizes pictures; raises `ImageError`, or `InputError` for a picture that is not in a list."""
        if is_one_image(images):
            raise InputError(f"images is one {type(images).__name__}; pass a list, such as images=[picture]")
        if not isinstance(images, Iterable):
            raise InputError(f"images is {images!r}; pass a list of pictures, empty for none")
        return [self._load(image, self.limits) for image in images]

    def _load(self, image: ImageSource, limits: PixelLimits) -> SizedImage:
        if self.frames_on_device and is_on_device(image):
            return size_frame(device_frame(image), self.config.vision, limits)
        return size_image(
            load_image(image, upstream_rules=self.upstream_image_rules), self.config.vision, limits
        )

    def first(self, text: str, images: Sequence[SizedImage], system: str | None) -> list[int]:
        """Ids of a conversation's first question; `system` None is the protocol's."""
        return encode_chat(
            self.required_tokenizer(),
            [Message("user", text, len(images))],
            [image.grid.visual_tokens for image in images],
            system=self.protocol.system_prompt if system is None else system,
            style=self.protocol.multi_image_style,
        )

    def followup(self, text: str, images: Sequence[SizedImage]) -> list[int]:
        """Ids that a later question appends, the end of the answer before it included."""
        return encode_followup(
            self.required_tokenizer(),
            Message("user", text, len(images)),
            [image.grid.visual_tokens for image in images],
            answer_closed=False,
            style=self.protocol.multi_image_style,
        )

    def expand(self, ids: Sequence[int] | npt.NDArray[np.integer], images: Sequence[SizedImage]) -> list[int]:
        """Ids as given, a lone image context token made as many as its picture needs.

        Raises:
            PromptError: ids are not one row of whole numbers within the vocabulary. (Whether pictures and runs fit,
                the layout checks.)
        """
        given = _as_array(ids)
        if given.ndim != 1 or not given.size or not np.issubdtype(given.dtype, np.integer):
            raise PromptError(
                f"a prompt of type {type(ids).__name__} is no text and no token ids: pass text (str), or one row of "
                "whole numbers that is not empty"
            )
        vocab_size = self.config.decoder.vocab_size
        beyond = given[(given < 0) | (given >= vocab_size)]
        if beyond.size:
            raise PromptError(
                f"token id {beyond[0]} is outside the vocabulary 0..{vocab_size - 1}: use this model's tokenizer"
            )
        counts = [image.grid.visual_tokens for image in images]
        expanded: list[int] = []
        for is_image, run in groupby(given.tolist(), key=lambda token: token == self.tokens.img_context):
            tokens = list(run)
            if is_image:
                count = counts.pop(0) if counts else len(tokens)
                tokens = tokens * count if len(tokens) == 1 else tokens
            expanded += tokens
        return expanded

    def required_tokenizer(self) -> Tokenizer:
        """The tokenizer; raises `TokenizerError` when the bundle has none."""
        if self.tokenizer is None:
            raise TokenizerError(
                "the bundle has no tokenizer, so a prompt must be token ids: pass a list of ids (one image context "
                "token for each image; `neo-edge run --token-ids`), or export a checkpoint that holds "
                "tokenizer.json"
            )
        return self.tokenizer


def _is_one_video(value: object) -> bool:
    return isinstance(value, Video) or is_one_image(value)


def _as_array(ids: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    try:
        return np.asarray(ids)
    except ValueError:  # rows of different lengths
        return np.zeros((0, 0), np.int64)


def text_only_tokens(config: ModelConfig) -> SpecialTokens:
    """Ids that no prompt holds, for a bundle that knows no image tokens: it takes text only."""
    beyond = config.decoder.vocab_size
    return SpecialTokens(
        img_context=beyond, img_start=beyond + 1, img_end=beyond + 2, eos=config.eos_token_id
    )

"""A question and its pictures -> token ids and sized pictures, by the rules of a protocol."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.errors import InputError, PromptError, TokenizerError
from neo_edge.prompt import Message, encode_chat, encode_followup, place_frames
from neo_edge.tokens import SpecialTokens
from neo_edge_runtime.image_input import is_one_image, load_image
from neo_edge_runtime.preprocessing import size_image
from neo_edge_runtime.video import Frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from neo_edge.config import ModelConfig
    from neo_edge.protocols import InferenceProtocol
    from neo_edge.tokenizer import Tokenizer
    from neo_edge_runtime.image_input import ImageSource
    from neo_edge_runtime.preprocessing import PixelLimits, SizedImage


@dataclass(frozen=True)
class PromptAssembly:
    """How this model's prompts are put together; holds no state of any conversation."""

    config: ModelConfig
    tokens: SpecialTokens
    tokenizer: Tokenizer | None
    protocol: InferenceProtocol
    limits: PixelLimits
    upstream_image_rules: bool  # see `load_image`

    def pictures(
        self,
        text: str,
        images: Sequence[ImageSource],
        frames: Sequence[Frame] | None,
        video_duration_s: float | None,
        fps: float | None,
    ) -> tuple[list[SizedImage], str]:
        """Sized pictures, and the text with a place for each frame.

        Raises:
            ImageError: a picture cannot be read, or is too large.
            PromptError: images and frames at once, frames out of order, or a video's length without frames.
        """
        if frames is None:
            if video_duration_s is not None or fps is not None:
                raise PromptError("video_duration_s and fps describe frames, and there are none: pass frames")
            return self.size(images), text
        if is_one_image(images) or len(images):
            raise PromptError("images and frames cannot be asked about at once: pass the images as frames")
        frames = list(frames)
        strange = [frame for frame in frames if not isinstance(frame, Frame)]
        if strange:
            raise InputError(
                f"a frame is {type(strange[0]).__name__}; pass Frame(image, time_s), time_s None where it is unknown"
            )
        shown = place_frames(
            text,
            [frame.time_s for frame in frames],
            duration_s=video_duration_s,
            fps=fps,
            style=self.protocol.video_style,
        )
        return self.size([frame.image for frame in frames]), shown

    def size(self, images: Sequence[ImageSource]) -> list[SizedImage]:
        """Loads and resizes pictures; raises `ImageError`, or `InputError` for a picture that is not in a list."""
        if is_one_image(images):
            raise InputError(f"images is one {type(images).__name__}; pass a list, such as images=[picture]")
        if not isinstance(images, Iterable):
            raise InputError(f"images is {images!r}; pass a list of pictures, empty for none")
        loaded = (load_image(image, upstream_rules=self.upstream_image_rules) for image in images)
        return [size_image(image, self.config.vision, self.limits) for image in loaded]

    def first(self, text: str, images: Sequence[SizedImage], system: str | None) -> list[int]:
        """Ids of a conversation's first question; `system` None is the protocol's."""
        return encode_chat(
            self._required_tokenizer(),
            [Message("user", text, len(images))],
            [image.grid.visual_tokens for image in images],
            system=self.protocol.system_prompt if system is None else system,
            style=self.protocol.multi_image_style,
        )

    def followup(self, text: str, images: Sequence[SizedImage]) -> list[int]:
        """Ids that a later question appends, the end of the answer before it included."""
        return encode_followup(
            self._required_tokenizer(),
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

    def _required_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenizerError(
                "the bundle has no tokenizer, so a prompt must be token ids: pass a list of ids (one image context "
                "token for each image; `neo-edge run --token-ids`), or export a checkpoint that holds "
                "tokenizer.json"
            )
        return self.tokenizer


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

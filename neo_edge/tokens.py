"""The token ids that the host itself must know."""

from __future__ import annotations

from dataclasses import dataclass

from neo_edge.errors import TokenizerError

IMG_CONTEXT = "<IMG_CONTEXT>"
IMG_START = "<img>"
IMG_END = "</img>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that frame images and end answers."""

    img_context: int  # stands in the prompt once per visual token
    img_start: int  # before an image's context tokens
    img_end: int  # after them
    eos: tuple[int, ...]  # each of these ends an answer; empty: nothing does but the token limit

    def __post_init__(self) -> None:
        ids = (self.img_context, self.img_start, self.img_end, *self.eos)
        if min(ids) < 0 or len(set(ids)) != len(ids):
            raise TokenizerError(
                f"special token ids {ids} (image context, start, end, then ends of text) must be distinct and "
                "not negative: fetch the checkpoint's own tokenizer files and config.json"
            )

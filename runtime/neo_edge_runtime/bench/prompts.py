"""Random prompts to time: text, or one image with a little text around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.errors import InputError
from neo_edge.positions import layout

if TYPE_CHECKING:
    import numpy.typing as npt

    from neo_edge.config import ModelConfig
    from neo_edge.patch_grid import PatchGrid
    from neo_edge.tokens import SpecialTokens
    from neo_edge_runtime.session import Session

_BEFORE = 4  # text tokens before an image's own


@dataclass(frozen=True)
class Prompt:
    """Tokens to prefill; those of an image carry visual tokens."""

    input_ids: npt.NDArray[np.int64]  # [S]
    grids: tuple[PatchGrid, ...]
    visual_tokens: npt.NDArray[np.generic] | None  # [tokens of the images, hidden]
    tokens: SpecialTokens

    def append_to(self, session: Session, visual_tokens: npt.NDArray[np.generic] | None = None) -> None:
        """Prefills, with other visual tokens where they are given; the logits are of the last token."""
        piece = layout(
            self.input_ids,
            self.grids,
            self.tokens,
            start_length=session.length,
            start_t=session.next_t,
        )
        visual = self.visual_tokens if visual_tokens is None else visual_tokens
        session.prefill(self.input_ids, piece, visual)


def text_prompt(config: ModelConfig, tokens: SpecialTokens, size: int) -> Prompt:
    """`size` random tokens, none of them special; the same ones each time."""
    return Prompt(_random_ids(config, tokens, size, np.random.default_rng(size)), (), None, tokens)


def image_prompt(config: ModelConfig, tokens: SpecialTokens, grid: PatchGrid, size: int) -> Prompt:
    """`size` tokens, most of them one image's, with random visual tokens in float32.

    Raises:
        InputError: the image and its two marks need more tokens than that.
    """
    rng = np.random.default_rng(size)
    ids = _random_ids(config, tokens, size, rng)
    start, end = _BEFORE + 1, _BEFORE + 1 + grid.visual_tokens
    if end >= size:
        raise InputError(f"an image of {grid.visual_tokens} tokens does not fit a prompt of {size}")
    ids[start - 1], ids[start:end], ids[end] = tokens.img_start, tokens.img_context, tokens.img_end
    visual = rng.standard_normal((grid.visual_tokens, config.decoder.hidden_size), np.float32)
    return Prompt(ids, (grid,), visual, tokens)


def _random_ids(
    config: ModelConfig, tokens: SpecialTokens, size: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    special = {tokens.img_context, tokens.img_start, tokens.img_end, *tokens.eos}
    ordinary = np.setdiff1d(np.arange(config.decoder.vocab_size), sorted(special))
    return rng.choice(ordinary, size)

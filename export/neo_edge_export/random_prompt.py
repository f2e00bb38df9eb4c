"""Random prompts with pictures, for comparing graphs with the reference; nothing in them makes sense."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neo_edge.config import ModelConfig
from neo_edge.patch_grid import PatchGrid, pack_order, packed_patch_xy
from neo_edge.positions import SequenceLayout, layout
from neo_edge.tokens import SpecialTokens

_DECODED = 4  # tokens at the end of a prompt that are fed one by one


@dataclass(frozen=True)
class RandomPrompt:
    """Text, a picture, text, a picture, text; the last tokens stand for decoded ones."""

    input_ids: npt.NDArray[np.int64]  # [S]
    grids: list[PatchGrid]
    pixels: npt.NDArray[np.float32]  # [P, 768], row-major patches of all pictures
    layout: SequenceLayout  # of all S tokens

    @property
    def prompt_length(self) -> int:
        """Tokens before the decoded ones."""
        return len(self.input_ids) - _DECODED

    @property
    def chunk_ends(self) -> list[int]:
        """Where a chunked prefill is cut: after the first token and right after each picture."""
        legal = self.layout.boundaries[self.layout.boundaries < self.prompt_length]
        after_picture = legal[self.layout.is_visual[legal - 1]]
        return sorted({int(legal[0]), *after_picture.tolist(), self.prompt_length})

    @property
    def packed_patches(self) -> npt.NDArray[np.float32]:
        """[P, 768] in the order that the vision graph takes."""
        starts = np.cumsum([0, *(grid.patches for grid in self.grids)])
        order = [start + pack_order(grid) for start, grid in zip(starts, self.grids, strict=False)]
        packed: npt.NDArray[np.float32] = self.pixels[np.concatenate(order)]
        return packed

    @property
    def patch_xy(self) -> npt.NDArray[np.int32]:
        """[P, 2], columns and rows of the packed patches."""
        return packed_patch_xy(self.grids)


def random_prompt(config: ModelConfig, tokens: SpecialTokens | None, seed: int) -> RandomPrompt:
    """A prompt of 30 to 60 tokens.

    Args:
        config: the model.
        tokens: its special ids; when None the first three ids stand in, which changes nothing here.
        seed: other seeds give other pictures and texts.
    """
    rng = np.random.default_rng(seed)
    tokens = tokens or SpecialTokens(img_context=0, img_start=1, img_end=2, eos=())
    special = {tokens.img_context, tokens.img_start, tokens.img_end, *tokens.eos}
    ordinary = np.array([index for index in range(config.decoder.vocab_size) if index not in special])
    grids = [PatchGrid(*(2 * rng.integers(1, 5, size=2)).tolist()) for _ in range(2)]
    ids: list[int] = []
    for grid in grids:
        ids += rng.choice(ordinary, rng.integers(2, 6)).tolist()
        ids += [tokens.img_start, *[tokens.img_context] * grid.visual_tokens, tokens.img_end]
    ids += rng.choice(ordinary, _DECODED + rng.integers(2, 6)).tolist()
    patches = sum(grid.patches for grid in grids)
    return RandomPrompt(
        input_ids=np.array(ids, np.int64),
        grids=grids,
        pixels=rng.normal(size=(patches, config.vision.patch_dim)).astype(np.float32),
        layout=layout(ids, grids, tokens),
    )

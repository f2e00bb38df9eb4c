"""The model that speed is measured on: 2B's widths, four layers, random weights; made, exported and loaded."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from command_line import neo_edge
from random_checkpoint import WIDTHS_2B, write_checkpoint

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.checkpoint import open_checkpoint
from neo_edge.patch_grid import PatchGrid
from neo_edge.positions import layout
from neo_edge.tokens import SpecialTokens
from neo_edge_export.reference import LanguageModel
from neo_edge_export.reference_loading import load_reference
from neo_edge_runtime.session import Session

IMAGE_GRIDS = {320: PatchGrid(32, 36), 1024: PatchGrid(64, 62)}  # one image that leaves a few tokens for text


@dataclass(frozen=True)
class Prompt:
    """Tokens to prefill; those of an image carry random visual tokens."""

    input_ids: npt.NDArray[np.int64]  # [S]
    grids: tuple[PatchGrid, ...]
    visual_tokens: npt.NDArray[np.float32] | None  # [tokens of the images, hidden]
    tokens: SpecialTokens

    def append_to(self, session: Session) -> None:
        """Prefills; the logits are of the last token."""
        piece = layout(
            self.input_ids,
            self.grids,
            self.tokens,
            start_length=session.length,
            start_t=session.next_t,
        )
        session.prefill(self.input_ids, piece, self.visual_tokens)


@dataclass(frozen=True)
class SpeedBundle:
    """The exported model and the reference with the same weights."""

    bundle: Bundle
    reference: LanguageModel

    @property
    def decoder(self) -> Path:
        """The float32 decoder graph."""
        return self.bundle.path(self.bundle.variant("fp32").decoder)

    @property
    def decoder_weight_bytes(self) -> int:
        """What a decode step reads of the graph's weights: all of them, head included, embedding not."""
        return self.decoder.with_name("decoder.onnx.data").stat().st_size

    def prompt(self, size: int, *, with_image: bool = False) -> Prompt:
        """Random text of `size` tokens, or one image with a little text around it."""
        rng = np.random.default_rng(size)
        tokens = self.bundle.manifest.special_tokens
        assert tokens is not None
        decoder = self.bundle.manifest.model.decoder
        ids = rng.integers(max(tokens.img_end, tokens.img_start) + 1, decoder.vocab_size, size)
        if not with_image:
            return Prompt(ids, (), None, tokens)
        grid = IMAGE_GRIDS[size]
        start, end = 5, 5 + grid.visual_tokens
        ids[start - 1], ids[start:end], ids[end] = tokens.img_start, tokens.img_context, tokens.img_end
        visual = rng.standard_normal((grid.visual_tokens, decoder.hidden_size), np.float32)
        return Prompt(ids, (grid,), visual, tokens)


def make_speed_bundle(folder: Path) -> SpeedBundle:
    """Writes a checkpoint, exports it in a process of its own, prints what that took, and loads both."""
    checkpoint, bundle = folder / "checkpoint", folder / "bundle"
    write_checkpoint(checkpoint, WIDTHS_2B)
    started = time.perf_counter()
    neo_edge("export", checkpoint, "-o", bundle)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"\nexport, verified: {seconds:.0f} s, peak resident memory {peak:.2f} GiB (mapped files included)")
    return SpeedBundle(open_bundle(bundle), load_reference(open_checkpoint(checkpoint)).language_model)

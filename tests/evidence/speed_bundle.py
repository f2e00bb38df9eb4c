"""The model that speed is measured on: 2B's widths, four layers, random weights; made, exported and loaded."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from pathlib import Path

from command_line import neo_edge

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.checkpoint import open_checkpoint
from neo_edge.patch_grid import PatchGrid
from neo_edge_export.reference import LanguageModel
from neo_edge_export.reference_loading import load_reference
from neo_edge_runtime.bench.measuring import decoder_weight_bytes
from neo_edge_runtime.bench.prompts import Prompt, image_prompt, text_prompt

LAYERS = 4
IMAGE_GRIDS = {320: PatchGrid(32, 36), 1024: PatchGrid(64, 62)}  # one image that leaves a few tokens for text


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
        return decoder_weight_bytes(self.bundle, "fp32")

    def prompt(self, size: int, *, with_image: bool = False) -> Prompt:
        """Random text of `size` tokens, or one image with a little text around it."""
        manifest = self.bundle.manifest
        assert manifest.special_tokens is not None
        if with_image:
            return image_prompt(manifest.model, manifest.special_tokens, IMAGE_GRIDS[size], size)
        return text_prompt(manifest.model, manifest.special_tokens, size)


def make_speed_bundle(folder: Path, preset: str = "2b") -> SpeedBundle:
    """Writes a checkpoint, exports it in a process of its own, prints what that took, and loads both."""
    checkpoint, bundle = folder / "checkpoint", folder / "bundle"
    neo_edge("make-checkpoint", "--preset", preset, "--layers", LAYERS, "-o", checkpoint)
    started = time.perf_counter()
    neo_edge("export", checkpoint, "-o", bundle)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"\nexport, verified: {seconds:.0f} s, peak resident memory {peak:.2f} GiB (mapped files included)")
    return SpeedBundle(open_bundle(bundle), load_reference(open_checkpoint(checkpoint)).language_model)

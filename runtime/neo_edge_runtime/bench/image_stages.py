"""From a JPEG's bytes to the first logits, stage by stage."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from neo_edge.patch_grid import packed_patch_xy
from neo_edge.protocols import get_protocol
from neo_edge_runtime.bench.prompts import image_prompt
from neo_edge_runtime.bench.timing import Contender
from neo_edge_runtime.image_input import load_image
from neo_edge_runtime.preprocessing import PixelLimits, pack_pixels, size_image
from neo_edge_runtime.session import Session

if TYPE_CHECKING:
    from neo_edge.tokens import SpecialTokens
    from neo_edge_runtime.backend import Backend

STAGES = ("decode", "resize", "patches", "vision", "prefill")
QUESTION_TOKENS = 22  # text around the image, its two marks included
_JPEG_QUALITY = 90


class ImageStages:
    """One picture's way through the `edge` protocol; each stage takes what the one before it left."""

    def __init__(self, backend: Backend, tokens: SpecialTokens, width: int, height: int) -> None:
        """Draws and encodes the picture; its stages run once."""
        self._backend, self._vision = backend, backend.traits.config.vision
        self._limits = PixelLimits(*get_protocol("edge").pixel_limits(self._vision))
        self._jpeg = random_jpeg(width, height)
        self._session = Session(backend)
        self._decode()
        self._resize()
        self._pack()
        self._encode()
        self.visual_tokens = self._sized.grid.visual_tokens
        self.prompt_tokens = self.visual_tokens + QUESTION_TOKENS
        self._prompt = image_prompt(backend.traits.config, tokens, self._sized.grid, self.prompt_tokens)
        self._prefill()

    def contenders(self) -> dict[str, Contender]:
        """By stage, in order."""
        return {
            "decode": Contender(self._decode),
            "resize": Contender(self._resize),
            "patches": Contender(self._pack),
            "vision": Contender(self._encode),
            "prefill": Contender(self._prefill, prepare=self._renew),
        }

    def close(self) -> None:
        """Gives the cache's memory back."""
        self._session.close()

    def _decode(self) -> None:
        self._image = load_image(self._jpeg)

    def _resize(self) -> None:
        self._sized = size_image(self._image, self._vision, self._limits)

    def _pack(self) -> None:
        self._patches = pack_pixels(self._sized.pixels, self._vision)
        self._xy = packed_patch_xy([self._sized.grid])

    def _encode(self) -> None:
        self._visual = self._backend.encode_patches(self._patches, self._xy)

    def _prefill(self) -> None:
        self._prompt.append_to(self._session, self._visual)

    def _renew(self) -> None:
        self._session.close()
        self._session = Session(self._backend)


def random_jpeg(width: int, height: int, seed: int = 0) -> bytes:
    """A picture with soft shapes and some noise, so that it is neither trivial nor impossible to compress."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    soft = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = np.clip(soft + rng.integers(-8, 9, soft.shape, np.int16), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()

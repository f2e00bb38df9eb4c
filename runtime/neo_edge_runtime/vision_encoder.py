"""Sized pictures -> visual tokens, a few pictures to a call so that patches in float32 never pile up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neo_edge.patch_grid import packed_patch_xy
from neo_edge_runtime.backend import FrameBackend
from neo_edge_runtime.memory import MemoryNeed, vision_need
from neo_edge_runtime.preprocessing import pack_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from neo_edge_runtime.backend import Backend
    from neo_edge_runtime.preprocessing import SizedImage

_CALL_PATCHES = 4096  # 12 MiB of pixels in float32: large enough for full speed, small beside the weights


def encode_images(backend: Backend, images: Sequence[SizedImage]) -> npt.NDArray[np.generic]:
    """[visual tokens of all pictures, hidden], in the backend's embedding type."""
    traits = backend.traits
    tokens = np.empty(
        (sum(image.grid.visual_tokens for image in images), traits.config.decoder.hidden_size),
        traits.embedding_dtype,
    )
    done = 0
    for group in _groups(images):
        if group[0].frame is not None:
            assert isinstance(backend, FrameBackend)  # else no prompt holds such a frame
            encoded = backend.encode_frame(group[0].frame, group[0].grid)
            tokens[done : done + len(encoded)] = encoded
            done += len(encoded)
            continue
        grids = [image.grid for image in group]
        patches = np.empty((sum(grid.patches for grid in grids), traits.config.vision.patch_dim), np.float32)
        start = 0
        for image in group:
            end = start + image.grid.patches
            packed = patches[start:end]
            pack_pixels(image.pixels, traits.config.vision, out=packed)
            start = end
        encoded = backend.encode_patches(patches, packed_patch_xy(grids))
        tokens[done : done + len(encoded)] = encoded
        done += len(encoded)
    return tokens


def encoding_need(backend: Backend, images: Sequence[SizedImage]) -> MemoryNeed:
    """What `encode_images` will take beside the pictures themselves."""
    largest = max((sum(image.grid.patches for image in group) for group in _groups(images)), default=0)
    return vision_need(
        backend.traits, patches=largest, visual_tokens=sum(image.grid.visual_tokens for image in images)
    )


def _groups(images: Sequence[SizedImage]) -> Iterator[list[SizedImage]]:
    group: list[SizedImage] = []
    patches = 0
    for image in images:
        alone = image.frame is not None or (bool(group) and group[-1].frame is not None)
        if group and (alone or patches + image.grid.patches > _CALL_PATCHES):
            yield group
            group, patches = [], 0
        group.append(image)
        patches += image.grid.patches
    if group:
        yield group

"""The shapes that an engine is built for: least, usual and largest of each named dimension, per profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from neo_edge.engines import EngineLimits
from neo_edge_export.dimensions import BATCH, CAPACITY, LOGITS_ROWS, PATCHES, SEQUENCE

# With S and N fixed at 1 and one sequence, TensorRT-RTX 1.7.1 lays all weights out again for the decode profile: the
# plan of two 2b layers has 2.04 times their bytes, and 1.04 times with S and N from 1 to 2.
_DECODE_ROWS = 2
_MERGED_PATCHES = 4  # of one visual token: the least that a picture has


@dataclass(frozen=True)
class ShapeRange:
    """Sizes by the dimension's name; tactics are chosen for the usual ones."""

    least: Mapping[str, int]
    usual: Mapping[str, int]
    most: Mapping[str, int]


def vision_ranges(limits: EngineLimits) -> list[ShapeRange]:
    """One profile: any number of whole 2x2 groups up to a picture that fills a chunk."""
    most = limits.max_patches
    return [
        ShapeRange({PATCHES: _MERGED_PATCHES}, {PATCHES: max(_MERGED_PATCHES, most // 2)}, {PATCHES: most})
    ]


def decoder_ranges(limits: EngineLimits) -> list[ShapeRange]:
    """Prefill, then decode: S and N of 1, or 2; in both the cache may have any capacity."""
    most = {
        BATCH: limits.max_batch,
        SEQUENCE: limits.max_chunk,
        CAPACITY: limits.max_context,
        LOGITS_ROWS: limits.max_logits_rows,
    }
    least = dict.fromkeys(most, 1)
    halved = {SEQUENCE: limits.max_chunk, CAPACITY: max(1, limits.max_context // 2), LOGITS_ROWS: 1}
    one = {SEQUENCE: 1, LOGITS_ROWS: 1}
    few = {name: min(_DECODE_ROWS, most[name]) for name in one}
    return [
        ShapeRange(least, {**most, **halved}, most),
        ShapeRange(least, {**most, **halved, **one}, {**most, **few}),
    ]

"""The golden cases of the tiny checkpoint, and what a session needs to replay one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from neo_edge.patch_grid import PatchGrid, pack_order, packed_patch_xy
from neo_edge.positions import SequenceLayout, layout
from neo_edge.tokens import SpecialTokens
from neo_edge_runtime.backend import Backend
from neo_edge_runtime.parity import TOLERANCE
from neo_edge_runtime.session import Session

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny"
CASES = ("text", "multi_image", "video")
TOKENS = SpecialTokens(img_context=317, img_start=318, img_end=319, eos=())  # no end: the model is random
Golden = dict[str, npt.NDArray[np.generic]]


def read_golden(case: str) -> Golden:
    with np.load(GOLDEN / f"{case}.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def grids_of(golden: Golden) -> list[PatchGrid]:
    return [PatchGrid(int(rows), int(cols)) for rows, cols in golden["grid_hw"]]


def visual_tokens_of(backend: Backend, golden: Golden) -> np.ndarray:
    grids, start, order = grids_of(golden), 0, []
    for grid in grids:
        order.append(start + pack_order(grid))
        start += grid.patches
    patches = golden["pixel_values"][np.concatenate(order)] if order else golden["pixel_values"]
    return backend.encode_patches(patches, packed_patch_xy(grids))


def prefill(session: Session, backend: Backend, golden: Golden) -> np.ndarray:
    laid_out = layout(golden["input_ids"], grids_of(golden), TOKENS)
    return session.prefill(golden["input_ids"], laid_out, visual_tokens_of(backend, golden), all_logits=True)


def decode_worst(session: Session, golden: Golden) -> float:
    """Largest difference of the four teacher-forced decode steps."""
    logits = np.stack([session.decode(int(token)) for token in golden["decode_tokens"][:4]])
    return worst(logits, golden["decode_logits"][1:])


def text_layout(session: Session, ids: list[int]) -> SequenceLayout:
    return layout(ids, [], TOKENS, start_length=session.length, start_t=session.next_t)


def append_text(session: Session, ids: list[int]) -> np.ndarray:
    return session.prefill(np.array(ids), text_layout(session, ids))


def tolerance_of(backend: Backend) -> float:
    """Of a variant whose caches are of its own type."""
    return TOLERANCE["fp32" if backend.traits.cache_element_bytes == 4 else "fp16"]


def worst(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max()) if expected.size else 0.0

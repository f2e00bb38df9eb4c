"""Replays golden files through a backend, teacher-forced, and measures the largest differences."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.errors import InputError
from neo_edge.patch_grid import packed_patch_xy
from neo_edge.positions import layout
from neo_edge_runtime.preprocessing import pack_pixels
from neo_edge_runtime.session import Session

if TYPE_CHECKING:
    import numpy.typing as npt

    from neo_edge.positions import SequenceLayout
    from neo_edge.tokens import SpecialTokens
    from neo_edge_runtime.backend import Backend
    from neo_edge_runtime.golden import GoldenCase

TOLERANCE = {"fp32": 1e-4, "fp16": 0.03}  # of a logit or visual token, absolute
PIXEL_TOLERANCE = 1e-6
CHUNK_TOKENS = 16  # of a chunked replay: several chunks even of a short prompt


@dataclass(frozen=True)
class CaseParity:
    """Largest absolute differences of one golden case."""

    positions: float  # t, h, w of the prompt and of decoded tokens; must be 0
    pixels: float  # preprocessing against the stored pixel values; 0 when the pictures are not stored
    visual_tokens: float  # the vision graph's output
    prefill_logits: float  # every position
    decode_logits: float  # of tokens fed one by one
    after_rewind: float  # the prompt's second half and the decoding, once more
    after_fork: (
        float  # decoding in a fork while the original decodes something else, and then in the original
    )

    def within(self, tolerance: float) -> bool:
        """Whether nothing differs by more; a NaN does."""
        return self.positions == 0 and self.pixels <= PIXEL_TOLERANCE and self.worst <= tolerance

    @property
    def worst(self) -> float:
        """The largest difference of visual tokens and logits; infinite when one is no number."""
        exact = ("positions", "pixels")
        return max(float(getattr(self, field.name)) for field in fields(self) if field.name not in exact)


def replay(
    backend: Backend, tokens: SpecialTokens, golden: GoldenCase, *, chunked: bool = False
) -> CaseParity:
    """Runs one golden case.

    Args:
        backend: a loaded variant.
        tokens: the bundle's special ids.
        golden: what upstream's code computed.
        chunked: prefill in chunks of `CHUNK_TOKENS` and not at once.

    Raises:
        InputError: the bundle's shapes are not the golden file's; it is of another checkpoint.
        NeoEdgeError: what `Session` and the backend raise.
    """
    piece = layout(golden.input_ids, golden.grids, tokens)
    size = len(golden.input_ids)
    visual = backend.encode_patches(golden.packed_patches, packed_patch_xy(golden.grids))
    with Session(backend, chunk_tokens=CHUNK_TOKENS if chunked else size) as session:
        prefill = session.prefill(golden.input_ids, piece, visual, all_logits=True)
        after_prompt = session.checkpoint
        decode, decode_t = _decode(session, golden)
        session.rewind(after_prompt)
        after_fork = _forked(session, golden)
        after_rewind = _rewound(session, golden, tokens, visual)
    return CaseParity(
        positions=max(
            _worst(piece.position_ids, golden.positions), _worst(decode_t, golden.decode_positions)
        ),
        pixels=_pixels(backend, golden),
        visual_tokens=_worst(visual, golden.visual_tokens),
        prefill_logits=max(
            _worst(prefill, golden.prefill_logits), _worst(prefill[-1:], golden.decode_logits[:1])
        ),
        decode_logits=_worst(decode, golden.decode_logits[1:]),
        after_rewind=after_rewind,
        after_fork=after_fork,
    )


def _decode(session: Session, golden: GoldenCase) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Logits [n - 1, V] and positions [n - 1, 3] of feeding all decode tokens but the last."""
    logits, t = [], []
    for token in golden.decode_tokens[:-1].tolist():
        t.append(session.next_t)
        logits.append(session.decode(token))
    positions = np.zeros((len(t), 3), np.int32)
    positions[:, 0] = t
    return np.array(logits, np.float32).reshape(len(t), golden.decode_logits.shape[1]), positions


def _forked(session: Session, golden: GoldenCase) -> float:
    """Forks at the prompt's end; the original decodes other tokens first."""
    after_prompt = session.checkpoint
    with session.fork() as fork:
        for token in golden.decode_tokens[:0:-1].tolist():
            session.decode(token)
        forked, _ = _decode(fork, golden)
    session.rewind(after_prompt)
    original, _ = _decode(session, golden)
    return max(_worst(logits, golden.decode_logits[1:]) for logits in (forked, original))


def _rewound(
    session: Session, golden: GoldenCase, tokens: SpecialTokens, visual: npt.NDArray[np.generic]
) -> float:
    """Rewinds to the last legal point in the prompt's first half and goes on from there."""
    half = len(golden.input_ids) // 2
    start = max(
        (point for point in session.checkpoints if point.length <= half), key=lambda point: point.length
    )
    session.rewind(start)
    rest, seen = golden.input_ids[start.length :], golden.input_ids[: start.length] == tokens.img_context
    done_images = _images_within(golden, int(seen.sum()))
    piece: SequenceLayout = layout(
        rest, golden.grids[done_images:], tokens, start_length=start.length, start_t=start.next_t
    )
    prefill = session.prefill(rest, piece, visual[int(seen.sum()) :], all_logits=True)
    decode, _ = _decode(session, golden)
    return max(
        _worst(prefill, golden.prefill_logits[start.length :]), _worst(decode, golden.decode_logits[1:])
    )


def _images_within(golden: GoldenCase, visual_tokens: int) -> int:
    ends = np.cumsum([grid.visual_tokens for grid in golden.grids])
    return int(np.searchsorted(ends, visual_tokens, side="right"))


def _pixels(backend: Backend, golden: GoldenCase) -> float:
    if not golden.images:
        return 0.0
    packed = [pack_pixels(image, backend.traits.config.vision) for image in golden.images]
    return _worst(np.concatenate(packed), golden.packed_patches)


def _worst(found: npt.NDArray[np.generic], expected: npt.NDArray[np.generic]) -> float:
    if found.shape != expected.shape:
        raise InputError(f"the bundle gives shape {found.shape} where the golden file has {expected.shape}")
    if not expected.size:
        return 0.0
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max()
    return float(difference) if np.isfinite(difference) else float("inf")

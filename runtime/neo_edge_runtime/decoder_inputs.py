"""The decoder graph's input arrays, from token ids, visual tokens and a layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neo_edge.errors import InputError
from neo_edge.shown import shown
from neo_edge_runtime.backend import DecoderInputs

if TYPE_CHECKING:
    import numpy.typing as npt

    from neo_edge.positions import SequenceLayout
    from neo_edge_runtime.backend import Backend
    from neo_edge_runtime.prefill_plan import Chunk


class EmbeddedTokens:
    """Rows of the embedding table with visual tokens in their places, a chunk at a time."""

    def __init__(
        self,
        backend: Backend,
        ids: npt.NDArray[np.integer],
        is_visual: npt.NDArray[np.bool_],
        visual_tokens: npt.NDArray[np.generic] | None,
    ) -> None:
        """Raises `InputError` when `visual_tokens` is not [number of visual places, hidden]."""
        self._table, self._ids, self._is_visual = backend.token_embedding, ids, is_visual
        wanted = (int(is_visual.sum()), self._table.shape[1])
        self._visual = np.zeros((0, wanted[1]), self._table.dtype) if visual_tokens is None else visual_tokens
        if self._visual.shape != wanted:
            raise InputError(f"visual_tokens has shape {self._visual.shape}; this prompt needs {wanted}")

    def rows(self, start: int, end: int) -> npt.NDArray[np.generic]:
        """[end - start, hidden], a fresh array."""
        marked = self._is_visual[start:end]
        embeds: npt.NDArray[np.generic] = self._table[self._ids[start:end]]
        if marked.any():
            first = int(self._is_visual[:start].sum())
            embeds[marked] = self._visual[first : first + int(marked.sum())]
        return embeds


def checked_ids(
    input_ids: npt.NDArray[np.integer], layout: SequenceLayout, backend: Backend
) -> npt.NDArray[np.integer]:
    """The ids as an array; raises `InputError` when one is outside the vocabulary or the layout is another's."""
    ids = np.asarray(input_ids)
    if ids.shape != layout.visible_length.shape:
        raise InputError(
            f"input_ids has shape {ids.shape} and its layout is of {len(layout.visible_length)} tokens"
        )
    beyond = ids[(ids < 0) | (ids >= len(backend.token_embedding))]
    if beyond.size:
        raise unknown_token(int(beyond[0]), backend)
    return ids


def unknown_token(token: int, backend: Backend) -> InputError:
    """The error for an id that the embedding has no row for."""
    return InputError(
        f"token id {shown(token)} is outside the vocabulary 0..{len(backend.token_embedding) - 1}"
    )


def chunk_inputs(
    layout: SequenceLayout, chunk: Chunk, embeds: EmbeddedTokens, start_length: int, *, all_logits: bool
) -> DecoderInputs:
    """Inputs of one prefill run; `start_length` tokens stand in the cache before the whole piece."""
    span, size = slice(chunk.start, chunk.end), chunk.end - chunk.start
    wanted = np.arange(size) if all_logits else np.array([size - 1])
    return DecoderInputs(
        inputs_embeds=embeds.rows(chunk.start, chunk.end)[None],
        position_ids=np.ascontiguousarray(layout.position_ids[None, :, span], np.int32),
        visible_length=np.ascontiguousarray(layout.visible_length[None, span], np.int32),
        write_index=np.array([start_length + chunk.start], np.int32),
        logits_index=wanted[None].astype(np.int32),
    )


def decode_inputs(backend: Backend, batch: int = 1) -> DecoderInputs:
    """Inputs of a decode step of `batch` sequences, to be filled in place step after step."""
    traits = backend.traits
    return DecoderInputs(
        inputs_embeds=np.zeros((batch, 1, traits.config.decoder.hidden_size), traits.embedding_dtype),
        position_ids=np.zeros((batch, 3, 1), np.int32),
        visible_length=np.ones((batch, 1), np.int32),
        write_index=np.zeros(batch, np.int32),
        logits_index=np.zeros((batch, 1), np.int32),
    )

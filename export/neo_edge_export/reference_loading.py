"""The reference with a checkpoint's weights, whole or some of its layers, in float32."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from neo_edge.checkpoint import EMBEDDING, LM_HEAD, Checkpoint
from neo_edge_export.layer_window import window_config
from neo_edge_export.reference import NeoModel

_LAYER = re.compile(r"(language_model\.model\.layers\.)(\d+)(\..+)")


_BLOCK_BYTES = 64 << 20  # of a tensor that is widened at a time


class StoredRows(nn.Module):
    """A token embedding whose rows are read from the checkpoint as they are looked up: 1.2 GiB less for a 2B model."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self._checkpoint = checkpoint

    def forward(self, input_ids: Tensor) -> Tensor:
        """[..., hidden] float32 rows of [...] int64 ids."""
        ids, places = torch.unique(input_ids, return_inverse=True)
        rows = [self._checkpoint.read_rows(EMBEDDING, row, row + 1) for row in ids.tolist()]
        return torch.from_numpy(np.concatenate(rows).astype(np.float32))[places]


def load_reference(
    checkpoint: Checkpoint, layers: range | None = None, *, stored_embedding: bool = False
) -> NeoModel:
    """The model in float32, ready to run.

    Args:
        checkpoint: where the weights are.
        layers: which decoder layers it shall have, counted from 0 there; all of them when None.
        stored_embedding: leave the token embedding in its file, unless the output layer shares it.
    """
    config = checkpoint.config
    tied = config.decoder.tie_word_embeddings
    layers = range(config.decoder.num_layers) if layers is None else layers
    with torch.device("meta"):
        model = NeoModel(window_config(config, layers))
    left_out = set()
    if stored_embedding and not tied:
        left_out = {EMBEDDING}
        model.language_model.model.add_module("embed_tokens", StoredRows(checkpoint))
    state = {}
    for name in checkpoint.iter_names():
        match = _LAYER.fullmatch(name)
        if name in left_out or (match and int(match[2]) not in layers):
            continue
        kept = f"{match[1]}{int(match[2]) - layers.start}{match[3]}" if match else name
        state[kept] = torch.from_numpy(_float32(checkpoint, name))
    if tied:
        state[LM_HEAD] = state[EMBEDDING]
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def _float32(checkpoint: Checkpoint, name: str) -> npt.NDArray[np.float32]:
    """Block by block, so that a large tensor is not there twice."""
    shape = checkpoint.tensors[name].shape
    whole = np.empty(shape, np.float32)
    rows = max(1, _BLOCK_BYTES * shape[0] // whole.nbytes)
    for start in range(0, shape[0], rows):
        stop = min(start + rows, shape[0])
        whole[start:stop] = checkpoint.read_rows(name, start, stop)
    return whole

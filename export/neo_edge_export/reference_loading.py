"""The reference with a checkpoint's weights, whole or some of its layers, in float32."""

from __future__ import annotations

import re

import numpy as np
import torch

from neo_edge.checkpoint import EMBEDDING, LM_HEAD, Checkpoint
from neo_edge_export.layer_window import window_config
from neo_edge_export.reference import NeoModel

_LAYER = re.compile(r"(language_model\.model\.layers\.)(\d+)(\..+)")


def load_reference(checkpoint: Checkpoint, layers: range | None = None) -> NeoModel:
    """The model in float32, ready to run.

    Args:
        checkpoint: where the weights are.
        layers: which decoder layers it shall have, counted from 0 there; all of them when None.
    """
    config = checkpoint.config
    layers = range(config.decoder.num_layers) if layers is None else layers
    with torch.device("meta"):
        model = NeoModel(window_config(config, layers))
    state = {}
    for name in checkpoint.iter_names():
        match = _LAYER.fullmatch(name)
        if match and int(match[2]) not in layers:
            continue
        kept = f"{match[1]}{int(match[2]) - layers.start}{match[3]}" if match else name
        state[kept] = torch.from_numpy(np.array(checkpoint.read(name), np.float32))
    if config.decoder.tie_word_embeddings:
        state[LM_HEAD] = state[EMBEDDING]
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)

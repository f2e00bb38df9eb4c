"""Gives a decoder outliers in hidden channels as large language models have them, by changing what it computes.

Neither injection is the inverse of a smoothing: the float model's activations really reach that far, and what was
done to the weights differs from number to number, so no scale for each channel leads back to the model as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from quantized_decoder import DecoderGraph, Prompt, Weights

_SHARE = 0.03  # of the hidden channels; LLM.int8 (2022) found outliers in 0.1 to 6 %
_GAIN = 40.0
_MASSIVE = 8.0  # a massive channel's magnitude over the root mean square of the residual stream, 192 wide
_MASSIVE_GAIN = 5.0


def amplified(graph: DecoderGraph, seed: int) -> Weights:
    """Weights with gains around 40 in some channels of every norm.

    The weights that read those channels shrink by the root of the gain alone, each by a random factor more: the
    channels matter several times as much as before.
    """
    rng = np.random.default_rng(seed)
    channels = _channels(graph, rng)
    weights = dict(graph.weights)
    for place in graph.places:
        if "norm" in place.into:
            gain = _GAIN * np.exp(0.5 * rng.normal(size=len(channels)))
            weights[place.into] = _times(weights[place.into], channels, gain)
            for name in place.weights:
                spread = np.exp(0.7 * rng.normal(size=(len(channels), weights[name].shape[1])))
                weights[name] = _times(weights[name], channels, spread / np.sqrt(gain)[:, None])
    return weights


def massive(graph: DecoderGraph, prompts: Sequence[Prompt], seed: int) -> tuple[Weights, list[Prompt]]:
    """Weights and prompts with two channels of the residual stream far from zero in every token.

    They come in with the embeddings and stay to the last layer, nearly constant, as biases do; norms raise them
    further. The weights that read them are small and random. Larger ones in so narrow a model would rule the root
    mean square: tokens would differ in size behind the norms, which is another trouble than outlier channels.
    """
    rng = np.random.default_rng(seed)
    channels = rng.choice(graph.config.hidden_size, 2, replace=False)
    streams = graph.norm_inputs(prompts)
    usual = [np.sqrt(np.square(rows, dtype=np.float64).mean()) for rows in streams.values()]
    size = _MASSIVE * np.median(usual) * np.sqrt(graph.config.hidden_size / 192)
    added = size * rng.choice([-1, 1], 2) * np.exp(0.2 * rng.normal(size=2))
    weights = dict(graph.weights)
    for place in graph.places:
        if place.into in streams:
            weights[place.into] = _times(weights[place.into], channels, np.full(2, _MASSIVE_GAIN))
            for name in place.weights:
                spread = np.exp(0.7 * rng.normal(size=(2, weights[name].shape[1])))
                weights[name] = _times(weights[name], channels, spread / (_MASSIVE * _MASSIVE_GAIN))
    moved = []
    for prompt in prompts:
        embeds = prompt.embeds.copy()
        embeds[:, channels] += added * (1 + 0.1 * rng.normal(size=(len(embeds), 2)))
        moved.append(replace(prompt, embeds=embeds))
    return weights, moved


def _channels(graph: DecoderGraph, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    hidden = graph.config.hidden_size
    return rng.choice(hidden, max(2, round(_SHARE * hidden)), replace=False)


def _times(
    weight: npt.NDArray[np.float32], channels: npt.NDArray[np.int64], factors: npt.NDArray[np.floating]
) -> npt.NDArray[np.float32]:
    changed = weight.copy()
    changed[channels] *= factors
    return changed

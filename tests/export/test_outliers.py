"""Outliers in hidden channels, through the tiny golden model's graph; tests/evidence/outliers.py shows the nano's."""

from __future__ import annotations

import numpy as np
import outlier_injection
import pytest
from decoder_prompts import random_prompts, tiny_decoder
from quantized_decoder import Recipe, mean_squared_error

from neo_edge.bundle import Bundle
from neo_edge_export.quantization.product_simulation import Activations


@pytest.mark.parametrize("activations", ["tensor", "token"])
@pytest.mark.parametrize("kind", ["amplified", "massive"])
def test_smoothing_removes_nine_tenths_of_the_error_that_outliers_add(
    tiny_bundle: Bundle, kind: str, activations: Activations
) -> None:
    graph, prompts = tiny_decoder(tiny_bundle), random_prompts(tiny_bundle, 12)
    if kind == "amplified":
        weights = outlier_injection.amplified(graph, 1)
    else:
        weights, prompts = outlier_injection.massive(graph, prompts, 1)
    calibration, held_out = prompts[:8], prompts[8:]
    seen = graph.statistics(calibration, weights)
    reach = seen["layers.1.attention_input"].channel_amax
    assert reach.max() > 15 * np.median(reach)  # the float model's own activations have them
    expected = graph.logits(held_out, weights)
    errors = [
        mean_squared_error(
            graph.quantized_logits(held_out, weights, seen, Recipe(activations, smooth=smooth))[0], expected
        )
        for smooth in (False, True)
    ]
    assert errors[1] <= 0.1 * errors[0]
    assert errors[1] <= 0.01 * np.concatenate(expected).var()

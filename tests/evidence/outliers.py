"""Outliers in hidden channels: what plain INT8 adds to the logits' error, and how much of it smoothing takes away.

The nano checkpoint, as it is and with two kinds of injected outliers, through its exported decoder graph. Smoothing
is searched on prompts of some scenes; logits are compared on prompts of others.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import outlier_injection
from command_line import neo_edge
from quantized_decoder import DecoderGraph, Prompt, Recipe, Weights, mean_squared_error

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.options import SamplingOptions
from neo_edge.tokenizer import load_tokenizer
from neo_edge_calibration.evaluation import ask, scene_questions
from neo_edge_calibration.scenes import FAMILIES
from neo_edge_runtime.backend import DecoderInputs, DecoderState
from neo_edge_runtime.model import Model
from neo_edge_runtime.ort_backend import OrtBackend

CHECKPOINT = "neo-ov-nano"
LEAST_REMOVED = 0.9
SCENES = 4  # a family; half of them to calibrate on


def main() -> int:
    """Prints a table; 1 when smoothing removes less than it must of what per-tensor INT8 adds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nano.bundle"
        neo_edge("export", CHECKPOINT, "-o", path, "--precision", "fp32")
        bundle = open_bundle(path)
        graph = DecoderGraph(bundle.path(bundle.variant("fp32").decoder), bundle.manifest.model.decoder)
        prompts = _scene_prompts(path)
    print(
        f"{CHECKPOINT}: mean squared error of the logits over their variance, {len(prompts) // 2} prompts\n"
    )
    print("| outliers | activations | plain | smoothed | removed |\n|---|---|---|---|---|")
    removed = [
        _compare(name, graph, weights, seen)
        for name, weights, seen in (
            ("none injected", graph.weights, prompts),
            ("amplified by the norms", outlier_injection.amplified(graph, 1), prompts),
            ("massive in the residual stream", *outlier_injection.massive(graph, prompts, 1)),
        )
    ]
    return 0 if min(removed[1:]) >= LEAST_REMOVED else 1


def _compare(name: str, graph: DecoderGraph, weights: Weights, prompts: Sequence[Prompt]) -> float:
    """Prints two rows; the share that smoothing removes where activations have one scale a tensor."""
    calibration, held_out = prompts[0::2], prompts[1::2]
    expected = graph.logits(held_out, weights)
    variance = float(np.concatenate(expected).var())
    seen = graph.statistics(calibration, weights)
    removed = {}
    for activations, called in (("tensor", "a scale per tensor"), ("token", "a scale per token")):
        plain, smoothed = (
            mean_squared_error(
                graph.quantized_logits(held_out, weights, seen, Recipe(activations, smooth=smooth))[0],
                expected,
            )
            for smooth in (False, True)
        )
        removed[activations] = 1 - smoothed / plain
        print(
            f"| {name} | {called} | {plain / variance:.1e} | {smoothed / variance:.1e} | {removed[activations]:.1%} |"
        )
    return removed["tensor"]


def _scene_prompts(path: Path) -> list[Prompt]:
    bundle = open_bundle(path)
    backend = _Recorder(bundle)
    with Model(
        backend, tokens=bundle.manifest.special_tokens, tokenizer=load_tokenizer(bundle.root)
    ) as model:
        for question in scene_questions(list(FAMILIES), "outliers", SCENES):
            ask(model, question, SamplingOptions(max_new_tokens=1))
    return backend.prompts


class _Recorder(OrtBackend):
    """Remembers what the decoder is fed."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, "fp32", threads=1)
        self.prompts: list[Prompt] = []

    def new_state(self, *, batch: int, capacity: int) -> DecoderState:
        state = super().new_state(batch=batch, capacity=capacity)
        run = state.run

        def recorded(inputs: DecoderInputs) -> np.ndarray:
            arrays = (inputs.inputs_embeds, inputs.position_ids, inputs.visible_length)
            self.prompts.append(Prompt(*(array[0].copy() for array in arrays)))
            return run(inputs)

        state.run = recorded
        return state


if __name__ == "__main__":
    sys.exit(main())

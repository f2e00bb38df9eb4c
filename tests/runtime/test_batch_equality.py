"""Prompts in one batch against the same prompts alone, logit for logit; `make evidence` does 200 mixes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from batch_mixes import mix_differences
from numpy_backend import NumpyBackend, NumpyState
from tiny_golden import TOKENS

from neo_edge.bundle import open_bundle
from neo_edge_runtime.backend import DecoderInputs
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.parity import TOLERANCE


@pytest.mark.parametrize(
    ("variant", "seeds"),
    [
        ("fp32", range(15)),
        ("fp32-portable", range(15, 30)),
        ("fp16", range(30, 33)),
        ("fp16-portable", range(33, 36)),
    ],
)
def test_mixes_of_text_and_pictures_get_the_logits_they_get_alone(
    tiny_bundle: Path, variant: str, seeds: range
) -> None:
    backend = OrtBackend(open_bundle(tiny_bundle), variant, threads=1)
    mixes = [mix_differences(backend, TOKENS, seed) for seed in seeds]
    print(
        f"{variant}: worst {max(mix.worst for mix in mixes):.1e}, {sum(mix.images for mix in mixes)} images"
    )
    assert all(mix.worst <= TOLERANCE[variant.removesuffix("-portable")] for mix in mixes)
    assert sum(mix.images for mix in mixes) > len(mixes)
    backend.close()


def test_the_oracle_says_the_same_of_its_batches(backend: NumpyBackend) -> None:
    assert mix_differences(backend, TOKENS, seed=3).worst <= 1e-4
    assert max(backend.batches) > 1


class OffByOne(NumpyState):
    """Lets no row of a batch see its own last token."""

    def run(self, inputs: DecoderInputs) -> np.ndarray:
        if len(inputs.write_index) > 1:
            inputs = replace(inputs, visible_length=np.maximum(1, inputs.visible_length - 1))
        return super().run(inputs)


def test_a_batch_that_is_not_its_prompts_shows_in_every_figure(backend: NumpyBackend) -> None:
    original = backend.new_state

    def broken(*, batch: int, capacity: int) -> NumpyState:
        state = original(batch=batch, capacity=capacity)
        return OffByOne(backend, state.keys, state.values)

    backend.new_state = broken  # type: ignore[method-assign]
    found = mix_differences(backend, TOKENS, seed=3)
    assert min(found.padded_prefill, found.padded_decode, found.decode) > 1e-3

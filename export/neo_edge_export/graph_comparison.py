"""One prompt through the reference and through a backend, and how far apart the results are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from neo_edge_export.random_prompt import RandomPrompt
from neo_edge_export.reference import NeoModel
from neo_edge_runtime.backend import Backend, DecoderInputs, DecoderState

TOLERANCE = {"fp32": 1e-4, "fp16": 0.03}
"""Allowed difference while no number of the reference exceeds `USUAL_SIZE`; beyond, it grows in proportion."""

USUAL_SIZE = 6.0
"""The largest logit of the golden files, for which the tolerances are stated."""

_SPARE_POSITIONS = 5  # cache beyond the prompt, which must not matter


@dataclass(frozen=True)
class Check:
    """The worst that was found of one kind: a difference between graphs and reference, or an activation."""

    of: str
    largest: float
    allowed: float

    @property
    def share(self) -> float:
        """Of what is allowed; infinite for NaN."""
        return self.largest / self.allowed if math.isfinite(self.largest) else math.inf

    @property
    def passed(self) -> bool:
        """Whether it is within what is allowed."""
        return self.share <= 1


@dataclass(frozen=True)
class Expected:
    """What the reference makes of one prompt."""

    visual_tokens: npt.NDArray[np.float32]  # [visual tokens, hidden]
    logits: npt.NDArray[np.float32]  # [S, vocab]


def run_reference(model: NeoModel, prompt: RandomPrompt) -> Expected:
    """All logits of a prompt in one forward pass."""
    grids = torch.tensor([[grid.rows, grid.cols] for grid in prompt.grids])
    pixels, plan = torch.from_numpy(prompt.pixels), prompt.layout
    columns = np.arange(len(prompt.input_ids))
    allow = torch.from_numpy(columns < plan.visible_length[:, None])[None, None]
    with torch.inference_mode():
        embeds = model.embed(
            torch.from_numpy(prompt.input_ids), torch.from_numpy(plan.is_visual), pixels, grids
        )
        logits = model.language_model(embeds, torch.from_numpy(plan.position_ids)[None], allow)
        return Expected(embeds[0].numpy()[plan.is_visual], logits[0].numpy())


def compare(backend: Backend, prompt: RandomPrompt, expected: Expected, precision: str) -> list[Check]:
    """Runs a prompt whole and in chunks, each followed by decoding its last tokens one by one."""
    visual = backend.encode_patches(prompt.packed_patches, prompt.patch_xy)
    embeds = np.array(backend.token_embedding[prompt.input_ids])
    embeds[prompt.layout.is_visual] = visual
    checks = [_difference("visual tokens", visual, expected.visual_tokens, precision)]
    prefilled, decoded = np.split(expected.logits, [prompt.prompt_length])
    for kind, chunk_ends in (
        ("whole prefill", [prompt.prompt_length]),
        ("chunked prefill", prompt.chunk_ends),
    ):
        state = backend.new_state(batch=1, capacity=len(prompt.input_ids) + _SPARE_POSITIONS)
        chunks = zip([0, *chunk_ends[:-1]], chunk_ends, strict=True)
        checks.append(_difference(kind, _feed(state, embeds, prompt, chunks), prefilled, precision))
        tokens = ((start, start + 1) for start in range(prompt.prompt_length, len(prompt.input_ids)))
        checks.append(_difference("decode", _feed(state, embeds, prompt, tokens), decoded, precision))
        state.close()
    return checks


def _feed(
    state: DecoderState,
    embeds: npt.NDArray[np.generic],
    prompt: RandomPrompt,
    pieces: Iterable[tuple[int, int]],
) -> npt.NDArray[np.float32]:
    """Logits of all tokens of the pieces (start, stop), which are fed one after the other."""
    logits = []
    for start, stop in pieces:
        inputs = DecoderInputs(
            inputs_embeds=embeds[None, start:stop],
            position_ids=prompt.layout.position_ids[None, :, start:stop],
            visible_length=prompt.layout.visible_length[None, start:stop],
            write_index=np.array([start], np.int32),
            logits_index=np.arange(stop - start, dtype=np.int32)[None],
        )
        logits.append(np.array(state.run(inputs)[0]))
    return np.concatenate(logits)


def _difference(
    of: str, found: npt.NDArray[np.generic], expected: npt.NDArray[np.float32], precision: str
) -> Check:
    largest = float(np.abs(found.astype(np.float32) - expected).max())
    size = float(np.abs(expected).max())
    return Check(of, largest, TOLERANCE[precision] * max(1.0, size / USUAL_SIZE))

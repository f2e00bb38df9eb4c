"""Compares the files of a bundle, run as a user runs them, with the unlowered reference.

Random prompts with pictures go through both: the pictures, the prompt whole, the prompt in chunks that end at
legal places, and tokens decoded one by one. Models of more than about a gigabyte are compared a few layers at
a time: the same graph files with the other layers cut out, until every layer had its turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from neo_edge.bundle import Bundle
from neo_edge.checkpoint import Checkpoint, expected_tensors
from neo_edge.config import ModelConfig
from neo_edge.errors import ParityError
from neo_edge.manifest import FileEntry, Manifest, Variant
from neo_edge.manifest_fields import JsonValue
from neo_edge.progress import progress
from neo_edge_export.layer_window import cut_decoder, window_config
from neo_edge_export.random_prompt import RandomPrompt, random_prompt
from neo_edge_export.reference import NeoModel
from neo_edge_export.reference_loading import load_reference
from neo_edge_runtime.backend import Backend, DecoderInputs, DecoderState
from neo_edge_runtime.ort_backend import OrtBackend

PROMPTS = 3
TOLERANCE = {"fp32": 1e-4, "fp16": 0.03}
"""Allowed difference while no number of the reference exceeds `_USUAL_SIZE`; beyond, it grows in proportion."""

_USUAL_SIZE = 6.0  # the largest logit of the golden files, for which the tolerances are stated
_WHOLE_BYTES = 1 << 30  # models whose float32 weights are smaller are compared whole
_SPARE_POSITIONS = 5  # cache beyond the prompt, which must not matter


@dataclass(frozen=True)
class Difference:
    """The worst of one kind of comparison."""

    of: str  # visual tokens, whole prefill, chunked prefill, decode
    largest: float  # difference between two numbers that should be one
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
class Verification:
    """What comparing one variant with the reference gave."""

    differences: Sequence[Difference]
    layers_at_once: int  # of the model's layers; all of them had their turn
    onnxruntime: str

    def to_json(self) -> JsonValue:
        """The form that a manifest stores."""
        return {
            "differences": {
                each.of: {"largest": each.largest, "allowed": each.allowed} for each in self.differences
            },
            "layers_at_once": self.layers_at_once,
            "prompts": PROMPTS,
            "onnxruntime": self.onnxruntime,
        }


def verify(
    directory: Path, manifest: Manifest, checkpoint: Checkpoint, *, layers_at_once: int | None = None
) -> dict[str, Verification]:
    """Compares every variant that lies in a directory with the reference.

    Args:
        directory: holds the files that the manifest's variants name.
        manifest: the bundle's; its `files` are not read.
        checkpoint: what was exported.
        layers_at_once: decoder layers that are loaded together; None: all when their float32 weights stay
            below a gigabyte, else as many as fit in one.

    Returns:
        By variant name; a result that did not pass is among them, see `require_parity`.
    """
    config = checkpoint.config
    count = config.decoder.num_layers
    at_once = min(count, layers_at_once or _layers_that_fit(config))
    windows = [range(start, min(start + at_once, count)) for start in range(0, count, at_once)]
    prompts = [random_prompt(config, manifest.special_tokens, seed) for seed in range(PROMPTS)]
    found: dict[str, list[Difference]] = {name: [] for name in manifest.variants}
    with progress(len(windows) * len(found), "comparing with the reference", "graphs") as bar:
        for window in windows:
            expected = _expected(checkpoint, window, prompts)
            for name in manifest.variants:
                found[name] += _compare(directory, manifest, name, window, prompts, expected)
                bar.update()
    return {
        name: Verification(_worst(differences), at_once, onnxruntime.__version__)
        for name, differences in found.items()
    }


def require_parity(verifications: dict[str, Verification]) -> None:
    """Raises `ParityError`, which names every comparison that did not pass."""
    failed = [
        f"{name}: {difference.of} differ by {difference.largest:.3g}, allowed is {difference.allowed:.3g}"
        for name, verification in verifications.items()
        for difference in verification.differences
        if not difference.passed
    ]
    if failed:
        raise ParityError(
            f"the written graphs disagree with the reference in onnxruntime {onnxruntime.__version__} "
            f"({'; '.join(failed)}), so no bundle was made: export the precisions that pass, or try another onnxruntime"
        )


@dataclass(frozen=True)
class _Expected:
    """What the reference makes of one prompt."""

    visual_tokens: npt.NDArray[np.float32]  # [visual tokens, hidden]
    logits: npt.NDArray[np.float32]  # [S, vocab]


def _expected(checkpoint: Checkpoint, window: range, prompts: Iterable[RandomPrompt]) -> list[_Expected]:
    model = load_reference(checkpoint, window)
    with torch.inference_mode():
        return [_run_reference(model, prompt) for prompt in prompts]


def _run_reference(model: NeoModel, prompt: RandomPrompt) -> _Expected:
    grids = torch.tensor([[grid.rows, grid.cols] for grid in prompt.grids])
    pixels, plan = torch.from_numpy(prompt.pixels), prompt.layout
    embeds = model.embed(torch.from_numpy(prompt.input_ids), torch.from_numpy(plan.is_visual), pixels, grids)
    columns = np.arange(len(prompt.input_ids))
    allow = torch.from_numpy(columns < plan.visible_length[:, None])[None, None]
    logits = model.language_model(embeds, torch.from_numpy(plan.position_ids)[None], allow)
    return _Expected(embeds[0].numpy()[plan.is_visual], logits[0].numpy())


def _compare(
    directory: Path,
    manifest: Manifest,
    name: str,
    window: range,
    prompts: Sequence[RandomPrompt],
    expected: Sequence[_Expected],
) -> list[Difference]:
    """Runs one variant's graphs, cut to a window of layers when that is not all of them."""
    variant = manifest.variants[name]
    cut = directory / variant.decoder.replace("decoder.onnx", "decoder.window.onnx")
    whole = len(window) == manifest.model.decoder.num_layers
    if not whole:
        cut_decoder(directory / variant.decoder, window, cut)
        variant = replace(variant, decoder=cut.relative_to(directory).as_posix())
    backend = OrtBackend(_open(directory, manifest, window, name, variant), name, threads=1)
    try:
        return [
            difference
            for prompt, reference in zip(prompts, expected, strict=True)
            for difference in _run(backend, prompt, reference, TOLERANCE[variant.precision])
        ]
    finally:
        backend.close()
        if not whole:
            cut.unlink()


def _open(directory: Path, manifest: Manifest, window: range, name: str, variant: Variant) -> Bundle:
    """A bundle of one variant whose files were not hashed yet."""
    folder = (directory / variant.decoder).parent
    loaded = len(window) / manifest.model.decoder.num_layers  # the backend wants that much memory free
    files = {
        path.relative_to(directory).as_posix(): FileEntry(round(path.stat().st_size * loaded), "")
        for path in folder.iterdir()
    }
    model = window_config(manifest.model, window)
    return Bundle(directory, replace(manifest, model=model, variants={name: variant}, files=files))


def _run(backend: Backend, prompt: RandomPrompt, expected: _Expected, tolerance: float) -> list[Difference]:
    visual = backend.encode_patches(prompt.packed_patches, prompt.patch_xy)
    embeds = np.array(backend.token_embedding[prompt.input_ids])
    embeds[prompt.layout.is_visual] = visual
    results = [_difference("visual tokens", visual, expected.visual_tokens, tolerance)]
    for kind, chunk_ends in (
        ("whole prefill", [prompt.prompt_length]),
        ("chunked prefill", prompt.chunk_ends),
    ):
        state = backend.new_state(batch=1, capacity=len(prompt.input_ids) + _SPARE_POSITIONS)
        starts = [0, *chunk_ends]
        parts = [_step(state, embeds, prompt, *ends) for ends in zip(starts, chunk_ends, strict=False)]
        logits = expected.logits[: prompt.prompt_length]
        results.append(_difference(kind, np.concatenate(parts), logits, tolerance))
        singles = range(prompt.prompt_length, len(prompt.input_ids))
        parts = [_step(state, embeds, prompt, position, position + 1) for position in singles]
        logits = expected.logits[prompt.prompt_length :]
        results.append(_difference("decode", np.concatenate(parts), logits, tolerance))
        state.close()
    return results


def _step(
    state: DecoderState, embeds: npt.NDArray[np.generic], prompt: RandomPrompt, start: int, stop: int
) -> npt.NDArray[np.float32]:
    """[stop - start, vocab] logits of the tokens from `start` on."""
    logits = state.run(
        DecoderInputs(
            inputs_embeds=embeds[None, start:stop],
            position_ids=prompt.layout.position_ids[None, :, start:stop],
            visible_length=prompt.layout.visible_length[None, start:stop],
            write_index=np.array([start], np.int32),
            logits_index=np.arange(stop - start, dtype=np.int32)[None],
        )
    )
    return np.array(logits[0])


def _difference(
    of: str, found: npt.NDArray[np.generic], expected: npt.NDArray[np.float32], tolerance: float
) -> Difference:
    largest = float(np.abs(found.astype(np.float32) - expected).max())
    size = float(np.abs(expected).max())
    return Difference(of, largest, tolerance * max(1.0, size / _USUAL_SIZE))


def _worst(differences: Sequence[Difference]) -> list[Difference]:
    """Of each kind the one that is nearest to its limit, or beyond."""
    worst: dict[str, Difference] = {}
    for difference in differences:
        known = worst.get(difference.of)
        if known is None or difference.share > known.share:
            worst[difference.of] = difference
    return list(worst.values())


def _layers_that_fit(config: ModelConfig) -> int:
    """Layers whose float32 weights take a gigabyte; the head and the embedding come on top."""
    shapes = expected_tensors(window_config(config, range(1)))
    layer_bytes = 4 * sum(math.prod(shape) for name, shape in shapes.items() if ".layers.0." in name)
    return max(1, _WHOLE_BYTES // layer_bytes)

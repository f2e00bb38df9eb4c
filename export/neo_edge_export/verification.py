"""Compares the files of a bundle, run as a user runs them, with the unlowered reference.

Random prompts with pictures go through both: the pictures, the prompt whole, the prompt in chunks that end at
legal places, and tokens decoded one by one. Models of more than about a gigabyte are compared a few layers at
a time: the same graph files with the other layers cut out, until every layer had its turn.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnxruntime

from neo_edge.bundle import Bundle
from neo_edge.checkpoint import Checkpoint, expected_tensors
from neo_edge.config import ModelConfig
from neo_edge.errors import InputError, ParityError
from neo_edge.manifest import FileEntry, Manifest
from neo_edge.manifest_fields import JsonValue
from neo_edge.progress import progress
from neo_edge_export.activation_range import FLOAT16_MAX, ActivationRange
from neo_edge_export.graph_comparison import Check, Expected, compare, run_reference
from neo_edge_export.layer_window import cut_decoder, window_config
from neo_edge_export.random_prompt import RandomPrompt, random_prompt
from neo_edge_export.reference_loading import load_reference
from neo_edge_runtime.backend import Backend
from neo_edge_runtime.ort_backend import OrtBackend

PROMPTS = 3

_WHOLE_BYTES = 1 << 30  # models whose float32 layers are smaller are compared whole


@dataclass(frozen=True)
class Verification:
    """What comparing one variant with the reference gave."""

    checks: Sequence[Check]
    layers_at_once: int  # of the model's layers
    layers: range  # those that had their turn; all of them, unless a slice was asked for
    onnxruntime: str

    def to_json(self) -> JsonValue:
        """The form that a manifest stores."""
        return {
            "checks": {
                check.of: {"largest": check.largest, "allowed": check.allowed} for check in self.checks
            },
            "layers_at_once": self.layers_at_once,
            "layers": [self.layers.start, self.layers.stop],
            "prompts": PROMPTS,
            "onnxruntime": self.onnxruntime,
        }


def verify(
    directory: Path,
    manifest: Manifest,
    checkpoint: Checkpoint,
    *,
    layers_at_once: int | None = None,
    only: range | None = None,
) -> dict[str, Verification]:
    """Compares every variant that lies in a directory with the reference.

    Args:
        directory: holds the files that the manifest's variants name.
        manifest: the bundle's; its `files` are not read.
        checkpoint: what was exported.
        layers_at_once: decoder layers that are loaded together; None: all when their float32 weights stay
            below a gigabyte, else as many as fit in one.
        only: neighbouring layers that are compared; None: all.

    Raises:
        InputError: the model does not have the layers of `only`.

    Returns:
        By variant name; a result that did not pass is among them, see `require_parity`.
    """
    prompts = [random_prompt(checkpoint.config, manifest.special_tokens, seed) for seed in range(PROMPTS)]
    layers = compared_layers(checkpoint.config, only)
    windows = _windows(checkpoint.config, layers, layers_at_once)
    found: dict[str, list[Check]] = {name: [] for name in manifest.variants}
    with progress(len(windows) * len(found), "comparing with the reference", "graphs") as bar:
        for window in windows:
            expected, largest_activation = _expect(checkpoint, window, prompts)
            _give_memory_back()
            for name, variant in manifest.variants.items():
                with _backend(directory, manifest, name, window) as backend:
                    for prompt, reference in zip(prompts, expected, strict=True):
                        found[name] += compare(backend, prompt, reference, variant.precision)
                if variant.precision == "fp16":
                    found[name].append(Check("activations", largest_activation, FLOAT16_MAX))
                bar.update()
    return {
        name: Verification(_worst(checks), len(windows[0]), layers, onnxruntime.__version__)
        for name, checks in found.items()
    }


def compared_layers(config: ModelConfig, only: range | None) -> range:
    """`only`, or all decoder layers when it is None; raises `InputError` when the model does not have them."""
    count = config.decoder.num_layers
    if only is None:
        return range(count)
    if not 0 <= only.start < only.stop <= count:
        raise InputError(
            f"decoder layers {only.start}:{only.stop} cannot be compared: the model has 0:{count}, and a slice has one "
            "or more of them"
        )
    return only


def require_parity(verifications: Mapping[str, Verification]) -> None:
    """Raises `ParityError`, which names every check that did not pass."""
    failed = [
        f"{name}: {check.of} {check.largest:.3g}, allowed {check.allowed:.3g}"
        for name, verification in verifications.items()
        for check in verification.checks
        if not check.passed
    ]
    if failed:
        raise ParityError(
            f"the written graphs, run by onnxruntime {onnxruntime.__version__}, are too far from the reference "
            f"({'; '.join(failed)}), so no bundle was made: leave out the precision, or try another onnxruntime"
        )


def _expect(
    checkpoint: Checkpoint, window: range, prompts: Iterable[RandomPrompt]
) -> tuple[list[Expected], float]:
    """The reference's results, and its largest activation."""
    model = load_reference(checkpoint, window, stored_embedding=True)
    with ActivationRange(model) as activations:
        return [run_reference(model, prompt) for prompt in prompts], activations.largest


def _give_memory_back() -> None:
    """Hands the system what the reference left in the C heap: 150 MiB of a 2B layer that the graph can use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc has it, musl does not
        trim(0)


@contextmanager
def _backend(directory: Path, manifest: Manifest, name: str, window: range) -> Iterator[Backend]:
    """A variant in ONNX Runtime, cut to a window of layers when that is not all of them."""
    variant = manifest.variants[name]
    share = len(window) / manifest.model.decoder.num_layers
    cut = (directory / variant.decoder).with_name("decoder.window.onnx")
    if share < 1:
        cut_decoder(directory / variant.decoder, window, cut)
        variant = replace(variant, decoder=cut.relative_to(directory).as_posix())
    # The files were not hashed yet, and the backend wants memory for those that it loads.
    files = {
        path.relative_to(directory).as_posix(): FileEntry(round(path.stat().st_size * share), "")
        for path in cut.parent.iterdir()
    }
    model = window_config(manifest.model, window)
    bundle = Bundle(directory, replace(manifest, model=model, variants={name: variant}, files=files))
    try:
        # A 2B model's output layer alone has 1.2 GiB, which packing would hold twice while it opens.
        backend = OrtBackend(bundle, name, prepacked="off", pack_weights=False)
        yield backend
        backend.close()
    finally:
        cut.unlink(missing_ok=True)


def _worst(checks: Iterable[Check]) -> list[Check]:
    """Of each kind the one that is nearest to its limit, or beyond."""
    worst: dict[str, Check] = {}
    for check in checks:
        known = worst.get(check.of)
        if known is None or check.share > known.share:
            worst[check.of] = check
    return list(worst.values())


def _windows(config: ModelConfig, layers: range, layers_at_once: int | None) -> list[range]:
    """Neighbouring layers that are compared together: as many as asked for, or as fit in a gigabyte."""
    shapes = expected_tensors(window_config(config, range(1)))
    layer_bytes = 4 * sum(math.prod(shape) for name, shape in shapes.items() if ".layers.0." in name)
    size = layers_at_once or max(1, _WHOLE_BYTES // layer_bytes)
    return [layers[start : start + size] for start in range(0, len(layers), size)]

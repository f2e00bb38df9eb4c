"""Bundles of the nano checkpoint to calibrate, and a few prompts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from sealing import seal

from neo_edge.checkpoint import resolve_checkpoint
from neo_edge_calibration import CalibrationResult, calibrate
from neo_edge_calibration.question import Question
from neo_edge_calibration.scenes import make_question

SAMPLES = 8
STATISTICS = "calibration/default.safetensors"
FAMILIES = ("colour", "box", "differs", "motion")  # one picture, one, two, a video


def export_nano(target: Path) -> Path:
    """fp32 and fp16, both profiles."""
    import torch

    from neo_edge_export.bundle_export import ExportOptions, export_bundle

    torch.set_num_threads(1)
    options = ExportOptions(precisions=("fp32", "fp16"), ops=("modern", "portable"))
    export_bundle(resolve_checkpoint("neo-ov-nano"), target, options)
    return target


def linked_copy(bundle: Path, target: Path) -> Path:
    """The bundle under another name; its files are hard links, so nothing may be written in place."""
    shutil.copytree(bundle, target, copy_function=os.link)
    return target


def questions(count: int = SAMPLES, seed: str = "test") -> list[Question]:
    """Scenes of several kinds."""
    return [make_question(FAMILIES[index % len(FAMILIES)], seed, index) for index in range(count)]


def folder_of_pictures(folder: Path, count: int = SAMPLES) -> Path:
    """Scenes as PNG files."""
    folder.mkdir(parents=True)
    for index in range(count):
        make_question("colour", "folder", index).images[0].save(folder / f"{index:02d}.png")
    return folder


def spoilt_weights(bundle: Path, variant: str, change: Callable[[np.ndarray], None], name: str) -> None:
    """Changes one weight of the decoder in a copy of its file; the manifest knows of it."""
    import onnx

    graph = bundle / variant / "decoder.onnx"
    model = onnx.load(graph, load_external_data=False)
    place = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    where = {entry.key: entry.value for entry in place.external_data}
    data = graph.with_name("decoder.onnx.data")
    content = bytearray(data.read_bytes())
    start, length = int(where["offset"]), int(where["length"])
    values = np.frombuffer(content[start : start + length], np.float32).copy()
    change(values)
    content[start : start + length] = values.tobytes()
    data.unlink()
    data.write_bytes(content)
    seal(bundle, f"{variant}/decoder.onnx.data")


def one_by_one(prompts: list[Question]) -> Iterator[Question]:
    """An iterable that can be read once and has no length."""
    yield from prompts


def quick_calibrate(bundle: Path, prompts: object = None, **options: object) -> CalibrationResult:
    """Eight scenes, or these prompts, on one thread."""
    given = questions() if prompts is None else prompts
    return calibrate(bundle, given, **{"samples": SAMPLES, "threads": 1, **options})  # type: ignore[arg-type]


def leftovers(bundle: Path) -> list[str]:
    """Hidden files in a bundle."""
    return [name for name in os.listdir(bundle) if name.startswith(".")]

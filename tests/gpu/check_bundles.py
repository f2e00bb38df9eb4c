"""The bundles that the GPU check runs: carried in a folder, or exported where torch is installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from check_runner import SkipError

from neo_edge.bundle import Bundle, open_bundle

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny"
CASES = ("text", "multi_image", "video")
SHAPE = "2b"  # random weights in its shape, to measure with


def find_bundle(folder: Path, name: str) -> Bundle:
    """An opened one; raises `SkipError` when it is neither there nor was exported."""
    path = folder / f"{name}.bundle"
    if not path.is_dir():
        part = "shape" if name == SHAPE else "bundles"
        raise SkipError(
            f"{path.name} is not in {folder}: the part `{part}` writes it where torch and onnx are installed"
        )
    return open_bundle(path)


def write_bundle(folder: Path, name: str) -> bool:
    """Exports one unless it is there; whether it did."""
    target = folder / f"{name}.bundle"
    if target.is_dir():
        return False
    from neo_edge.checkpoint import resolve_checkpoint
    from neo_edge_export.bundle_export import ExportOptions, export_bundle

    portable = ExportOptions(precisions=("fp16",), ops=("portable",))
    if name == SHAPE:
        export_bundle(shape_checkpoint(folder), target, replace(portable, verify_slice=range(1)))
    elif name == "nano":
        export_bundle(resolve_checkpoint("neo-ov-nano"), target, portable)
    else:
        options = ExportOptions(precisions=("fp32", "fp16"), ops=("modern", "portable"))
        export_bundle(GOLDEN, target, options)
    return True


def shape_checkpoint(folder: Path) -> Path:
    """What the bundle `2b` was exported from, or would be: random weights, written unless they are there."""
    from neo_edge.checkpoint_presets import preset_config
    from neo_edge.random_checkpoint import write_random_checkpoint

    target = folder / f"{SHAPE}-checkpoint"
    if not target.is_dir():
        write_random_checkpoint(target, preset_config(SHAPE))
    return target

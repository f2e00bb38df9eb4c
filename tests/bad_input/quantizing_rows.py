"""Quantizing with something broken: the float variant, its calibration, or what is asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bad_row import Action, Place, Row
from PIL import Image
from sealing import seal

from neo_edge.bundle import open_bundle
from neo_edge.errors import (
    BundleCorruptError,
    InputError,
    QuantizationError,
    StaleCalibrationError,
    StatisticsError,
)
from neo_edge_calibration import calibrate
from neo_edge_calibration.quality import file_data
from neo_edge_calibration.sources.named import named_source
from neo_edge_export.quantization.quantize import QuantizeOptions, quantize
from neo_edge_export.quantization.recipe import LayerRule, Recipe
from neo_edge_export.quantization.recipes import RECIPES

Damage = Callable[[Path], object]
PLAIN = Recipe("plain", "", "modern", (LayerRule("*", "w8a8-token"),))
AS_USUAL = QuantizeOptions()


def quantizing(
    broken: str,
    damage: Damage,
    error: type[Exception],
    *words: str,
    recipe: Recipe = PLAIN,
    options: QuantizeOptions = AS_USUAL,
    calibrated: bool = False,
) -> Row:
    """A copy of the bundle, damaged when it was opened; it is quantized, and nothing of that stays."""

    def prepare(place: Place) -> Action:
        copy = place.folder / "copy.bundle"
        shutil.copytree(place.bundle, copy)
        if calibrated:
            _calibrate(copy, place.folder / "shelf")
        damage(copy)
        return lambda: quantize(open_bundle(copy), recipe, None, options, threads=1)

    return Row(broken, prepare, error, words)


def _calibrate(bundle: Path, shelf: Path) -> None:
    shelf.mkdir()
    rng = np.random.default_rng(0)
    for index in range(8):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(shelf / f"{index}.png")
    calibrate(bundle, named_source(str(shelf), 0), threads=1)


def _number(path: str, value: float) -> Damage:
    """Another float32 somewhere in a file, of which the manifest knows."""

    def damage(bundle: Path) -> None:
        content = bytearray((bundle / path).read_bytes())
        content[400:404] = np.float32(value).tobytes()
        (bundle / path).write_bytes(content)
        seal(bundle, path)

    return damage


def _altered(path: str, *, sealed: bool) -> Damage:
    """Bytes that are no such file."""

    def damage(bundle: Path) -> None:
        (bundle / path).write_bytes(b"\xff" * (bundle / path).stat().st_size)
        if sealed:
            seal(bundle, path)

    return damage


def _manifest(old: str, new: str) -> Damage:
    def damage(bundle: Path) -> None:
        text = (bundle / "bundle.json").read_text()
        assert old in text
        (bundle / "bundle.json").write_text(text.replace(old, new))

    return damage


def _nan_in_statistics(bundle: Path) -> None:
    path = "calibration/default.safetensors"
    content = bytearray((bundle / path).read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    place = json.loads(content[8:header])["head_input.rows"]["data_offsets"][0]
    content[header + place : header + place + 2] = np.float16(np.nan).tobytes()
    (bundle / path).write_bytes(content)


def _vision_for_decoder(bundle: Path) -> None:
    """The manifest knows of it."""
    shutil.copyfile(bundle / "fp32/vision.onnx", bundle / "fp32/decoder.onnx")
    seal(bundle, "fp32/decoder.onnx")


def _same(_bundle: Path) -> None:
    """Nothing is wrong with the files."""


def questions(broken: str, line: str, *words: str) -> Row:
    """A file of questions to measure with, which is read."""

    def prepare(place: Place) -> Action:
        path = place.folder / "questions.jsonl"
        path.write_text(line)
        return lambda: file_data(path)

    return Row(broken, prepare, InputError, words)


QUANTIZING_ROWS = (
    quantizing(
        "NaN in a decoder's weight",
        _number("fp32/decoder.onnx.data", np.nan),
        QuantizationError,
        "the weight decoder.layers.0",
        "holds NaN or infinity",
        "fetch it and export it again",
    ),
    quantizing(
        "infinity in a vision weight",
        _number("fp32/vision.onnx.data", np.inf),
        QuantizationError,
        "the weight vision.patch_embedding holds NaN or infinity",
        "fetch it and export it again",
    ),
    quantizing(
        "NaN in the token table",
        _number("fp32/token_embedding.bin", np.nan),
        QuantizationError,
        "the weight token_embedding holds NaN or infinity",
    ),
    quantizing(
        "weights that were altered",
        _altered("fp32/decoder.onnx.data", sealed=False),
        BundleCorruptError,
        "fp32/decoder.onnx.data was altered",
        "Copy or export it again",
    ),
    quantizing(
        "a graph that was altered",
        _altered("fp32/vision.onnx", sealed=False),
        BundleCorruptError,
        "fp32/vision.onnx was altered",
    ),
    quantizing(
        "a graph that is no ONNX",
        _altered("fp32/decoder.onnx", sealed=True),
        QuantizationError,
        "fp32/decoder.onnx cannot be read as a graph",
        "copy or export it again",
    ),
    quantizing(
        "the vision graph in the decoder's place",
        _vision_for_decoder,
        QuantizationError,
        "the graph has a product 'decoder.",
        "which neo-edge export does not write: export the bundle again",
    ),
    quantizing(
        "no calibration where the recipe needs one",
        _same,
        QuantizationError,
        "needs activation statistics",
        "run neo-edge calibrate first",
        recipe=RECIPES["int8-dynamic"],
    ),
    quantizing(
        "a calibration of another checkpoint",
        _manifest('"checkpoint_sha256": "', '"checkpoint_sha256": "0'),
        StaleCalibrationError,
        "is of checkpoint",
        "calibrate this bundle",
        recipe=RECIPES["int8-dynamic"],
        calibrated=True,
    ),
    quantizing(
        "NaN in the calibration's rows",
        _nan_in_statistics,
        StatisticsError,
        "head_input hold NaN or infinity",
        "calibrate again",
        recipe=RECIPES["int8-dynamic"],
        calibrated=True,
    ),
    quantizing(
        "a source that is quantized itself",
        _manifest('"precision": "fp32"', '"precision": "int8"'),
        QuantizationError,
        "the variant 'fp32' is int8 of the modern profile",
        "starts from fp32 or fp16",
        options=QuantizeOptions(source="fp32"),
    ),
    quantizing(
        "a profile that the bundle lacks",
        _same,
        QuantizationError,
        "starts from a float variant of the portable profile",
        "export it again with --ops portable",
        recipe=RECIPES["int8"],
    ),
    questions("no questions to measure with", "\n", "holds no questions"),
    questions("half a question to measure with", '{"question": ', "line 1"),
)

"""Calibration with something broken: its data, its statistics or the bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from bad_row import Action, Place, Row
from PIL import Image

from neo_edge.bundle import open_bundle
from neo_edge.errors import (
    BundleCorruptError,
    BundleError,
    CalibrationDataError,
    StaleCalibrationError,
    StatisticsError,
)
from neo_edge_calibration import CalibrationResult, calibrate, load_statistics
from neo_edge_calibration.sources.named import named_source

Damage = Callable[[Path], object]
STATISTICS = "calibration/default.safetensors"
SAID = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
GOOD: dict[str, object] = {"image": "0.png", "conversations": SAID}


def _pictures(folder: Path, count: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


def pictures(
    broken: str,
    damage: Damage,
    error: type[Exception] | None,
    *words: str,
    count: int = 9,
    gives: Callable[[object], bool] | None = None,
) -> Row:
    """A folder of pictures, damaged; a copy of the bundle is calibrated with it, and goes."""

    def prepare(place: Place) -> Action:
        _pictures(place.folder / "shelf", count)
        damage(place.folder / "shelf")

        def action() -> object:
            copy = place.folder / "copy.bundle"
            shutil.copytree(place.bundle, copy)
            try:
                return calibrate(copy, named_source(str(place.folder / "shelf"), 0), threads=1)
            finally:
                assert open_bundle(copy, verify="sha256")
                assert not list(copy.glob(".*"))
                shutil.rmtree(copy)

        return action

    return Row(broken, prepare, error, words, gives=gives)


def lines(broken: str, rows: Sequence[dict[str, object] | str], *words: str) -> Row:
    """A file of conversations, which is read."""

    def prepare(place: Place) -> Action:
        path = place.folder / "said.jsonl"
        path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
        return lambda: named_source(str(path), 0)

    return Row(broken, prepare, CalibrationDataError, words)


def statistics(broken: str, damage: Damage, error: type[Exception], *words: str) -> Row:
    """A calibrated copy of the bundle, damaged; its statistics are loaded."""

    def prepare(place: Place) -> Action:
        copy = place.folder / "copy.bundle"
        shutil.copytree(place.bundle, copy)
        _pictures(place.folder / "shelf", 8)
        calibrate(copy, named_source(str(place.folder / "shelf"), 0), threads=1)
        damage(copy)
        return lambda: load_statistics(open_bundle(copy))

    return Row(broken, prepare, error, words)


def _manifest(change: Callable[[str], str]) -> Damage:
    return lambda bundle: (bundle / "bundle.json").write_text(change((bundle / "bundle.json").read_text()))


def _resized(bundle: Path, content: bytes) -> None:
    """Other bytes under the old name, with a manifest that knows their size."""
    size = (bundle / STATISTICS).stat().st_size
    (bundle / STATISTICS).write_bytes(content)
    _manifest(lambda text: text.replace(f'"size_bytes": {size}', f'"size_bytes": {len(content)}'))(bundle)


def _nan(bundle: Path) -> None:
    content = bytearray((bundle / STATISTICS).read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    place = json.loads(content[8:header])["head_input.channel_amax"]["data_offsets"][0]
    content[header + place : header + place + 4] = np.float32(np.nan).tobytes()
    (bundle / STATISTICS).write_bytes(content)


def _replaced_graph(bundle: Path) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["files"]["fp32/decoder.onnx"]["sha256"] = "0" * 64
    (bundle / "bundle.json").write_text(json.dumps(manifest))


def _truncated(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes((folder / name).read_bytes()[:60])


def _blank(folder: Path) -> None:
    for path in folder.iterdir():
        Image.new("RGB", (64, 64), (80, 90, 100)).save(path)


def _named_the_skipped_one(found: object) -> bool:
    return (
        isinstance(found, CalibrationResult)
        and len(found.skipped) == 1
        and "3.png cannot be read as a picture" in found.skipped[0]
        and found.statistics.samples == 8
    )


def _missing(place: Place) -> Action:
    return lambda: named_source(str(place.folder / "gone"), 0)


def _nul(_place: Place) -> Action:
    return lambda: named_source("a\0b", 0)


CALIBRATION_ROWS = (
    Row("a source that is not there", _missing, CalibrationDataError, ("does not exist", "give a folder")),
    Row("a source that no path can be", _nul, CalibrationDataError, ("does not exist", "give a folder")),
    pictures(
        "an empty folder",
        lambda folder: [path.unlink() for path in folder.iterdir()],
        CalibrationDataError,
        "holds nothing, no pictures",
        "give a folder of either",
    ),
    pictures(
        "a folder of text",
        lambda folder: [path.rename(path.with_suffix(".txt")) for path in folder.iterdir()],
        CalibrationDataError,
        "9 files of other kinds",
        "give a folder of either",
    ),
    pictures(
        "a corrupt picture among good ones: skipped and named",
        lambda folder: _truncated(folder, "3.png"),
        None,
        gives=_named_the_skipped_one,
    ),
    pictures(
        "more corrupt pictures than can be spared",
        lambda folder: _truncated(folder, "3.png", "5.png"),
        CalibrationDataError,
        "7 samples can be used, and 2 could not be used",
        "at least 8 are needed",
    ),
    pictures(
        "blank pictures",
        _blank,
        StatisticsError,
        "vision.patches is the same in every row",
        "blank pictures?",
    ),
    lines("an empty file of conversations", ["\n"], "holds no conversations", "one JSON object a line"),
    lines("half a conversation", [GOOD, '{"image": '], "line 2: not JSON", "one whole JSON object"),
    lines("a question of evaluation", [{"question": "What?"}], 'with "conversations", a list, is needed'),
    lines(
        "an answer first",
        [GOOD, {"conversations": SAID[1:]}],
        "line 2: human and gpt must speak in turns, human first",
    ),
    lines(
        "more places than images",
        [{"image": "0.png", "conversations": [{"from": "human", "value": "<image><image>"}]}],
        "line 1: 2 times <image> for 1 images",
        "write one for each",
    ),
    statistics(
        "statistics of another checkpoint",
        _manifest(lambda text: text.replace('"checkpoint_sha256": "', '"checkpoint_sha256": "0')),
        StaleCalibrationError,
        "is of checkpoint",
        "calibrate this bundle",
    ),
    statistics(
        "statistics of graphs that were replaced",
        _replaced_graph,
        StaleCalibrationError,
        "has in another form",
        "calibrate again",
    ),
    statistics(
        "statistics cut short",
        lambda bundle: (bundle / STATISTICS).write_bytes((bundle / STATISTICS).read_bytes()[:-9]),
        BundleCorruptError,
        STATISTICS,
        "Copy or export it again",
    ),
    statistics(
        "other bytes for statistics",
        lambda bundle: _resized(bundle, b"numbers" * 30),
        StatisticsError,
        "is no file of activation statistics",
        "calibrate again",
    ),
    statistics(
        "NaN in the statistics", _nan, StatisticsError, "head_input hold NaN or infinity", "calibrate again"
    ),
    statistics(
        "statistics that the manifest does not know",
        _manifest(lambda text: text.replace('"default": {', '"other": {')),
        BundleError,
        "no calibration 'default': it has other",
        "neo-edge calibrate makes one",
    ),
)

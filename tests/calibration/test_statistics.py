from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_bundle import write_bundle

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.bundle_update import BundleUpdate
from neo_edge.config import load_config
from neo_edge.errors import BundleError, CalibrationError, StaleCalibrationError, StatisticsError
from neo_edge.manifest import Calibration
from neo_edge_calibration.clipping import BINS
from neo_edge_calibration.statistics import (
    CalibrationStatistics,
    GroupStatistics,
    checkpoint_digest,
    graph_digest,
    load_statistics,
    read_statistics,
    save_statistics,
)

CHANNELS = 6


def _group(seed: int = 0) -> GroupStatistics:
    values = np.random.default_rng(seed).normal(size=(500, CHANNELS)).astype(np.float32)
    magnitudes = np.abs(values)
    counts, _ = np.histogram(magnitudes, BINS, (0, 8.0))
    return GroupStatistics(
        weights=("a.weight", "b.weight"),
        rows_seen=500,
        channel_amax=magnitudes.max(axis=0),
        channel_mean_abs=magnitudes.mean(axis=0),
        channel_mean_square=np.square(values).mean(axis=0),
        histogram=counts.astype(np.int64),
        histogram_max=8.0,
        rows=values[:100],
    )


@pytest.fixture
def bundle(golden_tiny: Path, tmp_path: Path) -> Bundle:
    write_bundle(tmp_path / "x.bundle", load_config(golden_tiny))
    return open_bundle(tmp_path / "x.bundle")


@pytest.fixture
def statistics(bundle: Bundle) -> CalibrationStatistics:
    return CalibrationStatistics(
        groups={"head_input": _group(), "vision.patches": _group(1)},
        method="max",
        samples=8,
        variant="fp32",
        source="scenes",
        data_digest="d" * 64,
        checkpoint_digest=checkpoint_digest(bundle),
        graph_digest=graph_digest(bundle, "fp32"),
    )


def _add(bundle: Bundle, statistics: CalibrationStatistics) -> Bundle:
    with BundleUpdate(bundle) as update:
        path = update.directory / "calibration" / "default.safetensors"
        path.parent.mkdir()
        save_statistics(statistics, path)
        entry = Calibration("calibration/default.safetensors", "fp32", "max", 8, "scenes")
        return update.commit(lambda manifest: replace(manifest, calibrations={"default": entry}))


def test_statistics_read_back_equal(bundle: Bundle, statistics: CalibrationStatistics) -> None:
    loaded = load_statistics(_add(bundle, statistics))
    assert {**vars(loaded), "groups": None} == {**vars(statistics), "groups": None}
    assert loaded.groups.keys() == statistics.groups.keys()
    for name, group in statistics.groups.items():
        for field, value in vars(group).items():
            found = getattr(loaded.groups[name], field)
            if isinstance(value, np.ndarray):
                assert found.dtype == value.dtype
                np.testing.assert_array_equal(found, value)
            else:
                assert found == value


def test_equal_statistics_give_equal_bytes(statistics: CalibrationStatistics, tmp_path: Path) -> None:
    save_statistics(statistics, tmp_path / "a")
    backwards = dict(reversed(statistics.groups.items()))
    save_statistics(replace(statistics, groups=backwards), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_name_that_is_not_there_is_refused(bundle: Bundle, statistics: CalibrationStatistics) -> None:
    updated = _add(bundle, statistics)
    with pytest.raises(BundleError, match="has no calibration 'night': it has default"):
        load_statistics(updated, "night")


def test_statistics_of_another_checkpoint_are_refused(
    bundle: Bundle, statistics: CalibrationStatistics
) -> None:
    updated = _add(bundle, replace(statistics, checkpoint_digest="ff"))
    with pytest.raises(
        StaleCalibrationError, match="is of checkpoint ff and the bundle .* of 00: calibrate this"
    ):
        load_statistics(updated)


def test_statistics_of_other_graphs_are_refused(bundle: Bundle, statistics: CalibrationStatistics) -> None:
    updated = _add(bundle, replace(statistics, graph_digest="ff"))
    with pytest.raises(
        StaleCalibrationError, match="'fp32', which the bundle .* has in another form: calibrate"
    ):
        load_statistics(updated)


def test_statistics_of_a_variant_that_is_gone_are_refused(
    bundle: Bundle, statistics: CalibrationStatistics
) -> None:
    updated = _add(bundle, replace(statistics, variant="fp16"))
    with pytest.raises(StaleCalibrationError, match="'fp16', which the bundle .* lacks: calibrate again"):
        load_statistics(updated)


@pytest.mark.parametrize("end", [0, 4, 100, 3000, -1])
def test_a_truncated_file_is_refused(statistics: CalibrationStatistics, tmp_path: Path, end: int) -> None:
    save_statistics(statistics, tmp_path / "a")
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes()[:end])
    with pytest.raises(StatisticsError, match="is no file of activation statistics, or a damaged one"):
        read_statistics(tmp_path / "b")


def test_a_file_of_other_tensors_is_refused(tmp_path: Path) -> None:
    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "a")
    with pytest.raises(StatisticsError, match="is no file of activation statistics"):
        read_statistics(tmp_path / "a")


@pytest.mark.parametrize("array", ["channel_amax", "channel_mean_abs", "channel_mean_square", "rows"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_neither_written_nor_read(
    statistics: CalibrationStatistics, tmp_path: Path, array: str, value: float
) -> None:
    group = statistics.groups["head_input"]
    spoilt = getattr(group, array).copy()
    spoilt.flat[3] = value
    broken = replace(statistics, groups={"head_input": replace(group, **{array: spoilt})})
    with pytest.raises(StatisticsError, match="the statistics of head_input hold NaN or infinity"):
        save_statistics(broken, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    save_statistics(statistics, tmp_path / "a")
    from safetensors import safe_open

    with safe_open(tmp_path / "a", framework="numpy") as file:
        metadata = file.metadata()
    tensors = load_file(tmp_path / "a")
    tensors[f"head_input.{array}"].flat[3] = value
    save_file(tensors, tmp_path / "b", metadata)
    with pytest.raises(CalibrationError, match="head_input hold NaN or infinity"):
        read_statistics(tmp_path / "b")


def test_arrays_that_do_not_fit_each_other_are_refused(
    statistics: CalibrationStatistics, tmp_path: Path
) -> None:
    group = replace(statistics.groups["head_input"], rows_seen=499)
    with pytest.raises(StatisticsError, match="of head_input do not fit each other"):
        save_statistics(replace(statistics, groups={"head_input": group}), tmp_path / "a")


def test_the_smoothed_maximum_is_exact_and_the_others_are_of_the_rows() -> None:
    group = _group()
    scales = np.linspace(0.5, 3, CHANNELS)
    assert group.smoothed(scales) == pytest.approx(float((group.channel_amax / scales).max()))
    divided = np.abs(group.rows / scales)
    found = group.smoothed(scales, "percentile")
    assert abs(found - np.percentile(divided, 99.99, method="inverted_cdf")) <= group.smoothed(scales) / BINS
    assert 0 < group.smoothed(scales, "mse") <= group.smoothed(scales)


def test_the_range_is_by_the_calibrations_method_unless_told_otherwise() -> None:
    group = replace(_group(), method="mse")
    assert group.range() == group.range("mse") < group.range("max") == group.channel_amax.max()
    assert group.range("mse", levels=7) < group.range("mse")

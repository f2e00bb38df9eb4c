from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from safetensors_writer import write_safetensors

from neo_edge.errors import WeightsError
from neo_edge.safetensors_file import read_header


def test_files_of_the_safetensors_library_are_read(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(5, dtype=np.float16),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
    }
    save_file(arrays, tmp_path / "x.safetensors")
    found = read_header(tmp_path / "x.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        read = found[name].read()
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


def test_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    values = np.array([0.0, -0.0, 1.5, -3e38, 1e-40, np.inf, np.nan, 0.1], np.float32).astype(
        ml_dtypes.bfloat16
    )
    save_file({"x": values}, tmp_path / "x.safetensors")
    read = read_header(tmp_path / "x.safetensors")["x"].read()
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, values.astype(np.float32))


@pytest.mark.parametrize(("start", "stop"), [(0, 2), (1, 4), (3, 99), (2, 2)])
def test_rows_are_read_alone(tmp_path: Path, start: int, stop: int) -> None:
    array = np.arange(4 * 3 * 2, dtype=np.uint16).reshape(4, 3, 2)
    write_safetensors(tmp_path / "x.safetensors", {"before": np.ones(3, np.float32), "x": array})
    entry = read_header(tmp_path / "x.safetensors")["x"]
    np.testing.assert_array_equal(entry.read(start, stop), entry.read()[start:stop])


def test_a_stored_tensor_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", {"x": np.ones(4, np.float32)})
    read = read_header(tmp_path / "x.safetensors")["x"].read()
    assert isinstance(read, np.memmap)
    assert not read.flags.writeable


@pytest.mark.parametrize("kept", [0, 4, 8, 40, -1])
def test_a_truncated_file_is_refused_before_anything_is_read(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"x": np.ones(4, np.float32)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match="fetch it again"):
        read_header(path)


GOOD = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "entry",
    [
        {**GOOD, "shape": [-4]},
        {**GOOD, "shape": [4.0]},
        {**GOOD, "shape": None},
        {**GOOD, "data_offsets": [0]},
        {**GOOD, "data_offsets": [0, 12]},
        {**GOOD, "data_offsets": [16, 0]},
        {**GOOD, "dtype": 3},
        [],
    ],
)
def test_a_malformed_entry_is_named(tmp_path: Path, entry: object) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"x": np.ones(4, np.float32)}, header=json.dumps({"weight": entry}))
    with pytest.raises(WeightsError, match="'weight' is malformed"):
        read_header(path)


def test_a_quantized_checkpoint_is_refused_by_its_type(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", {"ids": np.ones(4, np.int64)})
    with pytest.raises(WeightsError, match="'ids' has type I64"):
        read_header(tmp_path / "x.safetensors")


def test_a_name_that_stands_twice_in_a_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    entry = json.dumps(GOOD)
    write_safetensors(path, {"x": np.ones(4, np.float32)}, header=f'{{"w": {entry}, "w": {entry}}}')
    with pytest.raises(WeightsError, match="'w' twice"):
        read_header(path)


@pytest.mark.parametrize("header", ["[]", "{", "[" * 9999])
def test_a_header_that_is_no_object_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {}, header=header)
    with pytest.raises(WeightsError, match="header"):
        read_header(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        read_header(tmp_path / "x.safetensors")

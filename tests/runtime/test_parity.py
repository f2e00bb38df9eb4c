"""Golden files are read strictly, and a replay finds what is wrong with a backend."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy_backend import NumpyBackend, NumpyState
from tiny_golden import GOLDEN, TOKENS, Golden
from tiny_golden import read_golden as raw_golden

from neo_edge.errors import InputError, NeoEdgeError
from neo_edge_runtime.golden import GoldenCase, read_golden
from neo_edge_runtime.parity import CaseParity, replay


@pytest.fixture
def case(backend: NumpyBackend) -> GoldenCase:
    return read_golden(GOLDEN / "multi_image.npz", backend.config)


def test_the_oracle_passes(backend: NumpyBackend, case: GoldenCase) -> None:
    found = replay(backend, TOKENS, case, chunked=True)
    assert found.within(1e-4)
    assert found.positions == 0
    assert found.pixels <= 5e-7  # two float32 steps at 2.6
    assert max(backend.runs) <= 16


def test_a_case_without_optional_arrays_is_read(backend: NumpyBackend, tmp_path: Path) -> None:
    golden = raw_golden("video")
    kept = {
        name: golden[name] for name in golden if not name.startswith(("image_", "decode_indexes", "k_", "v_"))
    }
    path = tmp_path / "less.npz"
    np.savez(path, **kept)
    less = read_golden(path, backend.config)
    assert less.images == []
    assert np.array_equal(less.decode_positions, golden["decode_indexes"])
    assert replay(backend, TOKENS, less).within(1e-4)


def test_each_fault_shows_in_its_own_figure(
    backend: NumpyBackend, case: GoldenCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = backend.weights["vision_model.embeddings.dense_embedding.bias"]
    weight += 0.01
    assert 0.009 < replay(backend, TOKENS, case).visual_tokens < 0.011
    weight -= 0.01

    # A cache that loses its last position when it is copied spoils forks only.
    copy = NumpyState.copy

    def forgetful(self: NumpyState, *, length: int, capacity: int) -> NumpyState:
        return copy(self, length=length - 1, capacity=capacity)

    monkeypatch.setattr(NumpyState, "copy", forgetful)
    found = replay(backend, TOKENS, case)
    assert found.decode_logits <= 1e-4
    assert found.after_rewind <= 1e-4
    assert found.after_fork > 1e-3
    assert not found.within(1e-4)


def test_a_shifted_picture_position_shows(backend: NumpyBackend, case: GoldenCase) -> None:
    case.positions[1, 10] += 1
    found = replay(backend, TOKENS, case)
    assert found.positions == 1
    assert not found.within(1e-4)


def test_a_value_that_is_no_number_is_above_every_tolerance(backend: NumpyBackend, case: GoldenCase) -> None:
    case.prefill_logits[3, 5] = np.nan
    found = replay(backend, TOKENS, case)
    assert found.prefill_logits == float("inf")
    assert not found.within(1e9)


def test_the_worst_figure_is_the_worst() -> None:
    parity = CaseParity(0, 0, 0.1, 0.5, 0.2, 0.3, 0.4)
    assert parity.worst == 0.5
    assert parity.within(0.5)
    assert not parity.within(0.49)
    assert not CaseParity(1, 0, 0, 0, 0, 0, 0).within(1)
    assert not CaseParity(0, 1e-5, 0, 0, 0, 0, 0).within(1)


def without(name: str) -> Golden:
    return {key: value for key, value in raw_golden("text").items() if key != name}


def changed(name: str, value: np.ndarray) -> Golden:
    return {**raw_golden("text"), name: value}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (without("prefill_logits"), "no array 'prefill_logits'"),
        (changed("input_ids", np.zeros(27)), "whole numbers of 1"),
        (changed("input_ids", np.zeros((1, 27), np.int64)), "input_ids is int64 of 2 dimensions"),
        (changed("prefill_logits", np.zeros((27, 319), np.float32)), r"shape \[27, 319\].*need \[27, 320\]"),
        (changed("decode_logits", np.zeros((4, 320), np.float32)), r"need \[5, 320\]"),
        (changed("grid_hw", np.zeros((2, 3), np.int64)), r"must be \[pictures, 2\]"),
        (changed("grid_hw", np.array([[4, 4]])), r"pixel_values has shape \[0, 768\]"),
        (changed("grid_hw", np.array([[3, 4]])), "merged 2x2"),
        (changed("indexes", np.zeros((3, 20), np.int64)), r"indexes has shape \[3, 20\]"),
        (changed("decode_tokens", np.zeros(0, np.int64)), "decode_logits has shape"),
    ],
)
def test_a_golden_file_that_does_not_fit_is_refused_by_name(
    backend: NumpyBackend, tmp_path: Path, arrays: Golden, message: str
) -> None:
    path = tmp_path / "case.npz"
    np.savez(path, **arrays)
    with pytest.raises(NeoEdgeError, match=message):
        read_golden(path, backend.config)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _zip(name: str, body: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, body)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an archive",
        (GOLDEN / "text.npz").read_bytes()[:5000],
        _npy(np.zeros(3)),
        _zip("input_ids.npy", _npy(np.array([{"a": 1}], dtype=object))),
        _zip("input_ids.npy", b"\x93NUMPY\x01\x00\xff\xff"),
        _zip("input_ids.npy", _npy(np.zeros(4))[:-8]),
    ],
)
def test_a_broken_golden_file_is_a_typed_error(backend: NumpyBackend, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "broken.npz"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"broken\.npz"):
        read_golden(path, backend.config)


def test_a_missing_golden_file_is_a_typed_error(backend: NumpyBackend, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_golden(tmp_path / "none.npz", backend.config)

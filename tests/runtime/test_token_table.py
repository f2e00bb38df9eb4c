"""The int8 token table: rows of int8 with a scale each, looked up as float."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import tiny_manifest, write_files

from neo_edge.bundle import BundleWriter, open_bundle
from neo_edge.config import load_config
from neo_edge.errors import BundleCorruptError
from neo_edge.manifest import CacheDtype, Manifest, TableDtype, TokenEmbedding, parse_manifest
from neo_edge_runtime.token_table import map_token_table

TABLE, SCALE = "fp32/token_embedding.bin", "fp32/token_embedding_scale.bin"
VALUES = np.random.default_rng(0).integers(-127, 128, (320, 64)).astype(np.int8)
SCALES = np.linspace(0.01, 1, 320, dtype=np.float32)


def with_table(golden: Path, table: TokenEmbedding, cache_dtype: CacheDtype = "float32") -> Manifest:
    manifest = tiny_manifest(load_config(golden))
    variant = replace(manifest.variants["fp32"], token_embedding=table, cache_dtype=cache_dtype)
    return replace(manifest, variants={"fp32": variant})


def write(target: Path, manifest: Manifest, scales: np.ndarray = SCALES) -> None:
    with BundleWriter(target) as writer:
        write_files(writer.directory)
        VALUES.tofile(writer.directory / TABLE)
        scales.tofile(writer.directory / SCALE)
        writer.commit(manifest)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_row_is_its_values_times_its_scale_in_the_type_of_the_graph(
    golden_tiny: Path, tmp_path: Path, dtype: CacheDtype
) -> None:
    write(
        tmp_path / "b",
        with_table(golden_tiny, TokenEmbedding(TABLE, "int8", (320, 64), SCALE), cache_dtype=dtype),
    )
    bundle = open_bundle(tmp_path / "b", verify="sha256")
    table = map_token_table(bundle, bundle.variant("fp32"))
    wanted = (VALUES * SCALES[:, None]).astype(dtype)
    assert len(table) == 320
    assert table.shape == (320, 64)
    assert table.dtype == table[7].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(table[319], wanted[319])
    np.testing.assert_array_equal(table[[5, 5, 0]], wanted[[5, 5, 0]])
    np.testing.assert_array_equal(table[np.array([[1, 2], [3, 4]])], wanted[[[1, 2], [3, 4]]])


def test_a_float_table_is_the_mapped_rows_themselves(golden_tiny: Path, tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b") as writer:
        write_files(writer.directory)
        writer.commit(tiny_manifest(load_config(golden_tiny)))
    bundle = open_bundle(tmp_path / "b")
    table = map_token_table(bundle, bundle.variant("fp32"))
    assert isinstance(table, np.ndarray)
    assert table.dtype == np.float32


def test_the_manifest_keeps_the_scale_file(golden_tiny: Path, tmp_path: Path) -> None:
    wanted = TokenEmbedding(TABLE, "int8", (320, 64), SCALE)
    write(tmp_path / "b", with_table(golden_tiny, wanted))
    manifest = open_bundle(tmp_path / "b").manifest
    assert parse_manifest(manifest.to_json()).variants["fp32"].token_embedding == wanted
    assert manifest.variants["fp32"].referenced_files[-2:] == (TABLE, SCALE)


@pytest.mark.parametrize(
    ("dtype", "scale", "message"), [("int8", None, "has no scale_file"), ("float16", SCALE, "has a")]
)
def test_int8_needs_scales_and_no_other_type_takes_them(
    golden_tiny: Path, tmp_path: Path, dtype: TableDtype, scale: str | None, message: str
) -> None:
    with pytest.raises(BundleCorruptError, match=message):
        write(tmp_path / "b", with_table(golden_tiny, TokenEmbedding(TABLE, dtype, (320, 64), scale)))


def test_a_scale_file_of_another_length_is_refused(golden_tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleCorruptError, match=r"token_embedding_scale.bin' has 1276 bytes .* needs 1280"):
        write(
            tmp_path / "b",
            with_table(golden_tiny, TokenEmbedding(TABLE, "int8", (320, 64), SCALE)),
            SCALES[:-1],
        )

"""The comparison with the reference sees every weight of the written files, whole or a few layers at a time."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from neo_edge.bundle import Bundle
from neo_edge.checkpoint import Checkpoint
from neo_edge.errors import InputError, ParityError
from neo_edge_export.graph_comparison import Check
from neo_edge_export.layer_window import cut_decoder
from neo_edge_export.verification import Verification, compared_layers, require_parity, verify

KINDS = {"visual tokens", "whole prefill", "chunked prefill", "decode"}


@pytest.fixture
def copied(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_bundle.root, tmp_path / "copy")


def damage(folder: Path, weight: str) -> None:
    """Sets the middle row of one external tensor to zero."""
    model = onnx.load(folder / "decoder.onnx", load_external_data=False)
    (tensor,) = (each for each in model.graph.initializer if each.name == weight)
    place = {entry.key: entry.value for entry in tensor.external_data}
    row_bytes = tensor.dims[1] * (2 if tensor.data_type == onnx.TensorProto.FLOAT16 else 4)
    with (folder / place["location"]).open("r+b") as file:
        file.seek(int(place["offset"]) + tensor.dims[0] // 2 * row_bytes)
        file.write(bytes(row_bytes))


@pytest.mark.parametrize("layers_at_once", [None, 1, 2])
def test_sound_files_pass_in_every_window(
    tiny_bundle: Bundle, tiny: Checkpoint, copied: Path, layers_at_once: int | None
) -> None:
    before = sorted(path.name for path in copied.rglob("*"))
    found = verify(copied, tiny_bundle.manifest, tiny, layers_at_once=layers_at_once)
    require_parity(found)
    assert set(found) == {"fp32", "fp32-portable", "fp16", "fp16-portable"}
    for verification in found.values():
        assert {check.of for check in verification.checks} - {"activations"} == KINDS
        assert verification.layers_at_once == (layers_at_once or 3)
    assert sorted(path.name for path in copied.rglob("*")) == before


@pytest.mark.parametrize("layers_at_once", [None, 1])
@pytest.mark.parametrize(
    ("variant", "weight"),
    [
        ("fp32", "layers.2.self_attn.k_proj_hw.weight"),
        ("fp32-portable", "layers.0.mlp.down_proj.weight"),
        ("fp16", "layers.1.self_attn.v_proj.weight"),
        ("fp16-portable", "lm_head.weight"),
    ],
)
def test_one_damaged_row_of_one_weight_is_found(
    tiny_bundle: Bundle, tiny: Checkpoint, copied: Path, variant: str, weight: str, layers_at_once: int | None
) -> None:
    damage(copied / variant, weight)
    manifest = replace(tiny_bundle.manifest, variants={variant: tiny_bundle.variant(variant)})
    found = verify(copied, manifest, tiny, layers_at_once=layers_at_once)
    with pytest.raises(ParityError, match=f"{variant}: whole prefill .* no bundle was made"):
        require_parity(found)


def test_a_slice_sees_its_own_layers_and_no_others(
    tiny_bundle: Bundle, tiny: Checkpoint, copied: Path
) -> None:
    damage(copied / "fp32", "layers.2.mlp.down_proj.weight")
    manifest = replace(tiny_bundle.manifest, variants={"fp32": tiny_bundle.variant("fp32")})
    found = verify(copied, manifest, tiny, layers_at_once=1, only=range(2))
    require_parity(found)
    assert found["fp32"].layers == range(2)
    assert '"layers": [0, 2]' in json.dumps(found["fp32"].to_json())
    with pytest.raises(ParityError):
        require_parity(verify(copied, manifest, tiny, only=range(1, 3)))


@pytest.mark.parametrize("only", [range(2, 4), range(1, 1), range(-1, 2)])
def test_a_slice_of_layers_that_are_not_there_is_refused(only: range, tiny: Checkpoint) -> None:
    with pytest.raises(InputError, match=rf"{only.start}:{only.stop} cannot be compared: the model has 0:3"):
        compared_layers(tiny.config, only)


def test_a_result_that_is_not_a_number_never_passes() -> None:
    assert not Check("decode", math.nan, 1e-4).passed
    with pytest.raises(ParityError, match="fp32: decode nan, allowed"):
        require_parity({"fp32": Verification([Check("decode", math.nan, 1e-4)], 3, range(3), "1.0")})


@pytest.mark.parametrize("variant", ["fp32", "fp32-portable"])
def test_a_cut_decoder_is_a_decoder_of_fewer_layers(copied: Path, variant: str) -> None:
    cut = copied / variant / "cut.onnx"
    cut_decoder(copied / variant / "decoder.onnx", range(1, 3), cut)
    session = ort.InferenceSession(cut, providers=["CPUExecutionProvider"])
    caches = [each.name for each in session.get_inputs()[5:]]
    assert caches == ["key_cache.0", "key_cache.1", "value_cache.0", "value_cache.1"]
    assert len(session.get_outputs()) == 5
    weights = {tensor.name for tensor in onnx.load(cut, load_external_data=False).graph.initializer}
    assert not any(name.startswith("layers.0.") for name in weights)
    assert any(name.startswith("layers.2.") for name in weights)

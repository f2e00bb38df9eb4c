from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors_writer import write_safetensors

from neo_edge.checkpoint import (
    EMBEDDING,
    LM_HEAD,
    expected_tensors,
    open_checkpoint,
    resolve_checkpoint,
)
from neo_edge.config import load_config
from neo_edge.errors import CheckpointError, ConfigError, UnsupportedArchitectureError, WeightsError

Tensors = dict[str, np.ndarray]
NORM = "language_model.model.norm.weight"


@pytest.fixture(scope="session")
def tensors(golden_tiny: Path) -> Tensors:
    return load_file(golden_tiny / "model.safetensors")


@pytest.fixture
def save(golden_tiny: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a checkpoint of one file, or of shards with an index, and gives its directory."""

    def write(*shards: Tensors, tied: bool = False, index: dict[str, str] | None = None) -> Path:
        config = json.loads((golden_tiny / "config.json").read_text())
        config["llm_config"]["tie_word_embeddings"] = tied
        (tmp_path / "config.json").write_text(json.dumps(config))
        if len(shards) == 1 and index is None:
            write_safetensors(tmp_path / "model.safetensors", shards[0])
            return tmp_path
        weight_map = {}
        for number, shard in enumerate(shards, start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            write_safetensors(tmp_path / file, shard)
            weight_map |= dict.fromkeys(shard, file)
        text = json.dumps({"metadata": {}, "weight_map": weight_map if index is None else index})
        (tmp_path / "model.safetensors.index.json").write_text(text)
        return tmp_path

    return write


def without(tensors: Tensors, *names: str) -> Tensors:
    return {name: array for name, array in tensors.items() if name not in names}


def halves(tensors: Tensors) -> tuple[Tensors, Tensors]:
    names = sorted(tensors)
    return {name: tensors[name] for name in names[::2]}, {name: tensors[name] for name in names[1::2]}


def test_the_golden_checkpoint_reads_as_the_library_reads_it(golden_tiny: Path, tensors: Tensors) -> None:
    checkpoint = open_checkpoint(golden_tiny)
    assert set(checkpoint.iter_names()) == tensors.keys()
    for name in checkpoint.iter_names():
        np.testing.assert_array_equal(checkpoint.read(name), tensors[name])
    np.testing.assert_array_equal(checkpoint.read_rows(EMBEDDING, 3, 7), tensors[EMBEDDING][3:7])


def test_there_are_17_tensors_a_layer_and_7_others(golden_tiny: Path) -> None:
    config = load_config(golden_tiny)
    assert len(expected_tensors(config)) == 17 * config.decoder.num_layers + 7


def test_shards_read_as_one(save: Callable[..., Path], tensors: Tensors) -> None:
    checkpoint = open_checkpoint(save(*halves(tensors)))
    assert len({entry.file for entry in checkpoint.tensors.values()}) == 2
    for name, array in tensors.items():
        np.testing.assert_array_equal(checkpoint.read(name), array)


def test_neo_unify_is_refused_by_name(save: Callable[..., Path], tensors: Tensors) -> None:
    directory = save({name: array for name, array in tensors.items() if "q_proj_hw" not in name})
    with pytest.raises(UnsupportedArchitectureError, match="NEO-unify"):
        open_checkpoint(directory)


def test_missing_extra_and_misshapen_tensors_are_listed(save: Callable[..., Path], tensors: Tensors) -> None:
    broken = without(tensors, NORM) | {
        "visitor": np.ones(1, np.float32),
        LM_HEAD: np.ones((2, 3), np.float32),
    }
    with pytest.raises(WeightsError) as caught:
        open_checkpoint(save(broken))
    message = str(caught.value)
    assert f"1 missing: {NORM}" in message
    assert "1 unexpected: visitor" in message
    assert f"1 misshapen: {LM_HEAD} is [2, 3], config.json wants [320, 64]" in message


def test_a_layer_that_lacks_q_proj_hw_is_missing_a_tensor(
    save: Callable[..., Path], tensors: Tensors
) -> None:
    name = "language_model.model.layers.1.self_attn.q_proj_hw.weight"
    with pytest.raises(WeightsError, match=name):
        open_checkpoint(save(without(tensors, name)))


def test_a_long_list_is_counted(save: Callable[..., Path], tensors: Tensors) -> None:
    with pytest.raises(WeightsError, match=r"57 missing: .* and \d+ more"):
        open_checkpoint(save({NORM: tensors[NORM]}))


def test_a_tied_head_may_be_absent_or_stored(save: Callable[..., Path], tensors: Tensors) -> None:
    assert LM_HEAD not in open_checkpoint(save(without(tensors, LM_HEAD), tied=True)).tensors
    assert LM_HEAD not in open_checkpoint(save(tensors, tied=True)).tensors


def test_a_stored_tied_head_of_another_shape_is_refused(save: Callable[..., Path], tensors: Tensors) -> None:
    with pytest.raises(WeightsError, match="misshapen"):
        open_checkpoint(save(tensors | {LM_HEAD: np.ones((5, 5), np.float32)}, tied=True))


def test_an_untied_head_must_be_there(save: Callable[..., Path], tensors: Tensors) -> None:
    with pytest.raises(WeightsError, match=f"1 missing: {LM_HEAD}"):
        open_checkpoint(save(without(tensors, LM_HEAD)))


def test_a_tensor_in_two_shards_is_refused(save: Callable[..., Path], tensors: Tensors) -> None:
    first, second = halves(tensors)
    with pytest.raises(WeightsError, match=f"more than one file: {NORM}"):
        open_checkpoint(save(first | {NORM: tensors[NORM]}, second | {NORM: tensors[NORM]}))


def test_an_index_that_points_nowhere_is_refused(save: Callable[..., Path], tensors: Tensors) -> None:
    directory = save(tensors, index=dict.fromkeys(tensors, "absent.safetensors"))
    with pytest.raises(WeightsError, match=r"do not exist: absent\.safetensors"):
        open_checkpoint(directory)


def test_an_index_that_misplaces_a_tensor_is_refused(save: Callable[..., Path], tensors: Tensors) -> None:
    first, second = halves(tensors)
    files = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    index = dict.fromkeys(first, files[0]) | dict.fromkeys(second, files[1])
    moved = sorted(first)[0]
    with pytest.raises(WeightsError, match=f"not there: {moved}"):
        open_checkpoint(save(first, second, index={**index, moved: files[1]}))


@pytest.mark.parametrize("shard", ["../elsewhere.safetensors", "/etc/passwd", "a/b.safetensors", 3])
def test_an_index_that_leads_elsewhere_is_refused(
    save: Callable[..., Path], tensors: Tensors, shard: str
) -> None:
    with pytest.raises(WeightsError, match="index"):
        open_checkpoint(save(tensors, index={NORM: shard}))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_a_broken_index_is_refused(golden_tiny: Path, tmp_path: Path, text: str) -> None:
    shutil.copy(golden_tiny / "config.json", tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(WeightsError, match="index"):
        open_checkpoint(tmp_path)


def test_a_directory_without_weights_says_which_files_it_wants(golden_tiny: Path, tmp_path: Path) -> None:
    shutil.copy(golden_tiny / "config.json", tmp_path)
    with pytest.raises(WeightsError, match=r"neither model\.safetensors nor"):
        open_checkpoint(tmp_path)


def test_a_directory_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        open_checkpoint(tmp_path / "nowhere")


def test_an_unknown_tensor_is_a_typed_error(golden_tiny: Path) -> None:
    with pytest.raises(WeightsError, match="no tensor 'lm_head'"):
        open_checkpoint(golden_tiny).read("lm_head")


def test_the_digest_changes_with_a_weight_and_only_then(
    golden_tiny: Path, save: Callable[..., Path], tensors: Tensors
) -> None:
    digest = open_checkpoint(golden_tiny).digest()
    assert digest == open_checkpoint(golden_tiny).digest()
    assert digest != open_checkpoint(save(tensors | {NORM: tensors[NORM] + 1})).digest()


def test_a_path_is_a_checkpoint_and_an_unknown_name_is_not(tmp_path: Path) -> None:
    assert resolve_checkpoint(tmp_path) == tmp_path
    with pytest.raises(CheckpointError, match="shipped"):
        resolve_checkpoint("no-such-model")

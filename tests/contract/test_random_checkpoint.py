from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections import namedtuple
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from neo_edge import random_checkpoint
from neo_edge.checkpoint import INDEX_FILE, LM_HEAD, expected_tensors, open_checkpoint
from neo_edge.checkpoint_presets import PRESETS, WEIGHT_DTYPES, WeightDtype, preset_config
from neo_edge.cli import main
from neo_edge.config import parse_config
from neo_edge.errors import CheckpointError, ConfigError, InputError
from neo_edge.random_checkpoint import RandomWeights, write_random_checkpoint

Q_PROJ = "language_model.model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(("preset", "parameters"), [("2b", 2_896_618_496), ("9b", 10_246_797_312)])
def test_published_sizes_have_the_published_number_of_parameters(preset: str, parameters: int) -> None:
    shapes = expected_tensors(parse_config(preset_config(preset)))
    assert sum(map(math.prod, shapes.values())) == parameters


def test_the_500m_has_24_layers_of_which_8_are_pre_buffer() -> None:
    raw = preset_config("500m")
    decoder = parse_config(raw).decoder
    assert (decoder.hidden_size, decoder.intermediate_size, decoder.num_layers) == (1024, 3072, 24)
    assert (decoder.num_heads, decoder.num_kv_heads, decoder.head_dim) == (16, 8, 64)
    assert decoder.vocab_size == 151936
    assert raw["llm_config"]["extra_num_layers"] == 8


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "tiny"])
def test_full_vocabularies_have_upstreams_special_tokens(preset: str) -> None:
    raw = preset_config(preset)
    ids = [raw[f"img_{name}_token_id"] for name in ("context", "start", "end")]
    assert [*ids, raw["llm_config"]["eos_token_id"]] == [151669, 151670, 151671, 151645]


def test_layers_cut_the_depth_and_keep_the_widths() -> None:
    raw = preset_config("9b", layers=3)
    assert parse_config(raw).decoder.num_layers == raw["llm_config"]["extra_num_layers"] == 3
    assert raw["llm_config"]["hidden_size"] == 4096
    for wrong in (0, -1):
        with pytest.raises(InputError, match="1 or more"):
            preset_config("9b", layers=wrong)
    with pytest.raises(InputError, match="tiny, 500m, 2b, 9b"):
        preset_config("7b")


@pytest.mark.parametrize("dtype", WEIGHT_DTYPES)
def test_the_safetensors_library_reads_what_is_written(tmp_path: Path, dtype: WeightDtype) -> None:
    raw = preset_config("tiny", dtype=dtype)
    ours = write_random_checkpoint(tmp_path / "x", raw, dtype=dtype)
    with safe_open(tmp_path / "x" / "model.safetensors", framework="pt") as file:
        assert list(file.keys()) == sorted(ours.tensors)
        for name in file.keys():  # noqa: SIM118 - not a dict
            theirs = file.get_tensor(name)
            assert str(theirs.dtype) == f"torch.{dtype}"
            assert np.array_equal(theirs.float().numpy(), ours.read(name).astype(np.float32))


def test_shards_hold_each_tensor_once_and_an_index_says_where(tmp_path: Path) -> None:
    raw = preset_config("tiny")
    one = write_random_checkpoint(tmp_path / "one", raw)
    many = write_random_checkpoint(tmp_path / "many", raw, shard_bytes=60_000)
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 5
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "many" / INDEX_FILE).read_text())
    assert index["metadata"]["total_size"] == sum(entry.size_bytes for entry in many.tensors.values())
    assert {name: entry.file.name for name, entry in many.tensors.items()} == index["weight_map"]
    assert all(np.array_equal(one.read(name), many.read(name)) for name in one.tensors)


def test_the_seed_decides_the_numbers_and_each_tensor_has_its_own(tmp_path: Path) -> None:
    first, again, other = (
        write_random_checkpoint(tmp_path / name, preset_config("tiny"), seed=seed)
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert first.digest() == again.digest() != other.digest()
    keys = [first.read(Q_PROJ.replace("q_proj", name)) for name in ("k_proj", "k_proj_hw", "v_proj")]
    assert not any(np.array_equal(one, two) for one, two in pairwise(keys))


def test_a_slice_of_layers_repeats_the_first_ones(tmp_path: Path) -> None:
    whole = write_random_checkpoint(tmp_path / "a", preset_config("tiny"))
    cut = write_random_checkpoint(tmp_path / "b", preset_config("tiny", layers=2))
    assert np.array_equal(whole.read(Q_PROJ), cut.read(Q_PROJ))


def test_numbers_are_drawn_in_blocks_of_the_stated_spread() -> None:
    config = parse_config(preset_config("2b", layers=1))
    weights = RandomWeights(config, "float32")
    name, shape = "language_model.model.layers.0.mlp.down_proj.weight", (64, 6144)
    mean, spread = weights.distribution(name, shape)
    blocks = list(weights.blocks(name, shape))
    assert len(blocks) > 1
    numbers = np.concatenate(blocks)
    assert numbers.size == math.prod(shape)
    assert abs(numbers.mean() - mean) < 0.01 * spread
    assert abs(numbers.std() / spread - 1) < 0.01
    assert spread == pytest.approx((6144 * 2) ** -0.5)


def test_bfloat16_is_rounded_to_the_nearest() -> None:
    config = parse_config(preset_config("tiny"))
    exact = np.concatenate(list(RandomWeights(config, "float32").blocks(LM_HEAD, (320, 64))))
    bits = np.concatenate(list(RandomWeights(config, "bfloat16").blocks(LM_HEAD, (320, 64))))
    rounded = (bits.astype(np.uint32) << 16).view(np.float32)
    assert np.all(np.abs(rounded - exact) <= np.abs(exact) * 2.0**-8)
    assert abs(float((rounded - exact).mean())) < 1e-6  # cutting the bits off would pull all towards zero


def test_a_target_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(CheckpointError, match="exists already"):
        write_random_checkpoint(tmp_path / "x", preset_config("tiny"))
    assert os.listdir(tmp_path) == ["x"]
    assert os.listdir(tmp_path / "x") == []


def test_a_target_that_appears_meanwhile_is_left_alone(tmp_path: Path) -> None:
    def appear(_: int) -> None:
        (tmp_path / "x").mkdir(exist_ok=True)

    with pytest.raises(CheckpointError, match="exists already"):
        write_random_checkpoint(tmp_path / "x", preset_config("tiny"), on_bytes=appear)
    assert os.listdir(tmp_path) == ["x"]
    assert os.listdir(tmp_path / "x") == []


def test_too_little_room_is_refused_with_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")(10**12, 10**12 - 3 * 2**30, 3 * 2**30)
    monkeypatch.setattr(random_checkpoint.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match=r"takes 5\.4 GiB \(57\d{8} bytes\).*has 3 GiB free: free some"):
        write_random_checkpoint(tmp_path / "x", preset_config("2b"))
    assert os.listdir(tmp_path) == []


def test_an_error_or_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):

        def fail(_: int, error: BaseException = error) -> None:
            raise error

        with pytest.raises((CheckpointError, KeyboardInterrupt)):
            write_random_checkpoint(tmp_path / "x", preset_config("tiny"), on_bytes=fail)
        assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="no checkpoint can be written"):
        write_random_checkpoint(tmp_path / "file" / "x", preset_config("tiny"))


def test_what_a_killed_run_leaves_does_not_open(tmp_path: Path) -> None:
    code = """if True:
        import sys, time
        from pathlib import Path
        from neo_edge.checkpoint_presets import preset_config
        from neo_edge.random_checkpoint import write_random_checkpoint
        def stay(written):
            print("in the middle", flush=True)
            time.sleep(1000)
        write_random_checkpoint(Path(sys.argv[1]), preset_config("tiny"), on_bytes=stay)
    """
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "x")], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "in the middle\n"
        child.send_signal(signal.SIGKILL)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".x.partial-")
    with pytest.raises(ConfigError):
        open_checkpoint(left)


def test_the_verb_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["make-checkpoint", "--preset", "tiny", "--layers", "2", "--seed", "7", "--dtype", "float16"]
    assert main([*arguments, "-o", str(tmp_path / "x")]) == 0
    printed = capsys.readouterr()
    assert "in 41 tensors" in printed.out
    assert "it has no tokenizer" in printed.out
    assert "writing weights" in printed.err
    assert main([*arguments, "-o", str(tmp_path / "y"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    opened = open_checkpoint(tmp_path / "y")
    assert report["size_bytes"] == sum(entry.size_bytes for entry in opened.tensors.values())
    assert (report["layers"], report["files"]) == (2, ["model.safetensors"])
    assert opened.digest() == open_checkpoint(tmp_path / "x").digest()
    assert main([*arguments, "-o", str(tmp_path / "y")]) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [["--preset", "7b"], ["--preset", "tiny", "--seed", "-1"], ["--preset", "tiny", "--dtype", "int8"], []],
)
def test_the_verb_refuses_wrong_arguments(wrong: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["make-checkpoint", *wrong, "-o", str(tmp_path / "x")])
    assert raised.value.code == 2
    assert os.listdir(tmp_path) == []

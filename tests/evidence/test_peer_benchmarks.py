"""What is pure in the scripts of benchmarks/: shapes, recipes, pins and tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
from modelopt_worker import TokenRows
from peer_environment import PEERS, PeerEnvironment
from plain_model import plain_widths, plainly_rounded
from quantizer_table import Bits, Row, accuracy_head, accuracy_line, speed_head, speed_line, verdicts
from qwen3_gguf import Widths, product_shapes, qwen3_tensors

from neo_edge.checkpoint_presets import preset_config
from neo_edge.config import load_config
from neo_edge_export.quantization.recipe import recipe_from
from neo_edge_export.quantization.recipes import RECIPES

WIDTHS = Widths(hidden=64, heads=4, kv_heads=2, head_dim=16, mlp=160, vocab=320, layers=3)
EIGHT = Bits(8, 8, 8)
OWN = Row(
    "**neo_edge int8**", "int8", Bits(8, 8, 8, 8), ours=True, making_s=2.4, accuracy=0.9975, drop=0.0025,
    interval=(-0.001, 0.006), same_token=0.985, kl_mean=1e-4, kl_p99=2e-3, graph_bytes=3_000_000,
)  # fmt: skip


def test_a_plain_qwen3_has_eleven_tensors_a_layer_and_three_beside() -> None:
    tensors = dict(qwen3_tensors(WIDTHS))
    assert len(tensors) == 3 * 11 + 3
    assert tensors["token_embd.weight"] == tensors["output.weight"] == (320, 64)
    assert tensors["blk.2.attn_q.weight"] == (64, 64)
    assert tensors["blk.0.attn_k.weight"] == tensors["blk.0.attn_v.weight"] == (32, 64)
    assert tensors["blk.1.ffn_down.weight"] == (64, 160)
    assert tensors["blk.1.attn_k_norm.weight"] == (16,)


def test_the_products_of_a_step_are_the_matrices_but_the_token_table() -> None:
    shapes = list(product_shapes(WIDTHS))
    assert len(shapes) == 3 * 7 + 1
    assert [shape for shape in shapes if shape[2]] == [(64, 320, True)]
    assert (160, 64, False) in shapes
    assert all(name == "token_embd.weight" or len(shape) == 1 or (*shape[::-1], name[:6] == "output") in shapes
               for name, shape in qwen3_tensors(WIDTHS))  # fmt: skip


def test_widths_survive_the_command_line() -> None:
    assert Widths.from_json(WIDTHS.to_json()) == WIDTHS


def test_the_peer_has_the_widths_of_2b(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(preset_config("2b", layers=4)), encoding="utf-8")
    config = load_config(tmp_path)
    assert plain_widths(config.decoder) == Widths(2048, 16, 8, 128, 6144, 151936, 4)


@pytest.mark.parametrize("name", ["int8-dynamic", "int4"])
def test_a_recipe_without_calibration_has_the_schemes_and_groups_of_the_one_that_ships(name: str) -> None:
    shipped = RECIPES[name]
    plain = recipe_from(plainly_rounded(shipped, name, shipped.layers), "here")
    assert not plain.needs_calibration
    assert plain.layers == tuple(replace(rule, rounding="nearest") for rule in shipped.layers)


def test_an_environment_is_ready_only_with_its_own_pins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("peer_environment.PEERS", tmp_path)
    one = PeerEnvironment("peer", ("numpy==2.4.6",), without_dependencies=("other==1",))
    assert one.folder == tmp_path / "peer" != PEERS / "peer"
    assert not one.is_ready
    one.folder.mkdir()
    (one.folder / "ready.txt").write_text(one.pins, encoding="utf-8")
    assert one.is_ready
    assert not replace(one, requirements=("numpy==2.4.7",)).is_ready
    assert not replace(one, without_dependencies=()).is_ready


def test_the_table_has_a_line_a_variant_and_says_why_one_is_missing() -> None:
    refused = Row("peer", "int8", EIGHT, ours=False, making_s=3.2, refused="does not run: a | b")
    head, rule = accuracy_head()
    own, other = accuracy_line(OWN), accuracy_line(refused)
    assert head.count("|") == rule.count("|") == own.count("|") == other.count("|")
    assert own == (
        "| **neo_edge int8** | 8/8/8/8 | 99.75% | 0.25 (-0.10 to 0.60) | 98.50% | 1.00e-04 | 2.00e-03 | 3.00 | 2 |"
    )
    assert other == "| peer | 8/8/8/32 | does not run: a / b | | | | | | 3 |"


def test_times_are_told_in_milliseconds() -> None:
    head, rule = speed_head()
    line = speed_line("float32", 0.0012, 0.034)
    assert head.count("|") == rule.count("|") == line.count("|")
    assert line == "| float32 | 1.20 | 34.0 |"


def test_awq_gets_all_prompts_as_rows_of_tokens_and_runs_the_graph_once_a_prompt() -> None:
    session = _TwoProducts()
    rows = TokenRows(session, ["logits"])
    prompts = [{"inputs_embeds": np.zeros((1, length, 2), np.float32)} for length in (3, 5)]
    for name in ("first", "second"):
        joined = np.concatenate([rows.run([name], prompt)[0] for prompt in prompts])
        assert joined.shape == (8, 2)
    assert session.asked == [["first", "second"]] * 2


def test_a_peer_that_is_nearer_to_float_is_named() -> None:
    near, far = (
        replace(OWN, shown=name, bits=EIGHT, ours=False, kl_mean=kl)
        for name, kl in (("near", 5e-5), ("far", 1e-2))
    )
    assert verdicts([OWN, far]) == (
        [
            "  neo_edge int8 (8/8/8/8 bits): the nearest peer, far (8/8/8/32 bits), has 100.00 times its KL divergence"
        ],
        False,
    )
    found, behind = verdicts([OWN, near, far])
    assert behind
    assert found == [
        "  neo_edge int8 (8/8/8/8 bits) is LESS ACCURATE than near (8/8/8/32 bits), which has 0.50 times its KL "
        "divergence"
    ]


def test_peers_of_other_bits_and_those_that_do_not_run_are_not_compared() -> None:
    other = replace(OWN, shown="four", kind="int4", ours=False, kl_mean=1e-9)
    refused = Row("peer", "int8", EIGHT, ours=False, making_s=0, refused="no")
    assert verdicts([OWN, other, refused]) == ([], False)


class _TwoProducts:
    """A session whose products' inputs are the embeddings."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in ("logits", "first", "second")]

    def run(
        self, names: list[str], feed: dict[str, npt.NDArray[np.float32]]
    ) -> list[npt.NDArray[np.float32]]:
        self.asked.append(names)
        return [feed["inputs_embeds"] for _ in names]

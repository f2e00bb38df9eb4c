"""Quantizing that is killed at random moments; `tests/evidence/killed_updates.py` kills the program itself."""

from __future__ import annotations

import shutil
from pathlib import Path

from bundle_leftovers import leftovers
from killed_quantizing import RECIPE, killed_quantizing
from killing import in_a_fresh_process

from neo_edge.bundle import Bundle, open_bundle

KILLS, SEED = 12, 20261123


def test_killed_at_random_moments_the_bundle_is_whole_and_the_next_run_works_and_clears_up(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(tiny_bundle.root, tmp_path / "robot.bundle"))
    before = list(tiny_bundle.manifest.variants)
    found = in_a_fresh_process(killed_quantizing, root, KILLS, SEED)
    assert [left.variants for left in found] == [[*before, RECIPE.name]] * KILLS
    assert sum(left.finished for left in found) < KILLS / 2
    assert any(left.half_made for left in found)
    assert not any(left.half_made for left in found if left.finished)
    assert leftovers(root) == []
    manifest = open_bundle(root).manifest
    assert {path.name for path in root.iterdir() if path.is_dir()} == {
        *before,
        manifest.variants[RECIPE.name].decoder.split("/")[0],
    }

"""A process that is killed at random moments of an export.

30 moments of a fork that has torch and the traced graph, so from the first write to the rename; and 2 of the program
itself, from its start to its end. `tests/evidence/killed_exports.py` has 60 of those.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from killed_export import killed_exports
from killed_exports import kill_exports
from killing import in_a_fresh_process
from tiny_bundle import write_bundle, write_files

from neo_edge.bundle import BundleWriter, open_bundle, verify_bundle
from neo_edge.config import load_config
from neo_edge.errors import BundleError

KILLS, KILLED_PROGRAMS, SEED = 30, 2, 20261122


def test_the_program_killed_at_any_moment_leaves_nothing_half_written_and_the_next_export_works(
    checkpoint: Path, tmp_path: Path
) -> None:
    found = kill_exports(checkpoint, tmp_path, KILLED_PROGRAMS, SEED)
    assert found.half_written == []
    assert sum(found.phases.values()) == len(found.moments_s) == KILLED_PROGRAMS
    assert found.finished < KILLED_PROGRAMS


def test_an_export_killed_at_30_random_moments_leaves_nothing_that_loads_and_the_next_one_works(
    checkpoint: Path, tmp_path: Path
) -> None:
    after_kills = in_a_fresh_process(killed_exports, checkpoint, tmp_path, KILLS, SEED)
    assert len(after_kills) == KILLS
    finished = 0
    for left in after_kills:
        partial = [name for name in left.names if ".partial-" in name]
        # At most the last one's leftovers: each export removes those of the one before.
        assert len(partial) <= 1
        # What loads was whole: the child had finished, or had just given the bundle its name.
        assert left.loads in ([], ["robot.bundle"])
        finished += left.loads != []
    assert finished < KILLS / 2
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    verify_bundle(tmp_path / "robot.bundle")


def test_what_a_killed_export_left_is_removed_by_the_next(checkpoint: Path, tmp_path: Path) -> None:
    left = tmp_path / ".robot.bundle.partial-1234"
    write_files(left)
    with pytest.raises(BundleError, match="did not finish"):
        open_bundle(left)
    write_bundle(tmp_path / "robot.bundle", load_config(checkpoint))
    assert [path.name for path in tmp_path.iterdir()] == ["robot.bundle"]


def test_an_export_that_still_runs_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "robot.bundle") as slow:
        write_files(slow.directory)
        write_bundle(tmp_path / "robot.bundle", load_config(checkpoint))
        assert slow.directory.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["robot.bundle"]


def test_leftovers_of_another_target_are_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    left = tmp_path / ".other.bundle.partial-1234"
    write_files(left)
    write_bundle(tmp_path / "robot.bundle", load_config(checkpoint))
    assert left.is_dir()


def test_a_bundle_whose_replacement_was_killed_between_two_renames_comes_back(
    checkpoint: Path, tmp_path: Path
) -> None:
    config = load_config(checkpoint)
    write_bundle(tmp_path / "robot.bundle", config)
    old = tmp_path / ".robot.bundle.old-1234"
    old.mkdir()
    (tmp_path / "robot.bundle").rename(old / "bundle")
    with pytest.raises(BundleError, match="exists already"):
        write_bundle(tmp_path / "robot.bundle", config)
    verify_bundle(tmp_path / "robot.bundle")
    assert not old.exists()


def test_of_two_that_replace_a_bundle_at_once_one_wins_whole(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other takes the name just when this one has moved the old bundle out of the way."""
    config, target = load_config(checkpoint), tmp_path / "robot.bundle"
    write_bundle(target, config)
    rename = Path.rename

    def raced(self: Path, to: Path) -> Path:
        moved = rename(self, to)
        if self == target:
            monkeypatch.undo()
            write_bundle(target, config)
        return moved

    monkeypatch.setattr(Path, "rename", raced)
    with pytest.raises(BundleError, match="choose another target"):
        write_bundle(target, config, overwrite=True)
    verify_bundle(target)
    assert [path.name for path in tmp_path.iterdir()] == ["robot.bundle"]

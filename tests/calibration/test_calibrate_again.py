from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from calibration_bundle import STATISTICS, leftovers, linked_copy, questions, quick_calibrate
from killed_calibration import calibrate_killed_at
from killing import in_a_fresh_process

from neo_edge.bundle import open_bundle, verify_bundle
from neo_edge.bundle_update import BundleUpdate
from neo_edge.errors import (
    BundleError,
    CalibrationError,
    StaleCalibrationError,
)
from neo_edge.folder_lock import FolderLock
from neo_edge_calibration import calibrate, load_statistics
from neo_edge_calibration.observation.run_state import STATE
from neo_edge_calibration.question import Question


def test_statistics_of_another_bundle_are_refused_and_made_anew(nano: Path) -> None:
    quick_calibrate(nano)
    text = (nano / "bundle.json").read_text()
    digest = str(open_bundle(nano).manifest.provenance["checkpoint_sha256"])
    (nano / "bundle.json").write_text(text.replace(digest, "0" * 64))
    with pytest.raises(
        StaleCalibrationError, match=f"is of checkpoint {digest[:12]} and the bundle .* of 0000"
    ):
        load_statistics(open_bundle(nano))
    assert not quick_calibrate(nano).reused
    assert load_statistics(open_bundle(nano)).checkpoint_digest == "0" * 64


def test_an_interrupted_run_goes_on_where_it_was(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neo_edge_calibration.observation import gathering

    loaded: list[str] = []
    real = gathering.BlockRunner

    class Interrupted(real):  # type: ignore[valid-type,misc]
        def __init__(self, block: object, *, threads: int) -> None:
            if len(loaded) == 4:
                raise KeyboardInterrupt
            loaded.append("block")
            super().__init__(block, threads=threads)

    monkeypatch.setattr(gathering, "BlockRunner", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        quick_calibrate(nano)
    verify_bundle(nano)
    (left,) = leftovers(nano)
    assert left.startswith(STATE)
    done = sorted(name for name in os.listdir(nano / left) if name.endswith(".safetensors"))
    assert done == ["layer 0.safetensors", "layer 1.safetensors", "layer 2.safetensors", "vision.safetensors"]
    assert [name for name in os.listdir(nano / left) if name.startswith("hidden.")] == ["hidden.3"]
    loaded[:] = ["block"] * 5  # so that nothing interrupts again
    quick_calibrate(nano)
    assert len(loaded) == 5 + 4  # layers 3, 4 and 5, and the head
    assert leftovers(nano) == []


def test_what_a_dead_run_of_other_data_left_is_removed(nano: Path) -> None:
    (nano / f"{STATE}0123").mkdir()
    (nano / f"{STATE}0123" / "hidden.0").write_bytes(b"numbers")
    quick_calibrate(nano)
    assert leftovers(nano) == []


def test_killed_at_random_points_it_gives_the_bytes_of_a_run_that_was_not(
    exported_nano: Path, tmp_path: Path
) -> None:
    whole = linked_copy(exported_nano, tmp_path / "whole.bundle")
    killed = linked_copy(exported_nano, tmp_path / "killed.bundle")
    steps = (0, 1, 3, 4, 6)  # of eight, which are never done twice
    found = in_a_fresh_process(calibrate_killed_at, whole, killed, steps, 5)
    assert [kill.calibrations for kill in found] == [[]] * len(steps)
    assert all(kill.steps >= least for kill, least in zip(found, steps, strict=True))
    verify_bundle(killed)
    assert leftovers(killed) == []
    assert (killed / STATISTICS).read_bytes() == (whole / STATISTICS).read_bytes()


def test_what_was_gathered_stays_when_it_cannot_be_written_yet(nano: Path) -> None:
    with (
        BundleUpdate(open_bundle(nano)),
        pytest.raises(BundleError, match="is being updated by another process"),
    ):
        quick_calibrate(nano)
    (left,) = leftovers(nano)
    assert len(list((nano / left).glob("*.safetensors"))) == 8
    assert not quick_calibrate(nano).reused
    assert leftovers(nano) == []


def test_a_second_run_with_the_same_data_is_refused_while_the_first_one_works(nano: Path) -> None:
    with BundleUpdate(open_bundle(nano)), pytest.raises(BundleError):
        quick_calibrate(nano)
    (left,) = leftovers(nano)
    lock = FolderLock.take(nano / left)
    assert lock is not None
    with pytest.raises(
        CalibrationError, match="is being calibrated with the same data by another process: wait"
    ):
        quick_calibrate(nano)
    assert leftovers(nano) == [left]
    lock.release()
    assert not quick_calibrate(nano).reused


def test_a_disk_too_small_for_the_hidden_states_is_an_error(
    nano: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage(nano)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: real._replace(free=1000))
    with pytest.raises(
        CalibrationError, match="the hidden states of 8 samples need .* MB .* take fewer samples"
    ):
        quick_calibrate(nano)
    assert leftovers(nano) == []


def test_a_bundle_that_cannot_be_written_is_an_error(nano: Path) -> None:
    bundle = open_bundle(nano)
    moved = nano.with_name("moved.bundle")

    def prompts() -> Iterator[Question]:
        yield from questions(4)
        nano.rename(moved)  # pulled away while it is calibrated
        yield from questions(4)

    with pytest.raises(
        BundleError, match=r"cannot be calibrated: .*No such file.*; it is as it was: look at"
    ):
        calibrate(bundle, prompts(), samples=8, threads=1)
    assert verify_bundle(moved).manifest == bundle.manifest

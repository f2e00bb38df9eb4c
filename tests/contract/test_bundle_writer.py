from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_bundle import FILES, tiny_manifest, write_bundle, write_files

from neo_edge.bundle import BundleWriter, open_bundle, verify_bundle
from neo_edge.config import ModelConfig, load_config
from neo_edge.errors import BundleCorruptError, BundleError


@pytest.fixture
def config(golden_tiny: Path) -> ModelConfig:
    return load_config(golden_tiny)


def test_a_commit_gives_the_bundle_its_name_and_leaves_nothing_else(
    tmp_path: Path, config: ModelConfig
) -> None:
    written = write_bundle(tmp_path / "x.bundle", config)
    assert os.listdir(tmp_path) == ["x.bundle"]
    assert verify_bundle(tmp_path / "x.bundle").manifest == written
    assert written.files.keys() == FILES.keys()


def test_missing_parents_are_made(tmp_path: Path, config: ModelConfig) -> None:
    write_bundle(tmp_path / "a" / "b" / "x.bundle", config)
    verify_bundle(tmp_path / "a" / "b" / "x.bundle")


def test_others_may_read_the_bundle_as_far_as_the_umask_says(tmp_path: Path, config: ModelConfig) -> None:
    before = os.umask(0o027)
    try:
        write_bundle(tmp_path / "x.bundle", config)
    finally:
        os.umask(before)
    assert (tmp_path / "x.bundle").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), BundleWriter(tmp_path / "x.bundle") as writer:
        write_files(writer.directory)
        raise error
    assert os.listdir(tmp_path) == []


def test_leaving_without_commit_leaves_nothing(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "x.bundle") as writer:
        write_files(writer.directory)
    assert os.listdir(tmp_path) == []


def test_a_manifest_that_names_files_nobody_wrote_is_not_committed(
    tmp_path: Path, config: ModelConfig
) -> None:
    with pytest.raises(BundleCorruptError, match="no digest"), BundleWriter(tmp_path / "x.bundle") as writer:
        write_files(writer.directory)
        (writer.directory / "fp32/vision.onnx").unlink()
        writer.commit(tiny_manifest(config))
    assert os.listdir(tmp_path) == []


def test_a_link_is_not_committed(tmp_path: Path, config: ModelConfig) -> None:
    with pytest.raises(BundleError, match="is a link"), BundleWriter(tmp_path / "x.bundle") as writer:
        write_files(writer.directory)
        (writer.directory / "extra").symlink_to("/etc/hostname")
        writer.commit(tiny_manifest(config))


def test_a_target_that_exists_is_refused_before_any_work(tmp_path: Path, config: ModelConfig) -> None:
    write_bundle(tmp_path / "x.bundle", config)
    with pytest.raises(BundleError, match="exists already"):
        BundleWriter(tmp_path / "x.bundle")


def test_a_target_that_appears_meanwhile_is_not_touched(tmp_path: Path, config: ModelConfig) -> None:
    target = tmp_path / "x.bundle"
    with pytest.raises(BundleError, match="exists already"), BundleWriter(target) as writer:
        write_files(writer.directory)
        target.mkdir()
        (target / "precious").touch()
        writer.commit(tiny_manifest(config))
    assert os.listdir(tmp_path) == ["x.bundle"]
    assert os.listdir(target) == ["precious"]


def test_overwriting_swaps_the_folder_and_spares_open_files(tmp_path: Path, config: ModelConfig) -> None:
    target = tmp_path / "x.bundle"
    write_bundle(target, config)
    with (target / "fp32/vision.onnx").open("rb") as still_open:
        inode = os.fstat(still_open.fileno()).st_ino
        write_bundle(target, config, overwrite=True)
        assert still_open.read() == FILES["fp32/vision.onnx"]
    assert (target / "fp32/vision.onnx").stat().st_ino != inode
    assert os.listdir(tmp_path) == ["x.bundle"]


def test_overwriting_that_fails_keeps_the_old_bundle(tmp_path: Path, config: ModelConfig) -> None:
    target = tmp_path / "x.bundle"
    write_bundle(target, config)
    with pytest.raises(RuntimeError), BundleWriter(target, overwrite=True) as writer:
        write_files(writer.directory)
        raise RuntimeError
    verify_bundle(target)
    assert os.listdir(tmp_path) == ["x.bundle"]


def test_ctrl_c_between_the_two_renames_keeps_the_old_bundle(
    tmp_path: Path, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x.bundle"
    old = write_bundle(target, config)
    rename = Path.rename

    def interrupted(self: Path, to: Path) -> Path:
        moved = rename(self, to)
        if self == target:
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(target, config, overwrite=True)
    assert verify_bundle(target).manifest == old
    assert os.listdir(tmp_path) == ["x.bundle"]


def test_what_is_no_bundle_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").touch()
    for name in ("home", "home/thesis.txt"):
        with pytest.raises(BundleError, match="no bundle"):
            BundleWriter(tmp_path / name, overwrite=True)
    with pytest.raises(BundleError, match=r"exists|no name"):
        BundleWriter("/", overwrite=True)


def test_a_place_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(BundleError, match="no bundle can be written"),
        BundleWriter(tmp_path / "file" / "x.bundle"),
    ):
        pass


def test_a_writer_is_used_within_its_with_statement(tmp_path: Path, config: ModelConfig) -> None:
    writer = BundleWriter(tmp_path / "x.bundle")
    with pytest.raises(BundleError, match="not open"):
        writer.directory  # noqa: B018
    with writer:
        write_files(writer.directory)
        writer.commit(tiny_manifest(config))
        with pytest.raises(BundleError, match="not open"):
            writer.commit(tiny_manifest(config))


CHILD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from neo_edge.config import load_config
from tiny_bundle import tiny_manifest, write_files
from neo_edge.bundle import BundleWriter
config = load_config(sys.argv[2])
print("ready", flush=True)
while True:
    with BundleWriter(sys.argv[3], overwrite=True) as writer:
        write_files(writer.directory)
        (writer.directory / "large").write_bytes(bytes(1 << 20))
        writer.commit(tiny_manifest(config))
"""


def test_killing_an_export_at_any_point_leaves_whole_bundles_only(tmp_path: Path, golden_tiny: Path) -> None:
    config = load_config(golden_tiny)
    target = tmp_path / "x.bundle"
    arguments = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(golden_tiny), str(target)]
    left_partial = 0
    # Twelve points of time, and as many more as it takes to hit an export in the middle.
    for attempt in range(60):
        if attempt >= 12 and left_partial:
            break
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            time.sleep(0.003 * attempt)
            child.send_signal(signal.SIGKILL)
        for folder in tmp_path.iterdir():
            if folder == target:
                verify_bundle(folder)
            elif ".partial-" in folder.name:
                left_partial += 1
                with pytest.raises(BundleError, match="did not finish"):
                    open_bundle(folder)
    assert left_partial
    write_bundle(target, config, overwrite=target.exists())
    verify_bundle(target)

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_bundle import FILES, write_bundle

from neo_edge.bundle import Bundle, open_bundle, verify_bundle
from neo_edge.bundle_update import STAGING, BundleUpdate
from neo_edge.config import load_config
from neo_edge.errors import BundleCorruptError, BundleError
from neo_edge.folder_lock import FolderLock
from neo_edge.manifest import Calibration, Manifest


@pytest.fixture
def bundle(golden_tiny: Path, tmp_path: Path) -> Bundle:
    write_bundle(tmp_path / "x.bundle", load_config(golden_tiny))
    return open_bundle(tmp_path / "x.bundle")


def _write_variant(directory: Path, folder: str, mark: bytes = b"new ") -> None:
    for relative, content in FILES.items():
        if relative.startswith("fp32/"):
            path = directory / relative.replace("fp32", folder, 1)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content if path.suffix == ".bin" else mark + content)


def _with_variant(manifest: Manifest, name: str, folder: str) -> Manifest:
    old = manifest.variants["fp32"]
    table = replace(old.token_embedding, file=f"{folder}/token_embedding.bin")
    variant = replace(
        old,
        precision=name,
        vision=f"{folder}/vision.onnx",
        decoder=f"{folder}/decoder.onnx",
        token_embedding=table,
    )
    return replace(manifest, variants={**manifest.variants, name: variant})


def _add_variant(bundle: Bundle, name: str = "int8") -> Bundle:
    with BundleUpdate(bundle) as update:
        _write_variant(update.directory, name)
        return update.commit(lambda manifest: _with_variant(manifest, name, name))


def test_a_commit_adds_the_files_and_leaves_nothing_else(bundle: Bundle) -> None:
    updated = _add_variant(bundle)
    assert verify_bundle(bundle.root).manifest == updated.manifest
    assert list(updated.manifest.variants) == ["fp32", "int8"]
    assert updated.manifest.files.keys() == {
        *FILES,
        *(f"int8/{name}" for name in os.listdir(bundle.root / "int8")),
    }
    assert (bundle.root / "int8/decoder.onnx").read_bytes() == b"new " + FILES["fp32/decoder.onnx"]
    assert sorted(os.listdir(bundle.root)) == ["bundle.json", "chat_template.jinja", "fp32", "int8"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_bundle_as_it_was(bundle: Bundle, error: type[BaseException]) -> None:
    with pytest.raises(error), BundleUpdate(bundle) as update:
        _write_variant(update.directory, "int8")
        raise error
    assert verify_bundle(bundle.root).manifest == bundle.manifest
    assert sorted(os.listdir(bundle.root)) == ["bundle.json", "chat_template.jinja", "fp32"]


def test_a_bundle_being_updated_loads_and_verifies(bundle: Bundle) -> None:
    with BundleUpdate(bundle) as update:
        _write_variant(update.directory, "int8")
        assert verify_bundle(bundle.root).manifest == bundle.manifest


def test_a_second_update_at_the_same_time_is_refused(bundle: Bundle) -> None:
    with BundleUpdate(bundle) as update:
        with (
            pytest.raises(BundleError, match="is being updated by another process: wait"),
            BundleUpdate(bundle),
        ):
            pass
        _write_variant(update.directory, "int8")
        update.commit(lambda manifest: _with_variant(manifest, "int8", "int8"))
    with BundleUpdate(bundle):
        pass


def test_a_bundle_whose_lock_another_process_has_just_taken_is_refused(bundle: Bundle) -> None:
    lock = FolderLock.take(bundle.root)  # as it does before it makes its directory
    assert lock is not None
    with pytest.raises(BundleError, match="is being updated by another process"), BundleUpdate(bundle):
        pass
    assert not (bundle.root / STAGING).exists()
    lock.release()
    _add_variant(bundle)


def test_of_updates_that_begin_at_once_one_goes_on(bundle: Bundle) -> None:
    together = threading.Barrier(4)

    def begins() -> bool:
        together.wait()
        try:
            with BundleUpdate(bundle):
                together.wait()  # until the others have tried
        except BundleError:
            together.wait()
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        for _ in range(50):
            began = [pool.submit(begins) for _ in range(4)]
            assert sum(one.result() for one in began) == 1


def test_the_manifest_is_read_anew_under_the_lock(bundle: Bundle) -> None:
    _add_variant(bundle, "int8")
    assert list(_add_variant(bundle, "int4").manifest.variants) == ["fp32", "int8", "int4"]


def test_a_file_of_the_bundle_is_never_written_over(bundle: Bundle) -> None:
    with BundleUpdate(bundle, overwrite=True) as update:
        _write_variant(update.directory, "fp32")
        with pytest.raises(BundleError, match="has fp32/decoder.onnx, .* never written over"):
            update.commit(lambda manifest: manifest)
    assert verify_bundle(bundle.root).manifest == bundle.manifest


def test_replacing_a_variant_takes_consent(bundle: Bundle) -> None:
    _add_variant(bundle)
    with BundleUpdate(bundle) as update:
        assert update.fresh_folder("int8") == "int8-2"
        _write_variant(update.directory, "int8-2")
        with pytest.raises(BundleError, match="has 'int8' already: choose another name, or overwrite it"):
            update.commit(lambda manifest: _with_variant(manifest, "int8", "int8-2"))


def test_a_replaced_variant_goes_and_stays_open_for_those_who_have_it(bundle: Bundle) -> None:
    _add_variant(bundle)
    with (bundle.root / "int8/decoder.onnx").open("rb") as old:
        with BundleUpdate(bundle, overwrite=True) as update:
            folder = update.fresh_folder("int8")
            _write_variant(update.directory, folder, b"newer ")
            updated = update.commit(lambda manifest: _with_variant(manifest, "int8", folder))
        assert old.read() == b"new " + FILES["fp32/decoder.onnx"]
    assert updated.path("int8-2/decoder.onnx").read_bytes().startswith(b"newer ")
    assert verify_bundle(bundle.root).manifest == updated.manifest
    assert sorted(os.listdir(bundle.root)) == ["bundle.json", "chat_template.jinja", "fp32", "int8-2"]


def test_a_replaced_calibration_goes(bundle: Bundle) -> None:
    def add(file: str, overwrite: bool) -> Bundle:
        with BundleUpdate(bundle, overwrite=overwrite) as update:
            (update.directory / "calibration").mkdir()
            (update.directory / file).write_bytes(b"numbers")
            calibration = Calibration(file, "fp32", "max", 8, "scenes")
            return update.commit(lambda manifest: replace(manifest, calibrations={"default": calibration}))

    assert (
        verify_bundle(add("calibration/a.safetensors", False).root).manifest.calibrations["default"].samples
        == 8
    )
    with pytest.raises(BundleError, match="has 'default' already"):
        add("calibration/b.safetensors", False)
    add("calibration/b.safetensors", True)
    assert os.listdir(bundle.root / "calibration") == ["b.safetensors"]
    verify_bundle(bundle.root)


def test_a_preview_loads_before_the_variant_exists(bundle: Bundle) -> None:
    with BundleUpdate(bundle) as update:
        _write_variant(update.directory, "int8")
        preview = update.preview(lambda manifest: _with_variant(manifest, "int8", "int8"))
        loaded = verify_bundle(preview.root)
        assert list(loaded.manifest.variants) == ["fp32", "int8"]
        assert loaded.path("fp32/decoder.onnx").samefile(bundle.path("fp32/decoder.onnx"))
        assert list(open_bundle(bundle.root).manifest.variants) == ["fp32"]
        updated = update.commit(lambda manifest: _with_variant(manifest, "int8", "int8"))
    assert updated.manifest == loaded.manifest
    assert not preview.root.exists()
    verify_bundle(bundle.root)


def test_a_file_written_again_after_a_preview_gets_its_new_digest(bundle: Bundle) -> None:
    with BundleUpdate(bundle) as update:
        _write_variant(update.directory, "int8")
        update.preview(lambda manifest: _with_variant(manifest, "int8", "int8"))
        (update.directory / "int8/vision.onnx").unlink()  # the preview's link keeps the old one
        (update.directory / "int8/vision.onnx").write_bytes(b"other, longer contents")
        update.commit(lambda manifest: _with_variant(manifest, "int8", "int8"))
    assert verify_bundle(bundle.root).path("int8/vision.onnx").read_bytes() == b"other, longer contents"


def test_a_manifest_that_names_files_nobody_wrote_is_not_committed(bundle: Bundle) -> None:
    with (
        pytest.raises(BundleCorruptError, match="names 'int8/vision.onnx', which has no digest"),
        BundleUpdate(bundle) as update,
    ):
        update.commit(lambda manifest: _with_variant(manifest, "int8", "int8"))
    assert verify_bundle(bundle.root).manifest == bundle.manifest


def test_a_staged_link_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="int8 is a link"), BundleUpdate(bundle) as update:
        (update.directory / "int8").symlink_to(bundle.root / "fp32")
        update.commit(lambda manifest: manifest)


def test_a_system_error_becomes_a_bundle_error_with_its_cure(bundle: Bundle) -> None:
    with (
        pytest.raises(
            BundleError, match="cannot be updated: .*No space left.*; it is as it was: free disk space"
        ),
        BundleUpdate(bundle),
    ):
        raise OSError(28, "No space left on device")


def test_a_bundle_that_is_gone_cannot_be_updated(bundle: Bundle) -> None:
    bundle.root.rename(bundle.root.with_name("y.bundle"))
    with pytest.raises(BundleError, match="cannot be updated: .*No such file"), BundleUpdate(bundle):
        pass


_KILLED = """
    import os, signal, sys
    from dataclasses import replace
    from pathlib import Path
    import neo_edge.bundle_update as module
    from neo_edge.bundle import open_bundle
    from neo_edge.manifest import Calibration

    steps = int(sys.argv[2])
    def dies(before):
        def call(*arguments, **options):
            global steps
            steps -= 1
            if steps < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return before(*arguments, **options)
        return call
    for name in ("mkdir", "replace", "unlink", "write_text"):
        setattr(Path, name, dies(getattr(Path, name)))
    module.flush = dies(module.flush)
    with module.BundleUpdate(open_bundle(sys.argv[1]), overwrite=True) as update:
        (update.directory / "calibration").mkdir()
        for letter in "bc":
            with open(update.directory / f"calibration/{letter}.safetensors", "wb") as file:
                file.write(b"numbers of " + letter.encode())
        new = {letter: Calibration(f"calibration/{letter}.safetensors", "fp32", "max", 8, "x") for letter in "bc"}
        update.commit(lambda manifest: replace(manifest, calibrations=new))
    print("done")
"""


def test_killed_between_any_two_writes_the_bundle_loads_and_a_rerun_finishes(bundle: Bundle) -> None:
    with BundleUpdate(bundle) as update:
        (update.directory / "calibration").mkdir()
        (update.directory / "calibration/a.safetensors").write_bytes(b"old numbers")
        old = Calibration("calibration/a.safetensors", "fp32", "max", 8, "x")
        update.commit(lambda manifest: replace(manifest, calibrations={"a": old}))
    seen = []
    for steps in range(100):
        copy = bundle.root.with_name(f"{steps}.bundle")
        shutil.copytree(bundle.root, copy)
        command = [sys.executable, "-c", textwrap.dedent(_KILLED), str(copy), str(steps)]
        result = subprocess.run(command, capture_output=True, text=True)
        calibrations = list(verify_bundle(copy).manifest.calibrations)
        with BundleUpdate(open_bundle(copy)):  # which clears what was left
            pass
        assert sorted(os.listdir(copy / "calibration")) == [f"{name}.safetensors" for name in calibrations]
        assert not (copy / STAGING).exists()
        seen.append(calibrations)
        if result.returncode == 0:
            break
        assert result.returncode == -signal.SIGKILL, result.stderr
    changed = seen.index(["b", "c"])
    assert seen == [["a"]] * changed + [["b", "c"]] * (len(seen) - changed)
    assert changed > 8
    assert len(seen) > changed + 2

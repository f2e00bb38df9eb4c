"""An entry of the prepacked cache is whole, and nobody else's, or it is not loaded; whatever ends its making."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from killed_prepack import killed_fills
from killing import in_a_fresh_process
from tiny_golden import append_text

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.errors import BundleCorruptError, CacheError, MemoryBudgetError
from neo_edge_runtime import Session, prepacked_build
from neo_edge_runtime.cache_folder import cache_folder, require_private, shown_cache_folder
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.prepacked import PrepackedCache, PrepackedVariant
from neo_edge_runtime.prepacked_build import build_prepacked

DATA = "decoder.onnx.data"
KILLS, SEED = 15, 20261122

pytestmark = pytest.mark.usefixtures("prepacked_cache")


def answers_from(backend: OrtBackend) -> bool:
    return append_text(Session(backend), [1, 2, 3]).shape[-1] == backend.traits.config.decoder.vocab_size


def _truncate(entry: PrepackedVariant) -> None:
    with (entry.folder / DATA).open("r+b") as file:
        file.truncate(1000)


def _no_graph(entry: PrepackedVariant) -> None:
    entry.vision.unlink()


def _link(entry: PrepackedVariant) -> None:
    entry.vision.rename(entry.folder.parent / "elsewhere")
    entry.vision.symlink_to(entry.folder.parent / "elsewhere")


def _half_a_description(entry: PrepackedVariant) -> None:
    (entry.folder / "entry.json").write_text('{"bundle": ')


def _other_description(entry: PrepackedVariant) -> None:
    (entry.folder / "entry.json").write_text(
        '{"bundle": 3, "files": [], "key": {}, "variant": 1, "built_s": 1}'
    )


def _another_file(entry: PrepackedVariant) -> None:
    description = entry.folder / "entry.json"
    data = json.loads(description.read_text())
    data["files"]["../../x"] = data["files"][DATA]
    description.write_text(json.dumps(data))


@pytest.mark.parametrize(
    "damage",
    [_truncate, _no_graph, _link, _half_a_description, _other_description, _another_file],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_entry_is_not_loaded_and_built_anew(
    damage: Callable[[PrepackedVariant], None],
    prepacked_entry: PrepackedVariant,
    opened_bundle: Bundle,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(prepacked_entry)
    plain = OrtBackend(opened_bundle, "fp32", threads=1)
    assert not plain.prepacked
    assert answers_from(plain)
    assert "damaged" in caplog.text
    assert "the bundle is loaded instead" in caplog.text
    rebuilt = build_prepacked(opened_bundle, "fp32")
    assert rebuilt.built_s > prepacked_entry.built_s
    assert rebuilt.files == prepacked_entry.files
    assert OrtBackend(opened_bundle, "fp32", threads=1).prepacked


def test_a_graph_that_onnxruntime_refuses_is_not_used(
    prepacked_entry: PrepackedVariant, opened_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    graph = prepacked_entry.decoder
    graph.write_bytes(b"\xff" * graph.stat().st_size)
    backend = OrtBackend(opened_bundle, "fp32", threads=1)
    assert not backend.prepacked
    assert answers_from(backend)
    assert "cannot load decoder.onnx" in caplog.text


def test_another_models_graph_is_not_used(
    prepacked_entry: PrepackedVariant, opened_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    description = prepacked_entry.folder / "entry.json"
    data = json.loads(description.read_text())
    shutil.copyfile(prepacked_entry.vision, prepacked_entry.decoder)
    data["files"]["decoder.onnx"] = data["files"]["vision.onnx"]
    description.write_text(json.dumps(data))
    backend = OrtBackend(opened_bundle, "fp32", threads=1)
    assert not backend.prepacked
    assert "is not the graph that bundle.json describes" in caplog.text


def test_an_altered_byte_is_found_by_verifying_and_built_anew(
    prepacked_entry: PrepackedVariant, opened_bundle: Bundle
) -> None:
    data = bytearray((prepacked_entry.folder / DATA).read_bytes())
    data[5000] ^= 1
    (prepacked_entry.folder / DATA).write_bytes(data)
    assert build_prepacked(opened_bundle, "fp32").built_s == prepacked_entry.built_s
    rebuilt = build_prepacked(opened_bundle, "fp32", verify=True)
    assert rebuilt.built_s > prepacked_entry.built_s
    assert rebuilt.digest_faults() == []
    assert build_prepacked(opened_bundle, "fp32", verify=True).built_s == rebuilt.built_s


def test_a_damaged_bundle_does_not_get_into_the_cache(
    opened_bundle: Bundle, tmp_path: Path, prepacked_cache: PrepackedCache
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(opened_bundle.root, copy)
    data = bytearray((copy / "fp32" / DATA).read_bytes())
    data[5000] ^= 1
    (copy / "fp32" / DATA).write_bytes(data)
    with pytest.raises(BundleCorruptError, match=r"fp32/decoder\.onnx\.data was altered"):
        build_prepacked(open_bundle(copy), "fp32")
    assert os.listdir(prepacked_cache.folder) == []


def test_while_one_process_builds_another_waits_or_loads_the_bundle(
    opened_bundle: Bundle, prepacked_cache: PrepackedCache
) -> None:
    with prepacked_cache.locked(0):
        with pytest.raises(CacheError, match="in use by another process for 0 s"):
            build_prepacked(opened_bundle, "fp32", wait_s=0)
        assert answers_from(OrtBackend(opened_bundle, "fp32", threads=1))
    assert build_prepacked(opened_bundle, "fp32", wait_s=0).folder.is_dir()


def test_two_processes_at_once_build_it_once(tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "neo_edge.cli", "prepack", str(tiny_bundle), "--json"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)]
    reports = [json.loads(process.communicate()[0]) for process in running]
    assert sorted(report["built"] for report in reports) == [False, True]
    assert len({report["folder"] for report in reports}) == 1


def test_builds_killed_at_random_moments_leave_nothing_that_loads_and_the_next_one_cleans_up(
    tiny_bundle: Path, prepacked_cache: PrepackedCache
) -> None:
    left = in_a_fresh_process(killed_fills, tiny_bundle, KILLS, SEED)
    assert len(left) == KILLS
    assert any(entries.partial for entries in left)
    assert sum(entries.whole for entries in left) < 10
    (name,) = os.listdir(prepacked_cache.folder)
    assert len(name) == 64


def test_what_a_killed_process_left_is_logged_and_removed(
    opened_bundle: Bundle, prepacked_cache: PrepackedCache, caplog: pytest.LogCaptureFixture
) -> None:
    prepacked_cache.folder.mkdir(parents=True, mode=0o700)
    prepacked_cache.folder.parent.chmod(0o700)
    left = prepacked_cache.folder / ".partial-abc"
    left.mkdir()
    (left / "decoder.onnx").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        build_prepacked(opened_bundle, "fp32")
    assert "left by a process that did not finish" in caplog.text
    assert not left.exists()


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_cache_that_cannot_be_written_is_an_error_for_those_who_asked(
    number: int, opened_bundle: Bundle, prepacked_cache: PrepackedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.mkdtemp", failing)
    with pytest.raises(CacheError, match="cannot be written.*nothing was left there: set NEO_EDGE_CACHE_DIR"):
        build_prepacked(opened_bundle, "fp32")
    assert os.listdir(prepacked_cache.folder) == []
    assert answers_from(OrtBackend(opened_bundle, "fp32", threads=1))


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(
    opened_bundle: Bundle, prepacked_cache: PrepackedCache
) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(CacheError, match=r"cannot prepack fp32/vision\.onnx.*nothing was left there"):
            build_prepacked(opened_bundle, "fp32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(prepacked_cache.folder) == []


def test_room_on_the_disk_and_in_memory_is_looked_at_first(
    opened_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(prepacked_build, "available_memory_bytes", lambda: 1000)
        with pytest.raises(MemoryBudgetError, match="prepacking .* needs"):
            build_prepacked(opened_bundle, "fp32")
    full = shutil.disk_usage(opened_bundle.root)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(CacheError, match="needs about .* MB and its disk has 0.0 MB free"):
        build_prepacked(opened_bundle, "fp32")


def test_files_are_for_this_user_alone(
    prepacked_entry: PrepackedVariant, prepacked_cache: PrepackedCache
) -> None:
    for path in (prepacked_cache.folder.parent, prepacked_cache.folder, prepacked_entry.folder):
        assert path.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in prepacked_entry.folder.iterdir()} == {0o600}


def test_a_folder_that_others_can_write_to_is_refused(
    prepacked_entry: PrepackedVariant,
    opened_bundle: Bundle,
    prepacked_cache: PrepackedCache,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for path in (
        prepacked_cache.folder.parent,
        prepacked_cache.folder,
        prepacked_entry.folder,
        prepacked_entry.decoder,
    ):
        mode = path.stat().st_mode
        path.chmod(mode | 0o020)
        with pytest.raises(CacheError, match="others can write to .*chmod -R go-w"):
            prepacked_cache.find(prepacked_entry.folder.name)
        caplog.clear()
        assert not OrtBackend(opened_bundle, "fp32", threads=1).prepacked
        assert "others can write to" in caplog.text
        path.chmod(mode)
    assert OrtBackend(opened_bundle, "fp32", threads=1).prepacked


def test_a_folder_below_one_that_everybody_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "all" / "mine").mkdir(parents=True, mode=0o700)
    (tmp_path / "all").chmod(0o777)
    with pytest.raises(CacheError, match="everybody can write to .*chmod o-w"):
        require_private(tmp_path / "all" / "mine")
    (tmp_path / "all").chmod(0o1777)
    require_private(tmp_path / "all" / "mine")


def test_another_users_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path.stat()
    other = os.stat_result((*mine[:4], 12345, *mine[5:]))
    monkeypatch.setattr(Path, "stat", lambda *_, **__: other)
    with pytest.raises(CacheError, match="belongs to user 12345"):
        require_private(tmp_path)


def test_the_cache_stands_where_the_environment_says() -> None:
    assert cache_folder({"NEO_EDGE_CACHE_DIR": "/a/b", "XDG_CACHE_HOME": "/x"}) == Path("/a/b")
    assert cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/neo_edge")
    assert cache_folder({"XDG_CACHE_HOME": "relative"}) == Path.home() / ".cache" / "neo_edge"
    assert cache_folder({"NEO_EDGE_CACHE_DIR": "c"}).is_absolute()
    assert shown_cache_folder({"NEO_EDGE_CACHE_DIR": "/home/me"}) == "$NEO_EDGE_CACHE_DIR"
    assert shown_cache_folder({"XDG_CACHE_HOME": "/x"}) == "$XDG_CACHE_HOME/neo_edge"
    assert shown_cache_folder({}) == "~/.cache/neo_edge"

"""Engines are kept for exactly what they were built for, and built anew for anything else; TensorRT is a fake one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from bundle_leftovers import leftovers
from fake_tensorrt import H100, ORIN, fake_installed
from killed_building import killed_building
from killing import in_a_fresh_process
from sealing import seal

from neo_edge.bundle import Bundle, open_bundle, read_bundle, verify_bundle
from neo_edge.bundle_update import BundleUpdate
from neo_edge.engine_files import engine_faults, find_engines, is_stale
from neo_edge.errors import BundleError
from neo_edge_export.tensorrt.engine_builder import BuildRequest, BuildResult, build_engines
from neo_edge_runtime.nvidia_devices import NvidiaDriver

WEIGHTS = "fp16-portable/decoder.onnx.data"
REQUEST = BuildRequest("tensorrt", max_context=64, max_chunk=32)
KILLS, SEED = 12, 20261123


@dataclass(frozen=True)
class Place:
    """Where and for what engines are built."""

    version: str = "10.3.0"
    driver: NvidiaDriver = H100
    request: BuildRequest = REQUEST
    plan: bytes = b"plan"  # what the fake one's plans begin with

    def build(self, root: Path) -> BuildResult:
        installed, _ = fake_installed(version=self.version, plan=self.plan)
        return build_engines(root, self.request, installed=installed, driver=self.driver)


HERE = Place()


@pytest.fixture
def root(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(tiny_bundle.root, tmp_path / "robot.bundle"))


def change_weights(root: Path) -> None:
    """Other weights, which the manifest knows of."""
    content = bytearray((root / WEIGHTS).read_bytes())
    content[:2] = b"\x00\x3c"  # one, in float16
    (root / WEIGHTS).write_bytes(content)
    seal(root, WEIGHTS)


@pytest.mark.parametrize(
    "elsewhere",
    [
        replace(HERE, driver=replace(H100, version="590.1")),
        replace(HERE, version="10.16.1"),
        replace(HERE, driver=ORIN),
        replace(HERE, request=replace(REQUEST, max_context=96)),
        replace(HERE, request=replace(REQUEST, max_batch=2)),
    ],
    ids=["driver", "version", "GPU", "context", "batch"],
)
def test_another_driver_version_gpu_or_limit_gets_engines_beside_the_first_and_each_finds_its_own(
    root: Path, elsewhere: Place
) -> None:
    first, second = HERE.build(root), elsewhere.build(root)
    assert second.built
    assert second.why == "none were there"
    assert second.removed == ()
    assert first.engines.key.differences(second.engines.key)
    assert verify_bundle(root).manifest.engines.keys() == {first.name, second.name}
    for place, mine in ((HERE, first), (elsewhere, second)):
        found = place.build(root)
        assert (found.built, found.name, found.engines) == (False, mine.name, mine.engines)


def test_engines_of_a_variant_that_changed_are_removed_and_built_anew(root: Path) -> None:
    first = HERE.build(root)
    change_weights(root)
    assert is_stale(read_bundle(root).manifest, first.engines)
    second = HERE.build(root)
    assert second.built
    assert second.removed == (first.name,)
    assert verify_bundle(root).manifest.engines.keys() == {second.name}
    assert not (root / "engines" / first.name).exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def alter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("part", ["vision", "decoder"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [(cut, "bytes, the manifest says"), (alter, "was altered"), (remove, "is missing")],
)
def test_a_truncated_altered_or_missing_plan_is_replaced(
    root: Path, part: str, damage: Callable[[Path], None], reason: str
) -> None:
    first = HERE.build(root)
    relative = first.engines.vision if part == "vision" else first.engines.decoder
    damage(root / relative)
    second = HERE.build(root)
    assert second.built
    assert second.why.startswith(relative)
    assert reason in second.why
    assert second.removed == (first.name,)
    assert second.name == f"{first.name}-2"
    assert verify_bundle(root).manifest.engines.keys() == {second.name}
    assert not HERE.build(root).built


def test_a_plan_of_another_bundle_in_the_place_of_ones_own_is_replaced(root: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(root, tmp_path / "other.bundle"))
    mine, theirs = HERE.build(root), replace(HERE, plan=b"alas").build(other)
    shutil.copyfile(other / theirs.engines.decoder, root / mine.engines.decoder)
    assert engine_faults(read_bundle(root), mine.engines) == [
        f"{mine.engines.decoder} was altered: its sha256 differs from the manifest's"
    ]
    again = HERE.build(root)
    assert again.built
    assert open_bundle(root).path(again.engines.decoder).read_bytes().startswith(b"plan")


def test_engines_that_are_copied_from_another_bundle_serve_nothing_and_go(root: Path, tmp_path: Path) -> None:
    """Without its manifest's words they are no engines; with them, engines of other graphs."""
    other = Path(shutil.copytree(root, tmp_path / "other.bundle"))
    change_weights(other)
    theirs = HERE.build(other)
    shutil.copytree(other / "engines", root / "engines")
    assert HERE.build(root).why == "none were there"
    manifest, foreign = read_bundle(root).manifest, read_bundle(other).manifest
    files = {path: entry for path, entry in foreign.files.items() if path.startswith("engines/")}
    mixed = replace(
        manifest,
        engines={**manifest.engines, theirs.name: theirs.engines},
        files={**manifest.files, **files},
    )
    (root / "bundle.json").write_text(mixed.to_json())
    assert is_stale(mixed, theirs.engines)
    mine = replace(HERE, request=replace(REQUEST, overwrite=True)).build(root)
    assert theirs.name in mine.removed
    assert verify_bundle(root).manifest.engines.keys() == {mine.name}
    assert find_engines(read_bundle(root).manifest, theirs.engines.key) is None


def test_overwrite_builds_engines_anew(root: Path) -> None:
    first = HERE.build(root)
    second = replace(HERE, request=replace(REQUEST, overwrite=True)).build(root)
    assert second.why == "asked to overwrite"
    assert second.removed == (first.name,)
    assert verify_bundle(root).manifest.engines.keys() == {second.name}


def test_a_second_builder_is_refused_while_the_first_works(root: Path) -> None:
    with (
        BundleUpdate(open_bundle(root)),
        pytest.raises(BundleError, match="is being updated by another process"),
    ):
        HERE.build(root)


def test_builds_killed_at_random_moments_leave_whole_engines_and_the_next_one_clears_up(root: Path) -> None:
    found = in_a_fresh_process(killed_building, root, KILLS, SEED)
    assert [len(left.engines) for left in found] == [1] * KILLS
    assert sum(left.finished for left in found) < KILLS / 2
    assert any(left.half_made for left in found)
    assert not any(left.half_made for left in found if left.finished)
    assert leftovers(root) == []
    assert [path.name for path in (root / "engines").iterdir()] == list(open_bundle(root).manifest.engines)

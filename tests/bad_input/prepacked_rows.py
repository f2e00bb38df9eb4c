"""Broken prepacked caches."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from bad_row import Action, Place, Row

import neo_edge
from neo_edge.bundle import open_bundle
from neo_edge.errors import CacheError, InputError
from neo_edge.options import SamplingOptions
from neo_edge_runtime.prepacked import PrepackedCache, PrepackedVariant
from neo_edge_runtime.prepacked_build import PrepackedMode, build_prepacked

Spoil = Callable[[Place, Path], object]
ELSEWHERE = "set NEO_EDGE_CACHE_DIR"


def empty(broken: str, spoil: Spoil, *words: str) -> Row:
    """A cache without entries, spoilt, then asked to be filled."""

    def prepare(place: Place) -> Action:
        root = place.folder / "cache"
        place.patch.setenv("NEO_EDGE_CACHE_DIR", str(root))
        (root / "prepacked").mkdir(parents=True, mode=0o700)
        root.chmod(0o700)
        spoil(place, root)
        return lambda: _loaded(place, "build")

    return Row(broken, prepare, CacheError, words)


def filled(broken: str, spoil: Callable[[Place, PrepackedVariant], object], *, uses: bool = False) -> Row:
    """A cache with the bundle's entry, spoilt; the model answers without it, or (`uses`) with it."""

    def prepare(place: Place) -> Action:
        place.patch.setenv("NEO_EDGE_CACHE_DIR", str(place.folder / "cache"))
        spoil(place, build_prepacked(open_bundle(place.bundle), "fp32"))
        return lambda: _loaded(place, "auto")

    return Row(broken, prepare, None, gives=lambda found: found is uses)


def _loaded(place: Place, mode: PrepackedMode) -> bool:
    """Whether the weights came from the cache, after an answer."""
    with neo_edge.load(place.bundle, threads=1, prepacked=mode) as model:
        assert model.generate("a", options=SamplingOptions(max_new_tokens=2)).token_ids
        used: bool = model._backend.prepacked  # type: ignore[attr-defined]
    return used


def _a_file(_: Place, root: Path) -> None:
    shutil.rmtree(root)
    root.write_text("mine")


def _a_file_for_entries(_: Place, root: Path) -> None:
    (root / "prepacked").rmdir()
    (root / "prepacked").write_text("mine")


def _read_only(place: Place, _: Path) -> None:
    def failing(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    place.patch.setattr("tempfile.mkdtemp", failing)


def _used_read_only(place: Place, entry: PrepackedVariant) -> None:
    def failing(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    place.patch.setattr(os, "utime", failing)
    entry.folder.chmod(0o500)


def _no_room(place: Place, _: Path) -> None:
    full = shutil.disk_usage(place.folder)._replace(free=1000)
    place.patch.setattr(shutil, "disk_usage", lambda _: full)


def _long_name(place: Place, root: Path) -> None:
    place.patch.setenv("NEO_EDGE_CACHE_DIR", str(root / ("x" * 300)))


def _truncated(_: Place, entry: PrepackedVariant) -> None:
    with (entry.folder / "decoder.onnx.data").open("r+b") as file:
        file.truncate(100)


def _of_another_version(place: Place, _: PrepackedVariant) -> None:
    import onnxruntime

    place.patch.setattr(onnxruntime, "__version__", "1.99.0")


def _renamed_to_ours(_: Place, entry: PrepackedVariant) -> None:
    """What another version of onnxruntime built stands under the key of this one."""
    description = entry.folder / "entry.json"
    data = json.loads(description.read_text())
    data["key"]["onnxruntime"] = "1.99.0"
    description.write_text(json.dumps(data))


def _damaged_graph(_: Place, entry: PrepackedVariant) -> None:
    entry.decoder.write_bytes(b"\xff" * entry.decoder.stat().st_size)


def _names_a_file_elsewhere(_: Place, entry: PrepackedVariant) -> None:
    description = entry.folder / "entry.json"
    data = json.loads(description.read_text())
    data["files"]["/etc/passwd"] = data["files"].pop("vision.onnx")
    description.write_text(json.dumps(data))


def _no_such_mode(place: Place) -> Action:
    return lambda: _loaded(place, "always")  # type: ignore[arg-type]


def _cache(place: Place) -> Action:
    """A folder of the user's own under a name that looks like an entry's."""
    place.patch.setenv("NEO_EDGE_CACHE_DIR", str(place.folder / "cache"))
    (place.folder / "cache" / "prepacked" / "photos").mkdir(parents=True, mode=0o700)
    (place.folder / "cache" / "prepacked").chmod(0o700)
    (place.folder / "cache").chmod(0o700)
    return lambda: PrepackedCache().find("photos")


PREPACKED_ROWS = (
    empty("a file for a cache", _a_file, "cannot be written", "Not a directory", ELSEWHERE),
    empty("a file among the cache's folders", _a_file_for_entries, "cannot be written", ELSEWHERE),
    empty("a read-only disk", _read_only, "Read-only", "nothing was left there", ELSEWHERE),
    empty("no room on the disk", _no_room, "0.0 MB free", ELSEWHERE),
    empty("a cache's name of 300 letters", _long_name, "too long", ELSEWHERE),
    empty(
        "a cache that everybody writes to",
        lambda _, root: root.chmod(0o777),
        "others can write",
        "go-w",
        ELSEWHERE,
    ),
    empty(
        "a cache below a folder that everybody writes to",
        lambda place, _: place.folder.chmod(0o777),
        "everybody can write to",
        "o-w",
        ELSEWHERE,
    ),
    Row("no entry, but a folder", _cache, CacheError, ("no prepacked variant", "neo-edge prepack")),
    Row("no such mode", _no_such_mode, InputError, ("must be 'auto', 'build', 'off'",)),
    filled("a truncated entry: the bundle is loaded", _truncated),
    filled("an entry of another onnxruntime: the bundle is loaded", _of_another_version),
    filled("an entry under the key of another: the bundle is loaded", _renamed_to_ours),
    filled("an entry without its graph: the bundle is loaded", lambda _, entry: entry.vision.unlink()),
    filled("an entry whose graph is none: the bundle is loaded", _damaged_graph),
    filled("an entry that names files elsewhere: the bundle is loaded", _names_a_file_elsewhere),
    filled(
        "an entry that everybody writes to: the bundle is loaded",
        lambda _, entry: entry.decoder.chmod(0o666),
    ),
    filled("a cache that cannot be written: it is used", _used_read_only, uses=True),
)

"""Bad days of an export: weights that spoil it, disks that refuse it, others that are in its way."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bad_row import Action, Place, Row
from safetensors.numpy import load_file, save_file
from tiny_bundle import tiny_manifest, write_files

from neo_edge.bundle import BundleWriter
from neo_edge.checkpoint import EMBEDDING, LM_HEAD, open_checkpoint
from neo_edge.config import load_config
from neo_edge.errors import BundleCorruptError, BundleError, ExportError, WeightsError
from neo_edge_export import weights
from neo_edge_export.bundle_export import ExportOptions, export_bundle

NORM = "norm.weight"
PREFIX = "language_model.model."
GATE = "layers.1.mlp.gate_proj.weight"
SPACE = "free disk space, or choose a target on another disk"
FP32, FP16 = ExportOptions(), ExportOptions(precisions=("fp16",))


def weight(broken: str, name: str, value: float, *words: str, options: ExportOptions = FP32) -> Row:
    """One number of one weight is changed."""

    def prepare(place: Place) -> Action:
        checkpoint = place.folder / "checkpoint"
        checkpoint.mkdir()
        shutil.copy(place.checkpoint / "config.json", checkpoint)
        arrays = load_file(place.checkpoint / "model.safetensors")
        arrays[PREFIX + name].reshape(-1)[3] = value
        save_file(arrays, checkpoint / "model.safetensors")
        return lambda: export_bundle(checkpoint, place.folder / "out", options)

    return Row(broken, prepare, ExportError, (name, *words))


def target(broken: str, make: Callable[[Path], Path], *words: str, overwrite: bool = False) -> Row:
    """Found out before any work."""

    def prepare(place: Place) -> Action:
        path = make(place.folder)
        return lambda: export_bundle(place.checkpoint, path, ExportOptions(overwrite=overwrite))

    return Row(broken, prepare, BundleError, words)


def during(broken: str, happens: Callable[[Place], object], error: type[BaseException], *words: str) -> Row:
    """A whole export in the middle of which something happens."""

    def prepare(place: Place) -> Action:
        happens(place)
        return lambda: export_bundle(place.checkpoint, place.folder / "out", FP32)

    return Row(broken, prepare, error, words)


def writing(
    broken: str, use: Callable[[Place, BundleWriter], object], error: type[Exception], *words: str
) -> Row:
    """The writer alone, with the files of a bundle in its folder."""

    def prepare(place: Place) -> Action:
        def act() -> None:
            with BundleWriter(place.folder / "out") as writer:
                write_files(writer.directory)
                use(place, writer)

        return act

    return Row(broken, prepare, error, words)


def commit(place: Place, writer: BundleWriter) -> object:
    return writer.commit(tiny_manifest(load_config(place.checkpoint)))


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def _tensor_fails(error: BaseException, after: int = 5) -> Callable[[Place], object]:
    """Writing the weights goes well for a while."""

    def happens(place: Place) -> None:
        written = []
        write = weights.StreamedTensor.tofile

        def tofile(self: weights.StreamedTensor, file: Any) -> None:
            written.append(self.name)
            if len(written) > after:
                raise error
            write(self, file)

        place.patch.setattr(weights.StreamedTensor, "tofile", tofile)

    return happens


def _files_end_at_100_kb(place: Place) -> Action:
    """The system's own refusal, in the middle of a file."""

    def act() -> object:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            return export_bundle(place.checkpoint, place.folder / "out", FP32)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return act


def _no_space(place: Place) -> None:
    full = shutil.disk_usage(place.folder)._replace(free=100_000)
    place.patch.setattr(shutil, "disk_usage", lambda _: full)


def _weights_vanish(place: Place) -> Action:
    """Between the look at the header and the reading of a tensor."""
    checkpoint = place.folder / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(place.checkpoint / name, checkpoint)
    opened = open_checkpoint(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    return lambda: opened.read(PREFIX + NORM)


def _weights_shrink(place: Place) -> Action:
    checkpoint = place.folder / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(place.checkpoint / name, checkpoint)
    opened = open_checkpoint(checkpoint)
    os.truncate(checkpoint / "model.safetensors", 9000)
    return lambda: opened.read(LM_HEAD)


class _Table:
    """An embedding with one number in it that does not fit."""

    def __init__(self, value: float) -> None:
        self._value = value

    def read(self, _: str) -> np.ndarray:
        return np.full((8, 4), self._value, np.float32)

    def read_rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return self.read(name)[start:stop]


def _table(value: float, dtype: str) -> Callable[[Place], Action]:
    def prepare(place: Place) -> Action:
        def act() -> None:
            with BundleWriter(place.folder / "out") as writer:
                weights.save_embedding(
                    _Table(value), EMBEDDING, (8, 4), dtype, writer.directory / "table.bin"
                )

        return act

    return prepare


def _other_finishes_first(place: Place) -> Action:
    manifest = tiny_manifest(load_config(place.checkpoint))
    slow, quick = BundleWriter(place.folder / "out"), BundleWriter(place.folder / "out")

    # The first to finish is there before the second notices; the second must change nothing of it.
    with quick as writer:
        write_files(writer.directory)
        writer.commit(manifest)

    def act() -> object:
        with slow as writer:
            write_files(writer.directory)
            return writer.commit(manifest)

    return act


def _fsync_fails(place: Place, writer: BundleWriter) -> object:
    place.patch.setattr(os, "fsync", failing(errno.ENOSPC))
    return commit(place, writer)


def _rename_fails(place: Place, writer: BundleWriter) -> object:
    place.patch.setattr(Path, "rename", failing(errno.EROFS))
    return commit(place, writer)


def _links_in(place: Place, writer: BundleWriter) -> object:
    (writer.directory / "extra").symlink_to("/etc/passwd")
    return commit(place, writer)


def _lost_a_file(place: Place, writer: BundleWriter) -> object:
    (writer.directory / "fp32" / "decoder.onnx").unlink()
    return commit(place, writer)


def _made(name: str, *, content: str | None = None) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.mkdir()
        if content is not None:
            (path / "notes.txt").write_text(content)
        return path

    return make


def _file(folder: Path) -> Path:
    (folder / "out").write_text("notes")
    return folder / "out"


def _below_a_file(folder: Path) -> Path:
    return _file(folder) / "robot.bundle"


def _bundle_there(folder: Path) -> Path:
    (folder / "out").mkdir()
    (folder / "out" / "bundle.json").write_text("{}")
    return folder / "out"


def _link(folder: Path) -> Path:
    (folder / "real").mkdir()
    (folder / "real" / "bundle.json").write_text("{}")
    (folder / "out").symlink_to("real")
    return folder / "out"


def _read_only(place: Place) -> Action:
    place.patch.setattr("tempfile.mkdtemp", failing(errno.EROFS))
    return lambda: export_bundle(place.checkpoint, place.folder / "out", FP32)


OTHER = "choose another name"
EXPORT_ROWS = (
    weight("NaN in a matrix", GATE, float("nan"), "NaN or infinity", "fetch it again"),
    weight("infinity in a norm", NORM, float("inf"), "NaN or infinity", "fetch it again"),
    weight("a weight beyond float16", GATE, 1e6, "65504", "export with --precision fp32", options=FP16),
    target(
        "a bundle where it should go",
        _bundle_there,
        "exists already",
        OTHER,
        "--overwrite on the command line",
    ),
    target("a folder where it should go", _made("out", content="mine"), "exists already", OTHER),
    target(
        "a folder that is no bundle, overwritten",
        _made("out", content="x"),
        "no bundle",
        OTHER,
        overwrite=True,
    ),
    target("an empty folder, overwritten", _made("out"), "is no bundle", OTHER, overwrite=True),
    target("a file where it should go", _file, "exists already", OTHER),
    target("a file, overwritten", _file, "no bundle, so it is not overwritten", OTHER, overwrite=True),
    target("a link, overwritten", _link, "no bundle, so it is not overwritten", OTHER, overwrite=True),
    target("a target below a file", _below_a_file, "no bundle can be written", "choose another target"),
    target(
        "a target in /proc",
        lambda _: Path("/proc/robot.bundle"),
        "no bundle can be written",
        "another target",
    ),
    target("a target without a name", lambda _: Path("/"), "no name for a bundle", "choose another"),
    target(
        "the name of an unfinished export",
        lambda f: f / ".x.partial-1",
        "no name for a bundle",
        "choose another",
    ),
    target("NUL in the target's name", lambda f: f / "a\0b", "no bundle can be written", "another target"),
    target(
        "half a surrogate pair in it", lambda f: f / "a\ud800", "no bundle can be written", "another target"
    ),
    target("a target's name of 300 letters", lambda f: f / ("x" * 300), "too long", "another target"),
    Row("a read-only disk", _read_only, BundleError, ("Read-only", "choose a target that can be written")),
    Row(
        "files that may not grow",
        _files_end_at_100_kb,
        BundleError,
        ("too large", "takes large files", "nothing"),
    ),
    Row(
        "weights that vanish meanwhile",
        _weights_vanish,
        WeightsError,
        ("model.safetensors", "fetch it again"),
    ),
    Row(
        "weights that shrink meanwhile",
        _weights_shrink,
        WeightsError,
        ("model.safetensors", "fetch it again"),
    ),
    Row("another export that finishes first", _other_finishes_first, BundleError, ("exists already", OTHER)),
    during("too little disk space, known before", _no_space, BundleError, "0.1 MB free", SPACE),
    during(
        "no disk space in the middle",
        _tensor_fails(OSError(errno.ENOSPC, "No space left on device")),
        BundleError,
        "No space left",
        "nothing was left there",
        SPACE,
    ),
    during("Ctrl-C in the middle", _tensor_fails(KeyboardInterrupt("stop")), KeyboardInterrupt, "stop"),
    Row(
        "NaN in the token embedding",
        _table(float("nan"), "float32"),
        ExportError,
        ("embed_tokens", "NaN or infinity", "fetch it again"),
    ),
    Row(
        "a token embedding beyond float16",
        _table(1e6, "float16"),
        ExportError,
        ("embed_tokens", "--precision fp32"),
    ),
    writing("no disk space at the end", _fsync_fails, BundleError, "No space left", SPACE),
    writing("a disk that turns read-only", _rename_fails, BundleError, "Read-only", "can be written"),
    writing("a link among its files", _links_in, BundleError, "extra is a link", "holds its files itself"),
    writing(
        "a file that was lost", _lost_a_file, BundleCorruptError, "decoder.onnx", "no digest", "export again"
    ),
)

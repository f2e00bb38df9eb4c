"""Adds files to a bundle that exists, so that they are there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import TracebackType

from neo_edge.bundle import Bundle, read_bundle
from neo_edge.bundle_writer import cure_of, file_entry, flush
from neo_edge.errors import BundleCorruptError, BundleError
from neo_edge.folder_lock import FolderLock
from neo_edge.manifest import MANIFEST_FILE, FileEntry, Manifest, parse_manifest
from neo_edge.manifest_fields import check_relative_path

STAGING = ".partial-update"  # inside the bundle: the files then move by renaming, whatever disk it is on
_JOURNAL = "moving.json"

Change = Callable[[Manifest], Manifest]
"""Gives the manifest after the update from the one before it; `files` need not be touched."""


class BundleUpdate:
    """A staging directory inside a bundle, whose files become the bundle's own at once.

        with BundleUpdate(open_bundle("robot.bundle")) as update:
            ...  # write files below update.directory, at the paths that they shall have in the bundle
            update.commit(lambda manifest: replace(manifest, ...))

    Whatever ends it, the bundle loads and verifies: `bundle.json` is replaced last, by a rename, and no file that it
    names is ever written over. What a killed process leaves, the next update of that bundle removes.
    """

    def __init__(self, bundle: Bundle, *, overwrite: bool = False) -> None:
        """Names the bundle.

        Args:
            bundle: as it was opened; its manifest is read again when the update begins.
            overwrite: whether variants and calibrations that are there may be replaced or removed. Their files are
                deleted after the new manifest is in place; processes that have them open keep them.
        """
        self._given, self._root = bundle.root, Path(os.path.abspath(bundle.root))
        self._overwrite = overwrite
        self._lock: FolderLock | None = None
        self._open = False
        self._previews = 0
        self._entries: dict[str, tuple[tuple[int, int], FileEntry]] = {}

    @property
    def directory(self) -> Path:
        """Where new files are to be written, each at its path in the bundle."""
        if not self._open:
            raise BundleError("this bundle update is not open: use it in a with statement, before commit")
        return self._staging / "files"

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest as it is now, read anew."""
        return read_bundle(self._root).manifest

    def __enter__(self) -> BundleUpdate:
        try:
            self._begin()
        except OSError as error:
            self._end()
            raise self._failure(error) from error
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise self._failure(error) from error

    def require_space(self, size_bytes: int) -> None:
        """Raises `BundleError` when the bundle's disk has less room than the new files will take."""
        free = shutil.disk_usage(self.directory).free
        if size_bytes > free:
            raise BundleError(
                f"the update of {self._root} needs about {size_bytes / 1e6:.1f} MB and its disk has "
                f"{free / 1e6:.1f} MB free: free disk space"
            )

    def fresh_folder(self, name: str) -> str:
        """`name`, or where the bundle has files in a folder of that name already, `name-2` and so on.

        A variant that replaces another needs it, since the old one's files stay until the new manifest is in place.
        """
        taken = {PurePosixPath(path).parts[0] for path in self.manifest.files}
        number, folder = 2, name
        while folder in taken:
            number, folder = number + 1, f"{name}-{number}"
        return folder

    def preview(self, change: Change) -> Bundle:
        """A bundle that is as this one will be, to load and measure before it is; gone when the update ends.

        Its files are hard links, or copies where the file system has none.

        Raises:
            BundleError, BundleCorruptError: as `commit`.
        """
        manifest, _ = self._changed(change)
        self._previews += 1
        root = self._staging / f"preview-{self._previews}"
        for path in manifest.files:
            staged = self.directory / path
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(staged if staged.is_file() else Path(os.path.realpath(self._root / path)), target)
        (root / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
        return Bundle(root, manifest)

    def commit(self, change: Change) -> Bundle:
        """Makes the staged files part of the bundle.

        Args:
            change: gives the new manifest from the present one. Its `files` are filled in here: those of before and
                the staged ones, without the files of variants, calibrations and engines that are no longer there.

        Returns:
            The bundle as it is now.

        Raises:
            BundleError: a staged file would stand where the bundle has one, something would be replaced without
                `overwrite`, or the staging directory holds links.
            BundleCorruptError: the manifest names files that were not written.
        """
        manifest, staged = self._changed(change)
        gone = sorted(self.manifest.files.keys() - manifest.files.keys())
        self._write_journal([*staged, *gone])
        for path in staged:
            target = self._root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.directory / path).replace(target)
        for folder in sorted({parent for path in staged for parent in PurePosixPath(path).parents}):
            flush(self._root / folder)
        new = self._staging / MANIFEST_FILE
        new.write_text(manifest.to_json(), encoding="utf-8")
        flush(new)
        new.replace(self._root / MANIFEST_FILE)
        flush(self._root)
        self._end()  # deletes the files that are gone
        return Bundle(self._given, manifest)

    @property
    def _staging(self) -> Path:
        return self._root / STAGING

    def _begin(self) -> None:
        try:
            self._lock = FolderLock.take_unless_held(self._root)
        except BlockingIOError:
            raise self._busy() from None
        if self._lock is not None and self._staging.exists():
            self._clear()
        try:
            # The file system lets one process make it, also where it has no locks.
            self._staging.mkdir()
        except FileExistsError:
            raise self._busy() from None
        self._open = True
        self.directory.mkdir()

    def _end(self) -> None:
        if self._open:
            self._open = False
            self._clear()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _clear(self) -> None:
        """Removes the staging directory, and whatever its update moved or meant to delete that no manifest names."""
        try:
            named = read_bundle(self._root).manifest.files
            for path in _journal(self._staging / _JOURNAL):
                if path not in named:
                    _delete(self._root, path)
        except BundleError:
            pass  # a bundle that cannot be read keeps all its files
        shutil.rmtree(self._staging, ignore_errors=True)

    def _write_journal(self, paths: list[str]) -> None:
        journal = self._staging / _JOURNAL
        journal.write_text(json.dumps(paths), encoding="utf-8")
        flush(journal)
        flush(self._staging)

    def _changed(self, change: Change) -> tuple[Manifest, list[str]]:
        """The whole new manifest, and which of its files are staged."""
        before = self.manifest
        new = self._staged_entries()
        there = sorted(new.keys() & before.files.keys())
        if there:
            raise BundleError(
                f"{self._root} has {', '.join(there)} already, and a bundle's files are never written over: use "
                "another name or a fresh folder"
            )
        changed = change(before)
        replaced = [
            *_lost(before.variants, changed.variants),
            *_lost(before.calibrations, changed.calibrations),
        ]
        if replaced and not self._overwrite:
            raise BundleError(
                f"{self._root} has {', '.join(map(repr, replaced))} already: choose another name, or "
                "overwrite it (overwrite=True; --overwrite on the command line)"
            )
        kept = {path: entry for path, entry in before.files.items() if not _orphaned(path, before, changed)}
        text = replace(changed, files={**kept, **new}).to_json()
        return parse_manifest(text), sorted(new)

    def _staged_entries(self) -> dict[str, FileEntry]:
        entries = {}
        for path in sorted(self.directory.rglob("*")):
            relative = path.relative_to(self.directory).as_posix()
            if path.is_symlink():
                raise BundleError(f"{relative} is a link; a bundle holds its files itself")
            if path.is_file():
                entries[check_relative_path(relative)] = self._entry(path, relative)
        return entries

    def _entry(self, path: Path, relative: str) -> FileEntry:
        """Hashes a staged file once, also when a preview and a commit both need it."""
        status = path.stat()
        mark = status.st_size, status.st_mtime_ns
        known = self._entries.get(relative)
        if known is None or known[0] != mark:
            known = self._entries[relative] = mark, file_entry(path)
        return known[1]

    def _busy(self) -> BundleError:
        return BundleError(
            f"{self._root} is being updated by another process: wait until it has ended (if none runs, delete "
            f"{self._staging})"
        )

    def _failure(self, error: OSError) -> BundleError:
        cure = cure_of(error) or "look at what the system says"
        return BundleError(f"the bundle {self._root} cannot be updated: {error}; it is as it was: {cure}")


def _lost(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    """Names whose entry is not what it was."""
    return (name for name, value in before.items() if after.get(name) != value)


def _orphaned(path: str, before: Manifest, after: Manifest) -> bool:
    """Whether a file was of a variant, a calibration or an engine that is no longer there.

    A variant names its graphs; their weights stand beside them, so a folder is a variant's as a whole.
    """
    if path in _calibration_files(before):
        return path not in _calibration_files(after)
    if path in _engine_files(before):
        return path not in _engine_files(after)
    folder = PurePosixPath(path).parent
    return folder in _variant_folders(before) and folder not in _variant_folders(after)


def _variant_folders(manifest: Manifest) -> set[PurePosixPath]:
    return {
        PurePosixPath(path).parent
        for variant in manifest.variants.values()
        for path in variant.referenced_files
    } - {PurePosixPath(".")}


def _calibration_files(manifest: Manifest) -> set[str]:
    return {calibration.file for calibration in manifest.calibrations.values()}


def _engine_files(manifest: Manifest) -> set[str]:
    return {path for engine_set in manifest.engines.values() for path in engine_set.referenced_files}


def _journal(path: Path) -> list[str]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return [check_relative_path(item) for item in raw]
    except (
        OSError,
        ValueError,
        TypeError,
        BundleCorruptError,
    ):  # killed while it was written: nothing had moved
        return []


def _delete(root: Path, relative: str) -> None:
    path = root / relative
    inside = Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(root))
    if not inside:
        return
    try:
        path.unlink(missing_ok=True)
        for parent in path.relative_to(root).parents[:-1]:
            (root / parent).rmdir()
    except OSError:  # the folder is not empty
        return


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

"""Writes a bundle so that it exists whole or not at all."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from neo_edge.errors import BundleError
from neo_edge.file_digest import digest_file
from neo_edge.manifest import MANIFEST_FILE, FileEntry, Manifest, parse_manifest

_PARTIAL = ".partial-"
_OLD = ".old-"

_log = logging.getLogger(__name__)


class BundleWriter:
    """A temporary directory beside the target that becomes the bundle when it is whole.

    with BundleWriter("robot.bundle") as writer:
        ...write files below writer.directory...
        writer.commit(manifest)

    Without `commit`, on an error or Ctrl-C the directory is removed. A process that is killed leaves a
    hidden `.NAME.partial-XXXX`, which `open_bundle` refuses.
    """

    def __init__(self, target: str | Path, *, overwrite: bool = False) -> None:
        """Checks the target before any work is done.

        Args:
            target: directory that the bundle shall be.
            overwrite: whether a bundle that is there already may be replaced. It is swapped by renaming:
                processes that have its files open keep the old ones.

        Raises:
            BundleError: the target exists and may not be replaced, or cannot be created.
        """
        self.target = Path(os.path.abspath(target))
        self._overwrite = overwrite
        self._directory: Path | None = None
        self._check_target()

    @property
    def directory(self) -> Path:
        """Where the files of the bundle are to be written."""
        if self._directory is None:
            raise BundleError("this bundle writer is not open: use it in a with statement, before commit")
        return self._directory

    def __enter__(self) -> BundleWriter:
        parent = self.target.parent
        prefix = f".{self.target.name}{_PARTIAL}"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for leftover in parent.glob(f"{prefix}*"):
                _log.warning(
                    "%s is of an export that did not finish or still runs; delete it if none runs", leftover
                )
            self._directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        except OSError as error:
            raise BundleError(f"no bundle can be written at {self.target}: {error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def commit(self, manifest: Manifest) -> Manifest:
        """Hashes the files, writes the manifest last, and gives the bundle its name.

        Args:
            manifest: without `files`.

        Returns:
            The manifest as written.

        Raises:
            BundleError: the target appeared meanwhile, or the directory holds links.
            BundleCorruptError: the manifest names files that were not written.
        """
        directory = self.directory
        files = {}
        for path in sorted(directory.rglob("*")):
            if path.is_symlink():
                raise BundleError(f"{path.relative_to(directory)} is a link; a bundle holds its files itself")
            if path.is_file():
                files[path.relative_to(directory).as_posix()] = _entry(path)
        text = replace(manifest, files=files).to_json()
        complete = parse_manifest(text)
        manifest_file = directory / MANIFEST_FILE
        manifest_file.write_text(text, encoding="utf-8")
        _flush(manifest_file)
        for folder in [path for path in directory.rglob("*") if path.is_dir()]:
            _flush(folder)
        directory.chmod(0o777 & ~_umask())
        _flush(directory)
        self._check_target()
        self._give_name(directory)
        self._directory = None
        return complete

    def _check_target(self) -> None:
        target = self.target
        if not target.name or is_partial(target):
            raise BundleError(f"{target} is no name for a bundle: choose another")
        if not os.path.lexists(target):
            return
        if not self._overwrite:
            raise BundleError(f"{target} exists already: choose another name, or ask to overwrite it")
        if target.is_symlink() or not (target / MANIFEST_FILE).is_file():
            raise BundleError(
                f"{target} exists and is no bundle, so it is not overwritten: choose another name"
            )

    def _give_name(self, directory: Path) -> None:
        if not os.path.lexists(self.target):
            directory.rename(self.target)
        else:
            old = Path(tempfile.mkdtemp(prefix=f".{self.target.name}{_OLD}", dir=self.target.parent))
            self.target.rename(old / "bundle")
            directory.rename(self.target)
            shutil.rmtree(old, ignore_errors=True)
        _flush(self.target.parent)


def is_partial(path: Path) -> bool:
    """Whether a directory is named like one that an unfinished export leaves."""
    name = Path(os.path.abspath(path)).name
    return name.startswith(".") and _PARTIAL in name


def _entry(path: Path) -> FileEntry:
    _flush(path)
    return FileEntry(size_bytes=path.stat().st_size, sha256=digest_file(path))


def _flush(path: Path) -> None:
    """Makes a file or a directory outlast a loss of power."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

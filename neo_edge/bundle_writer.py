"""Writes a bundle so that it exists whole or not at all."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from neo_edge.errors import BundleError
from neo_edge.file_digest import digest_file
from neo_edge.folder_lock import FolderLock
from neo_edge.manifest import MANIFEST_FILE, FileEntry, Manifest, parse_manifest

_PARTIAL = ".partial-"
_OLD = ".old-"
_CURES = {
    errno.ENOSPC: "free disk space, or choose a target on another disk",
    errno.EDQUOT: "free disk space, or choose a target on another disk",
    errno.EFBIG: "choose a target on a file system that takes large files",
    errno.EROFS: "choose a target that can be written",
    errno.EACCES: "choose a target that can be written, or change its permissions",
    errno.EPERM: "choose a target that can be written, or change its permissions",
}

_log = logging.getLogger(__name__)


class BundleWriter:
    """A temporary directory beside the target that becomes the bundle when it is whole.

        with BundleWriter("robot.bundle") as writer:
            ...  # write files below writer.directory
            writer.commit(manifest)

    Without `commit`, on an error or Ctrl-C the directory is removed; an `OSError`, such as a full disk, becomes a
    `BundleError`. A process that is killed leaves a hidden `.NAME.partial-XXXX`, which `open_bundle` refuses and the
    next writer of that target removes.
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
        self._lock: FolderLock | None = None
        self._check_target()

    @property
    def directory(self) -> Path:
        """Where the files of the bundle are to be written."""
        if self._directory is None:
            raise BundleError("this bundle writer is not open: use it in a with statement, before commit")
        return self._directory

    def require_space(self, size_bytes: int) -> None:
        """Raises `BundleError` when the target's disk has less room than the bundle's files will take."""
        free = shutil.disk_usage(self.directory).free
        if size_bytes > free:
            raise BundleError(
                f"{self.target} needs about {size_bytes / 1e6:.1f} MB and its disk has {free / 1e6:.1f} MB free: "
                f"{_CURES[errno.ENOSPC]}"
            )

    def __enter__(self) -> BundleWriter:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._clear_leftovers()
            self._directory, self._lock = self._new_directory(_PARTIAL)
        except (OSError, ValueError) as error:
            raise self._failure(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise self._failure(error) from error

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
                files[path.relative_to(directory).as_posix()] = file_entry(path)
        text = replace(manifest, files=files).to_json()
        complete = parse_manifest(text)
        manifest_file = directory / MANIFEST_FILE
        manifest_file.write_text(text, encoding="utf-8")
        flush(manifest_file)
        for folder in [path for path in directory.rglob("*") if path.is_dir()]:
            flush(folder)
        directory.chmod(0o777 & ~_umask())
        flush(directory)
        self._check_target()
        self._give_name(directory)
        self._directory = None
        return complete

    def _check_target(self) -> None:
        target = self.target
        if not target.name or is_partial(target):
            raise BundleError(f"{target} is no name for a bundle: choose another")
        try:
            there = os.path.lexists(target)
        except ValueError as error:  # NUL, or half a surrogate pair
            raise self._failure(error) from error
        if not there:
            return
        if not self._overwrite:
            raise BundleError(
                f"{target} exists already: choose another name, or overwrite it (overwrite=True; --overwrite on the "
                "command line)"
            )
        if target.is_symlink() or not (target / MANIFEST_FILE).is_file():
            raise BundleError(
                f"{target} exists and is no bundle, so it is not overwritten: choose another name"
            )

    def _give_name(self, directory: Path) -> None:
        if not os.path.lexists(self.target):
            directory.rename(self.target)
        else:
            old, lock = self._new_directory(_OLD)
            try:
                self.target.rename(old / "bundle")
                directory.rename(self.target)
            finally:
                try:
                    # Whatever ended it, Ctrl-C too: the old bundle gets its name back, unless another has taken it.
                    self._restore(old)
                    shutil.rmtree(old, ignore_errors=True)
                finally:
                    if lock is not None:
                        lock.release()
        flush(self.target.parent)

    def _clear_leftovers(self) -> None:
        """What killed exports of this target left, unless one of them still runs."""
        parent, name = self.target.parent, self.target.name
        for old in parent.glob(f".{_literal(name)}{_OLD}*"):
            lock = FolderLock.take(old)
            if lock is None:
                continue
            # A process killed between the two renames leaves the old bundle here, and nothing under its name.
            if self._restore(old):
                _log.warning(
                    "%s was being replaced when its export was killed: the old one is back", self.target
                )
            shutil.rmtree(old, ignore_errors=True)
            lock.release()
            self._check_target()
        for leftover in parent.glob(f".{_literal(name)}{_PARTIAL}*"):
            lock = FolderLock.take(leftover)
            if lock is None:
                _log.warning("%s is of an export that seems to run still: delete it if none does", leftover)
                continue
            _log.warning("%s was left by an export that did not finish, and is removed", leftover)
            shutil.rmtree(leftover, ignore_errors=True)
            lock.release()

    def _restore(self, old: Path) -> bool:
        """Gives a bundle that was moved out of the way its name back, where nothing has that name."""
        if not (old / "bundle").exists() or os.path.lexists(self.target):
            return False
        (old / "bundle").rename(self.target)
        return True

    def _new_directory(self, mark: str) -> tuple[Path, FolderLock | None]:
        while True:
            directory = Path(tempfile.mkdtemp(prefix=f".{self.target.name}{mark}", dir=self.target.parent))
            lock = FolderLock.take(directory)
            # Before it was locked, a writer that clears leftovers may have taken it for one.
            if directory.is_dir():
                return directory, lock

    def _failure(self, error: OSError | ValueError) -> BundleError:
        cure = cure_of(error) if isinstance(error, OSError) else None
        return BundleError(
            f"no bundle can be written at {str(self.target)!r}: {error}; nothing was left there: "
            f"{cure or 'choose another target, or look at what the system says'}"
        )


def is_partial(path: Path) -> bool:
    """Whether a directory is named like one that an unfinished export leaves."""
    name = Path(os.path.abspath(path)).name
    return name.startswith(".") and _PARTIAL in name


def cure_of(error: OSError) -> str | None:
    """What the user can do about a file that could not be written."""
    return _CURES.get(error.errno or 0)


def _literal(name: str) -> str:
    """A file's name as a pattern that matches nothing else."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def file_entry(path: Path) -> FileEntry:
    """Flushes a file to the disk and describes it."""
    flush(path)
    return FileEntry(size_bytes=path.stat().st_size, sha256=digest_file(path))


def flush(path: Path) -> None:
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

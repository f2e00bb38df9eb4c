"""Variants whose weights lie on disk as this machine's kernels want them: loaded by mapping, shared by processes.

An entry is a directory of `<cache>/prepacked`, named by its key. It gets that name whole, by renaming, and is never
written to afterwards. All that changes the directory holds a lock on it; reading needs none.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from neo_edge.bundle_writer import flush
from neo_edge.errors import CacheError
from neo_edge.file_digest import digest_file
from neo_edge.folder_lock import FolderLock
from neo_edge.manifest import FileEntry
from neo_edge_runtime.cache_folder import cache_folder, make_private, require_private
from neo_edge_runtime.cpu.compiling import LIBRARY_FILE
from neo_edge_runtime.cpu.layout import LAYOUT_FILE, WEIGHTS_FILE
from neo_edge_runtime.prepacked_key import key_name

DESCRIPTION = "entry.json"
GRAPHS = ("vision.onnx", "decoder.onnx")
_WEIGHTS = tuple(f"{name}.data" for name in GRAPHS)  # missing where all of a graph's weights are tiny
_KERNELS = (LIBRARY_FILE, LAYOUT_FILE, WEIGHTS_FILE)  # in place of the decoder's graph
_TRUSTED = (LIBRARY_FILE, LAYOUT_FILE)  # the process runs the first, and the second says what it reads
_PARTIAL, _REMOVED = ".partial-", ".removed-"
_MAX_DESCRIPTION_BYTES = 1 << 20
_POLL_S = 0.2
_REBUILD = "run `neo-edge prepack` to build it anew"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepackedVariant:
    """An entry whose files are there and have their size."""

    folder: Path
    bundle: str  # where the bundle lay when it was built
    variant: str
    key: Mapping[str, object]  # `PrepackedKey.to_dict`
    files: Mapping[str, FileEntry]  # by name
    built_s: float  # since the epoch
    last_used_s: float  # since the epoch; of loading, where the directory can be written

    @property
    def vision(self) -> Path:
        """The vision graph."""
        return self.folder / GRAPHS[0]

    @property
    def decoder(self) -> Path:
        """The decoder graph."""
        return self.folder / GRAPHS[1]

    @property
    def kernels(self) -> bool:
        """Whether the decoder runs on kernels of our own; there is no graph of it then."""
        return LIBRARY_FILE in self.files

    @property
    def size_bytes(self) -> int:
        """Of all its files: each weight as the bundle has it, and packed; only packed with kernels of our own."""
        return sum(entry.size_bytes for entry in self.files.values())

    @property
    def graph_bytes(self) -> int:
        """Of what ONNX Runtime loads; the rest is only mapped."""
        return sum(entry.size_bytes for name, entry in self.files.items() if name not in _KERNELS)

    def digest_faults(self, names: Collection[str] | None = None) -> list[str]:
        """Files that were altered, one line each; reads all of them, or those of `names`."""
        return [
            f"{name} was altered"
            for name, entry in self.files.items()
            if (names is None or name in names) and digest_file(self.folder / name) != entry.sha256
        ]


class PrepackedCache:
    """The entries of this machine."""

    def __init__(self, root: Path | None = None) -> None:
        """`root`: the cache's directory; None: `cache_folder()`."""
        self.folder = (cache_folder() if root is None else root) / "prepacked"

    def find(self, name: str) -> PrepackedVariant | None:
        """The entry of a key; None when there is none.

        Raises:
            CacheError: it is there and damaged, or others can change it.
        """
        folder = self.folder / name
        try:
            if not os.path.lexists(folder):
                return None
            for path in (self.folder.parent, self.folder, folder):
                require_private(path)
            return _read(folder)
        except FileNotFoundError:
            return None  # it was removed meanwhile
        except OSError as error:
            raise CacheError(f"the cache {self.folder} cannot be read: {error}: {_REBUILD}") from error

    def names(self) -> list[str]:
        """Keys of all entries, sound or not."""
        try:
            return sorted(name for name in os.listdir(self.folder) if not name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise CacheError(f"the cache {self.folder} cannot be read: {error}") from error

    def size_bytes(self, name: str) -> int:
        """What an entry takes on disk, sound or not."""
        folder = self.folder / name
        return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())

    @contextlib.contextmanager
    def locked(self, wait_s: float) -> Iterator[None]:
        """Alone in the directory, which is made; what killed builds left in it is removed.

        Raises:
            CacheError: another process is at work there all the time, or others can change the directory.
            OSError: it cannot be made.
        """
        make_private(self.folder.parent)
        make_private(self.folder)
        deadline, said = time.monotonic() + wait_s, False
        while (lock := FolderLock.take(self.folder)) is None:
            if time.monotonic() >= deadline:
                raise CacheError(
                    f"{self.folder} was in use by another process for {wait_s:.0f} s (or its file system has no "
                    "locks): try again later, or set NEO_EDGE_CACHE_DIR to a directory on a local disk"
                )
            if not said:
                _log.warning("another process is at work in %s: waiting for it", self.folder)
                said = True
            time.sleep(_POLL_S)
        try:
            for name in os.listdir(self.folder):
                if name.startswith((_PARTIAL, _REMOVED)):
                    _log.warning("%s was left by a process that did not finish, and is removed", name)
                    shutil.rmtree(self.folder / name, ignore_errors=True)
            yield
        finally:
            lock.release()

    def new_folder(self) -> Path:
        """An empty directory for an entry's files; call it, `commit` and `remove` only while the lock is held."""
        return Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self.folder))

    def commit(
        self, written: Path, name: str, *, bundle: str, variant: str, key: Mapping[str, object]
    ) -> PrepackedVariant:
        """Describes the files of `written`, flushes them and gives them the key's name.

        Raises:
            OSError: something cannot be written.
        """
        files = {}
        for path in sorted(written.iterdir()):
            path.chmod(0o600)
            flush(path)
            files[path.name] = FileEntry(path.stat().st_size, digest_file(path))
        described = {
            "bundle": bundle,
            "variant": variant,
            "built_s": time.time(),
            "key": dict(key),
            "files": {file: asdict(entry) for file, entry in files.items()},
        }
        description = written / DESCRIPTION
        description.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        description.chmod(0o600)
        flush(description)
        flush(written)
        self.remove(name)
        written.rename(self.folder / name)
        flush(self.folder)
        return _read(self.folder / name)

    def remove(self, name: str) -> None:
        """Removes an entry, if it is there; processes that have it loaded keep it."""
        folder = self.folder / name
        if not os.path.lexists(folder):
            return
        # Renamed first: an entry is whole or not there.
        gone = Path(tempfile.mkdtemp(prefix=_REMOVED, dir=self.folder))
        folder.rename(gone / name)
        shutil.rmtree(gone, ignore_errors=True)


def mark_used(entry: PrepackedVariant) -> None:
    """Remembers when it was loaded; a cache that cannot be written forgets."""
    with contextlib.suppress(OSError):
        os.utime(entry.folder / DESCRIPTION)


def _read(folder: Path) -> PrepackedVariant:
    """Raises `CacheError` for what is not whole, `OSError` for what is not there."""
    description = folder / DESCRIPTION
    try:
        status = description.stat()
        with description.open("rb") as file:
            data = json.loads(file.read(_MAX_DESCRIPTION_BYTES).decode("utf-8"))
        entry = PrepackedVariant(
            folder=folder,
            bundle=str(data["bundle"]),
            variant=str(data["variant"]),
            key=dict(data["key"]),
            files={
                str(name): FileEntry(int(value["size_bytes"]), str(value["sha256"]))
                for name, value in data["files"].items()
            },
            built_s=float(data["built_s"]),
            last_used_s=status.st_mtime,
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CacheError(f"{folder} is no prepacked variant ({error}): {_REBUILD}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CacheError(f"{description} is damaged ({error!r}): {_REBUILD}") from error
    needed = (GRAPHS[0], *_KERNELS) if entry.kernels else GRAPHS
    known = (*needed, *(_WEIGHTS[:1] if entry.kernels else _WEIGHTS))
    faults = [f"{name} is missing" for name in needed if name not in entry.files]
    faults += [f"{name} is unknown" for name in entry.files if name not in known]
    if key_name(entry.key) != folder.name:
        faults.append("it is of another key")
    faults += [fault for name, file in entry.files.items() if (fault := _fault(folder / name, file))]
    faults = faults or entry.digest_faults(_TRUSTED)
    if faults:
        raise CacheError(f"{folder} is damaged ({'; '.join(faults)}): {_REBUILD}")
    return entry


def _fault(path: Path, entry: FileEntry) -> str:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return f"{path.name} is missing"
    if not stat.S_ISREG(status.st_mode):
        return f"{path.name} is no file"
    require_private(path)
    if status.st_size != entry.size_bytes:
        return f"{path.name} has {status.st_size} bytes, not {entry.size_bytes}"
    return ""

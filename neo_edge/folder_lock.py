"""Whether a process still works in a folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl


class FolderLock:
    """An advisory lock on a folder itself; no file is written. Held until `release`, or the process's end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path) -> FolderLock | None:
        """The lock; None when a process holds it, the folder is gone, or the file system has no locks."""
        try:
            return cls.take_unless_held(folder)
        except BlockingIOError:
            return None

    @classmethod
    def take_unless_held(cls, folder: Path) -> FolderLock | None:
        """As `take`, but a lock that a process holds is a `BlockingIOError`."""
        if sys.platform == "win32":
            return None
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError:
            os.close(descriptor)
            return None
        return cls(descriptor)

    def release(self) -> None:
        """Lets others take it."""
        os.close(self._descriptor)

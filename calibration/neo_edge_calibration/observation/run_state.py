"""Where a calibration keeps what it has done, so that it can be taken up after a kill."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from neo_edge.bundle import Bundle
from neo_edge.errors import CalibrationError, NeoEdgeError
from neo_edge.folder_lock import FolderLock
from neo_edge_calibration.statistics import CalibrationStatistics

STATE = ".partial-calibrate-"  # begins the names of such directories, which lie in the bundle


class RunState:
    """The directory in the bundle where a run keeps what it has done; left there when the process is killed."""

    def __init__(self, bundle: Bundle) -> None:
        self._root = Path(os.path.abspath(bundle.root))
        self.finished = False  # nothing here is needed any more
        self.gathered = False  # all is here, and only has to be written
        self._lock: FolderLock | None = None

    def __enter__(self) -> RunState:
        while True:
            self.directory = Path(tempfile.mkdtemp(prefix=f"{STATE}new-", dir=self._root))
            self._lock = FolderLock.take(self.directory)
            # Before it was locked, another run may have taken it for a dead one's.
            if self.directory.is_dir():
                return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        # An interrupted run can be taken up; one that failed would fail again, and fills the disk.
        failed = isinstance(error, (NeoEdgeError, OSError)) and not self.gathered
        if self.finished or failed or "-new-" in self.directory.name:
            shutil.rmtree(self.directory, ignore_errors=True)
        if self._lock is not None:
            self._lock.release()

    def settle(self, wanted: CalibrationStatistics, threads: int) -> None:
        """Gives the directory the name of what is done in it, or goes on in the one that has it.

        Raises:
            CalibrationError: another process works in that one.
        """
        facts = (wanted.data_digest, wanted.checkpoint_digest, wanted.graph_digest, wanted.variant, threads)
        key = hashlib.sha256(repr(facts).encode()).hexdigest()[:20]
        target = self._root / f"{STATE}{key}"
        self.clear_others(target)
        if not target.exists():
            self.directory.rename(target)
        else:
            lock = FolderLock.take(target)
            if lock is None and self._lock is not None:
                raise CalibrationError(
                    f"{self._root} is being calibrated with the same data by another process: wait until it has ended"
                )
            shutil.rmtree(self.directory, ignore_errors=True)
            if self._lock is not None:
                self._lock.release()
            self._lock = lock
        self.directory = target

    def clear_others(self, mine: Path | None = None) -> None:
        """Removes what runs of other data or options left that nobody works in."""
        for path in self._root.glob(f"{STATE}*"):
            if path in (mine, self.directory):
                continue
            lock = FolderLock.take(path)
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
                lock.release()

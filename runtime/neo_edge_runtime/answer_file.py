"""Answers of a file of prompts, written one JSON object a line as they are made, so that none is lost.

A line has the number of its question's line and the digest of that line's text; a later run that resumes skips what is
answered. Whatever ends the process, all lines but a torn last one are whole.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neo_edge.errors import InputError
from neo_edge_runtime.prompt_file import NumberedRequest

if sys.platform != "win32":
    import fcntl

OpenMode = Literal["new", "overwrite", "resume"]
_LINE_BYTES = 256 << 20  # beyond any answer


@dataclass(frozen=True)
class _Answered:
    line: int
    digest: str
    failed: bool


class AnswerFile:
    """An open file of answers; no other process may write it meanwhile."""

    def __init__(self, path: Path, descriptor: int, answered: dict[int, str]) -> None:
        self.path = path
        self._descriptor, self._answered = descriptor, answered

    @property
    def kept(self) -> int:
        """Answers that were there when it was opened."""
        return len(self._answered)

    def lacks(self, asked: NumberedRequest) -> bool:
        """Whether the question is still to be asked.

        Raises:
            InputError: its line is answered, and had another text then.
        """
        digest = self._answered.get(asked.line)
        if digest not in (None, asked.digest):
            raise InputError(
                f"{self.path} has an answer to line {asked.line}, and that line had another text then: give the file "
                "that it was made from, or pass --overwrite"
            )
        return digest is None

    def missing(self, prompts: Iterable[NumberedRequest], total: int) -> int:
        """How many of the `total` questions are still to be asked; raises as `lacks`, also for answers to none."""
        missing = sum(map(self.lacks, prompts)) if self._answered else total
        if self.kept + missing != total:
            raise InputError(
                f"{self.path} has answers to lines that hold no question now: give the file that it was made from, or "
                "pass --overwrite"
            )
        return missing

    def write(self, record: Mapping[str, object]) -> None:
        """Appends an answer; whole, or not at all."""
        with _disk_errors(self.path):
            end = os.lseek(self._descriptor, 0, os.SEEK_END)
            left = memoryview(_line(record))
            try:
                while left:
                    left = left[os.write(self._descriptor, left) :]
            finally:
                if left:
                    os.ftruncate(self._descriptor, end)


def require_writable(path: Path, mode: OpenMode) -> None:
    """Raises what `open_answers` would raise about the name, before any work.

    Raises:
        InputError: something is there and may not be replaced, or there is no such folder.
    """
    if path.exists() and not (path.is_file() and mode != "new"):
        cure = ", pass --overwrite, or --resume to add the answers that it lacks" if path.is_file() else ""
        raise InputError(f"{path} exists already: choose another name{cure}")
    if not path.parent.is_dir():
        raise InputError(
            f"{path.parent} is no directory, so {path.name} cannot be written there: make it first"
        )


@contextmanager
def open_answers(path: Path, mode: OpenMode) -> Iterator[AnswerFile]:
    """Opens the file to write; with `resume` what is answered stays, and what failed or is torn goes.

    Raises:
        InputError: as `require_writable`; or another process writes it; or it holds something else than answers.
    """
    require_writable(path, mode)
    flags = os.O_RDWR | os.O_CREAT | (os.O_EXCL if mode == "new" else 0)
    answered: dict[int, str] = {}
    with _disk_errors(path):
        descriptor = os.open(path, flags, 0o666)
    try:
        with _disk_errors(path):
            _lock(descriptor, path)
            if mode == "resume":
                answered = _resumed(descriptor, path)
            else:
                os.ftruncate(descriptor, 0)
        yield AnswerFile(path, descriptor, answered)
        with _disk_errors(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error}): free disk space, or choose another name"
        ) from error


def _resumed(descriptor: int, path: Path) -> dict[int, str]:
    """The digests of what is answered, by line; what failed or is torn is no longer in the file."""
    answered: dict[int, str] = {}
    failed, whole = False, 0
    for end, _, found in _answers(descriptor, path):
        whole = end
        if found.failed:
            failed = True
        else:
            answered[found.line] = found.digest
    os.ftruncate(descriptor, whole)
    if failed:
        _drop_failed(descriptor, path)
    return answered


def _drop_failed(descriptor: int, path: Path) -> None:
    """Replaces the file by one with the other answers; the descriptor is of that one then."""
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    fresh = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        _lock(fresh, path)
        with os.fdopen(os.dup(fresh), "wb") as file:
            for _, line, found in _answers(descriptor, path):
                if not found.failed:
                    file.write(line)
        os.fsync(fresh)
        partial.replace(path)
        os.dup2(fresh, descriptor)
    finally:
        os.close(fresh)
        partial.unlink(missing_ok=True)


def _answers(descriptor: int, path: Path) -> Iterator[tuple[int, bytes, _Answered]]:
    """Where each line ends, the line, and what it answers; not a last one that is torn."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        number, end = 0, 0
        while line := file.readline(_LINE_BYTES):
            number, end = number + 1, end + len(line)
            found = _answered(line) if line.endswith(b"\n") else None
            if found is None:
                if file.read(1):
                    raise InputError(
                        f"{path}, line {number}: no answer of neo-edge batch, so the file cannot be resumed: choose "
                        "another name, or pass --overwrite"
                    )
                return
            yield end, line, found


def _answered(line: bytes) -> _Answered | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    number, digest = record.get("line"), record.get("digest")
    if not (type(number) is int and isinstance(digest, str)):
        return None
    return _Answered(number, digest, "error" in record)


def _line(record: Mapping[str, object]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _lock(descriptor: int, path: Path) -> None:
    """Until the descriptor is closed, or the process ends; where the system has no such locks, none."""
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            f"another process writes {path}: wait for it to end, or choose another name"
        ) from error
    except OSError:  # a file system without locks
        return

"""Carries a folder over a link that takes small files only: split it here, join it there, nothing lost or altered.

    python carry_wheels.py split wheels parts            # parts/000.part, 001.part, ... and parts/contents.json
    python carry_wheels.py join parts wheels             # on the other machine; it needs Python alone

A part has 60 MB at most. Every part and every file has its sha256; what is missing or altered is named, and then no
file is written under its name.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

PART_BYTES = 60_000_000
CONTENTS = "contents.json"
_PIECE = 1 << 20  # bytes read at a time


class CarryError(Exception):
    """What arrived is not what was sent; the message names it."""


def split(folder: Path, target: Path, part_bytes: int = PART_BYTES) -> list[Path]:
    """Writes the folder's files as parts.

    Args:
        folder: files, in subfolders or not.
        target: a folder without parts.
        part_bytes: most bytes of a part.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if not names:
        raise CarryError(f"{folder} holds no files: give the folder that pip download wrote")
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise CarryError(
            f"{target} is not empty: give a new folder, so that no old part is carried with the new ones"
        )
    files = [
        {"name": name, "size_bytes": (folder / name).stat().st_size, "sha256": _digest(folder / name)}
        for name in names
    ]
    parts = list(_write_parts(_pieces(folder / name for name in names), target, part_bytes))
    digests = {part.name: _digest(part) for part in parts}
    (target / CONTENTS).write_text(json.dumps({"parts": digests, "files": files}, indent=2) + "\n", "utf-8")
    return parts


def join(parts: Path, folder: Path) -> list[Path]:
    """Writes the files again; raises `CarryError` when anything is missing or altered."""
    try:
        contents = json.loads((parts / CONTENTS).read_text("utf-8"))
        digests, files = dict(contents["parts"]), list(contents["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CarryError(f"{parts / CONTENTS} is not there or damaged ({error}): carry it again") from error
    missing = [name for name in digests if not (parts / name).is_file()]
    if missing:
        raise CarryError(f"{len(missing)} of {len(digests)} parts are missing: carry {', '.join(missing)}")
    altered = [name for name, digest in digests.items() if _digest(parts / name) != digest]
    if altered:
        raise CarryError(
            f"{len(altered)} of {len(digests)} parts are damaged: carry {', '.join(altered)} again"
        )
    source = _Bytes(_pieces(parts / name for name in digests))
    return [_restore(source, folder, file) for file in files]


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 1 behind a message."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("split", "join"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args(argv)
    try:
        written = (split if args.what == "split" else join)(args.source, args.target)
    except (CarryError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in written)
    print(
        f"wrote {len(written)} {'parts' if args.what == 'split' else 'files'}, {size / 1e6:.1f} MB, into {args.target}"
    )
    return 0


class _Bytes:
    """A stream of pieces, read by length."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, b""

    def read(self, size: int) -> Iterator[bytes]:
        while size:
            if not self._left:
                self._left = next(self._pieces, b"")
                if not self._left:
                    raise CarryError(
                        f"the parts end {size} bytes too early: split and carry the folder again"
                    )
            taken, self._left = self._left[:size], self._left[size:]
            size -= len(taken)
            yield taken


def _write_parts(pieces: Iterator[bytes], target: Path, part_bytes: int) -> Iterator[Path]:
    left = b""
    number = 0
    while left or (left := next(pieces, b"")):
        part = target / f"{number:03}.part"
        room = part_bytes
        with part.open("wb") as file:
            while room and (left or (left := next(pieces, b""))):
                file.write(left[:room])
                written = min(room, len(left))
                left, room = left[written:], room - written
        yield part
        number += 1


def _restore(source: _Bytes, folder: Path, file: dict[str, object]) -> Path:
    name = PurePosixPath(str(file["name"]))
    if name.is_absolute() or ".." in name.parts:
        raise CarryError(f"{CONTENTS} names {name}, which is outside of the folder: nothing of it is written")
    target = folder / name
    partial = target.with_name(f"{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with partial.open("wb") as out:
        for piece in source.read(int(str(file["size_bytes"]))):
            digest.update(piece)
            out.write(piece)
    if digest.hexdigest() != file["sha256"]:
        partial.unlink()
        raise CarryError(f"{name} is not what was sent: split and carry the folder again")
    return partial.replace(target)


def _pieces(paths: Iterator[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(iter([path])):
        digest.update(piece)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())

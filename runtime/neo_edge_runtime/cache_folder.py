"""The directory that neo_edge keeps for itself on a machine, and whether what lies in it may be trusted."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from neo_edge.errors import CacheError

VARIABLE = "NEO_EDGE_CACHE_DIR"
_ELSEWHERE = f"set {VARIABLE} to a directory of your own"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_folder(environment: Mapping[str, str] | None = None) -> Path:
    """`$NEO_EDGE_CACHE_DIR`, else `$XDG_CACHE_HOME/neo_edge`, else `~/.cache/neo_edge`; it need not exist.

    Raises:
        CacheError: the home directory is unknown.
    """
    variables = os.environ if environment is None else environment
    chosen = variables.get(VARIABLE, "")
    if chosen:
        return Path(os.path.abspath(chosen))
    base = variables.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():  # the specification wants others ignored
        return Path(base) / "neo_edge"
    try:
        return Path.home() / ".cache" / "neo_edge"
    except RuntimeError as error:
        raise CacheError(f"the home directory is unknown ({error}): {_ELSEWHERE}") from error


def shown_cache_folder(environment: Mapping[str, str] | None = None) -> str:
    """How `cache_folder` is chosen, for a report that shall name no user: `~/.cache/neo_edge`."""
    variables = os.environ if environment is None else environment
    if variables.get(VARIABLE):
        return f"${VARIABLE}"
    if Path(variables.get("XDG_CACHE_HOME", "")).is_absolute():
        return "$XDG_CACHE_HOME/neo_edge"
    return "~/.cache/neo_edge"


def make_private(folder: Path) -> None:
    """Makes a directory and those above it, for this user alone; one that is there stays as it is.

    Raises:
        OSError: it cannot be made.
        CacheError: others can change what is in it.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    require_private(folder)


def require_private(path: Path) -> None:
    """Passes when nobody but this user and the administrator can change a file or directory.

    What lies in the cache decides what a model computes, as a program does.

    Raises:
        OSError: it is not there.
        CacheError: somebody else can.
    """
    if sys.platform == "win32":
        return
    real = Path(os.path.realpath(path))
    status = real.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise CacheError(
            f"{path} belongs to user {status.st_uid}, who could change what models compute: change its owner, or "
            f"{_ELSEWHERE}"
        )
    if status.st_mode & _OTHERS_WRITE:
        raise CacheError(
            f"others can write to {path} (mode {stat.S_IMODE(status.st_mode):04o}) and so change what models compute: "
            f"run  chmod -R go-w {path}  if you trust what is there, or {_ELSEWHERE}"
        )
    for parent in real.parents:
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise CacheError(
                f"everybody can write to {parent} and so replace {path}: run  chmod o-w {parent}, or {_ELSEWHERE}"
            )

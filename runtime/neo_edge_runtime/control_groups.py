"""The control groups (containers, services) that this process is in; each limits what is inside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")


def own_groups(
    controller: Literal["cpu", "memory"], proc: Path = PROC, cgroup: Path = CGROUP
) -> Iterator[tuple[Path, Literal[1, 2]]]:
    """Folder and version of every group with this controller, from the process's own up to the root."""
    for line in read_text(proc / "self" / "cgroup").splitlines():
        _, controllers, name = [*line.split(":", 2), "", ""][:3]
        version: Literal[1, 2] = 1 if controllers else 2
        if controllers and controller not in controllers.split(","):
            continue
        base = cgroup / controller if controllers else cgroup
        group = base / name.lstrip("/")
        for folder in (group, *group.parents):
            yield folder, version
            if folder == base:
                break


def read_text(path: Path) -> str:
    """The text of a small system file without its last newline; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""

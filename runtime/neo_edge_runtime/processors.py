"""How many threads a run should get: the physical cores that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")


def usable_physical_cores(cpus: Path = _CPUS) -> int:
    """Physical cores of this process's affinity mask; logical ones where the system does not tell them apart.

    Two threads on one core share its multipliers, so more than this makes matrix products slower, not faster.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_siblings(cpus / f"cpu{index}") or str(index) for index in allowed}
    return max(1, len(cores))


def _siblings(cpu: Path) -> str:
    try:
        return (cpu / "topology" / "thread_siblings_list").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""

"""How many threads a run should get: the physical cores that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


def usable_physical_cores(cpus: Path = _CPUS, proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """Physical cores of this process's affinity mask, at most what its control groups' time quota is worth.

    Two threads on one core share its multipliers, so more than this makes matrix products slower, not faster.
    Where the system does not tell cores apart, logical ones count.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {
        _text(cpus / f"cpu{index}" / "topology" / "thread_siblings_list") or str(index) for index in allowed
    }
    return max(1, min([len(cores), *_quotas(proc, cgroup)]))


def _quotas(proc: Path, cgroup: Path) -> list[int]:
    """Whole processors' worth of time of every group (version 2) from this process's up to the root."""
    quotas = []
    for line in _text(proc / "self" / "cgroup").splitlines():
        if line.startswith("0::"):
            group = cgroup / line[3:].lstrip("/")
            for folder in (group, *group.parents):
                quota, _, period = _text(folder / "cpu.max").partition(" ")
                if quota.isdigit() and period.isdigit():
                    quotas.append(math.ceil(int(quota) / int(period)))
                if folder == cgroup:
                    break
    return quotas


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""

"""How many threads a run should get: the physical cores that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

from neo_edge_runtime.control_groups import CGROUP, PROC, own_groups, read_text

_CPUS = Path("/sys/devices/system/cpu")


def usable_physical_cores(cpus: Path = _CPUS, proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """Physical cores of this process's affinity mask, at most what its control groups' time quota is worth.

    Two threads on one core share its multipliers, so more than this makes matrix products slower, not faster.
    Where the system does not tell cores apart, logical ones count.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {
        read_text(cpus / f"cpu{index}" / "topology" / "thread_siblings_list") or str(index)
        for index in allowed
    }
    return max(1, min([len(cores), *_quotas(proc, cgroup)]))


def _quotas(proc: Path, cgroup: Path) -> list[int]:
    """Whole processors' worth of time of every group from this process's up to the root."""
    quotas = []
    for folder, version in own_groups("cpu", proc, cgroup):
        if version == 2:
            quota, _, period = read_text(folder / "cpu.max").partition(" ")
        else:
            quota, period = (read_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota.isdigit() and period.isdigit():  # `max` or -1: no limit
            quotas.append(math.ceil(int(quota) / int(period)))
    return quotas

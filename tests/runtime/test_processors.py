from __future__ import annotations

import os
from pathlib import Path

from neo_edge_runtime.processors import usable_physical_cores


def test_two_threads_of_one_core_count_once(tmp_path: Path) -> None:
    for index in range(os.cpu_count() or 1):
        topology = tmp_path / f"cpu{index}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text("0-999\n")
    assert usable_physical_cores(tmp_path, tmp_path, tmp_path) == 1


def test_without_a_topology_every_processor_of_this_process_counts(tmp_path: Path) -> None:
    assert usable_physical_cores(tmp_path, tmp_path, tmp_path) == len(os.sched_getaffinity(0))


def test_a_container_that_may_use_one_and_a_half_processors_gets_two_threads(tmp_path: Path) -> None:
    group = tmp_path / "cgroup" / "robot"
    group.mkdir(parents=True)
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/robot\n")
    (group / "cpu.max").write_text("150000 100000\n")
    found = usable_physical_cores(tmp_path / "none", tmp_path, tmp_path / "cgroup")
    assert found == min(2, len(os.sched_getaffinity(0)))
    (group / "cpu.max").write_text("max 100000\n")
    (tmp_path / "cgroup" / "cpu.max").write_text("10000 100000\n")
    assert usable_physical_cores(tmp_path / "none", tmp_path, tmp_path / "cgroup") == 1


def test_the_older_control_groups_quota_counts_too(tmp_path: Path) -> None:
    group = tmp_path / "cgroup" / "cpu"
    group.mkdir(parents=True)
    (tmp_path / "self").mkdir()
    # In a container the name is the host's, and the container's own files stand at the mount's root.
    (tmp_path / "self" / "cgroup").write_text("5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    (group / "cpu.cfs_quota_us").write_text("50000\n")
    assert usable_physical_cores(tmp_path / "none", tmp_path, tmp_path / "cgroup") == 1
    (group / "cpu.cfs_quota_us").write_text("-1\n")
    allowed = len(os.sched_getaffinity(0))
    assert usable_physical_cores(tmp_path / "none", tmp_path, tmp_path / "cgroup") == allowed

from __future__ import annotations

import os
from pathlib import Path

from neo_edge_runtime.processors import usable_physical_cores


def test_two_threads_of_one_core_count_once(tmp_path: Path) -> None:
    for index in range(os.cpu_count() or 1):
        topology = tmp_path / f"cpu{index}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text("0-999\n")
    assert usable_physical_cores(tmp_path) == 1


def test_without_a_topology_every_processor_of_this_process_counts(tmp_path: Path) -> None:
    assert usable_physical_cores(tmp_path) == len(os.sched_getaffinity(0))

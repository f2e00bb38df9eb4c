"""The builder's nested phases as one percentage."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from neo_edge.progress import Progress, progress
from neo_edge_export.tensorrt import builder_api as api
from neo_edge_export.tensorrt.cancellation import Cancellation
from neo_edge_export.tensorrt.installed import TensorRT


class PhaseTree:
    """How far a build is, from the phases that begin within each other."""

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._parent: dict[str, str | None] = {}
        self._percent = 0

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps began, within a step of its parent."""
        self._steps[phase], self._done[phase], self._parent[phase] = max(1, steps), 0, parent

    def step(self, phase: str, step: int) -> None:
        """Step number `step`, counted from 0, is done."""
        if phase in self._done:
            self._done[phase] = max(self._done[phase], step + 1)

    def finish(self, phase: str) -> None:
        """A phase that has ended counts within its parent's steps from now on."""
        if self._parent.get(phase) is not None:
            for table in (self._steps, self._done, self._parent):
                table.pop(phase, None)
        elif phase in self._done:
            self._done[phase] = self._steps[phase]

    @property
    def percent(self) -> int:
        """0 to 100, never less than before: TensorRT may add phases as it goes."""
        roots = [phase for phase, parent in self._parent.items() if parent not in self._steps]
        if roots:
            found = sum(map(self._fraction, roots)) / len(roots)
            self._percent = max(self._percent, int(100 * found))
        return self._percent

    def _fraction(self, phase: str) -> float:
        within = sum(self._fraction(child) for child, parent in self._parent.items() if parent == phase)
        return min(1.0, (self._done[phase] + min(1.0, within)) / self._steps[phase])


@contextmanager
def monitored(
    module: TensorRT, config: api.IBuilderConfig, description: str, cancellation: Cancellation
) -> Iterator[None]:
    """Shows the progress of builds with this config, and ends them at the next step once that is asked for."""
    with progress(100, description, "%") as bar:
        config.progress_monitor = _monitor(module, bar, cancellation)
        yield


def _monitor(module: TensorRT, bar: Progress[int], cancellation: Cancellation) -> api.IProgressMonitor:
    tree, lock = PhaseTree(), threading.Lock()
    shown = 0
    base: type = module.IProgressMonitor

    # An exception must not leave these: C++ calls them.
    class Monitor(base):  # type: ignore[misc] # known where TensorRT is imported
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with lock:
                tree.start(phase_name, parent_phase, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            with lock:
                tree.finish(phase_name)
            show()

        def step_complete(self, phase_name: str, step: int) -> bool:
            with lock:
                tree.step(phase_name, step)
            show()
            return not cancellation.requested

    def show() -> None:
        nonlocal shown
        with lock:
            now = tree.percent
            if now > shown:
                bar.update(now - shown)
                shown = now

    monitor: api.IProgressMonitor = Monitor()
    return monitor

"""Runs `neo-edge` in a process of its own and watches its anonymous memory, phase by phase.

Anonymous memory (RssAnon) is what no file stands behind; mapped weights are not part of it. A phase ends where the
program says on standard error that all of something is done ("writing weights: 31/31 tensors").
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from command_line import command

SAMPLE_EVERY_S = 0.01
_DONE = re.compile(r"(?P<what>[a-z ]+): (?P<count>\d+)/(?P=count) ")
LAST_PHASE = "finishing"


@dataclass
class Phase:
    """What the program was busy with."""

    seconds: float
    peak_anonymous_bytes: int


@dataclass
class Watched:
    """How a process ran."""

    phases: dict[str, Phase]  # by what the program called it, in order, and `LAST_PHASE`
    output: str  # standard output

    @property
    def seconds(self) -> float:
        """From start to end."""
        return sum(phase.seconds for phase in self.phases.values())


@dataclass
class _Samples:
    moments: list[float] = field(default_factory=list)
    anonymous_bytes: list[int] = field(default_factory=list)
    ended: list[tuple[str, float]] = field(default_factory=list)  # phases and when they ended


def watch(*arguments: object) -> Watched:
    """Runs a verb to its end; its messages go on to standard error.

    Raises:
        subprocess.CalledProcessError: its exit status is not 0.
    """
    line, samples, started = command(*arguments), _Samples(), time.perf_counter()
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        output: list[str] = []
        readers = [
            threading.Thread(target=lambda: output.append(child.stdout.read() if child.stdout else "")),
            threading.Thread(target=_follow, args=(child, samples)),
        ]
        for reader in readers:
            reader.start()
        while child.poll() is None:
            samples.moments.append(time.perf_counter())
            samples.anonymous_bytes.append(_anonymous_bytes(child.pid))
            time.sleep(SAMPLE_EVERY_S)
        for reader in readers:
            reader.join()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, line, "".join(output))
    return Watched(_phases(samples, started, time.perf_counter()), "".join(output))


def _follow(child: subprocess.Popen[str], samples: _Samples) -> None:
    assert child.stderr is not None
    for line in child.stderr:
        sys.stderr.write(line)
        done = _DONE.match(line)
        if done and done["what"] not in [what for what, _ in samples.ended]:
            samples.ended.append((done["what"], time.perf_counter()))


def _phases(samples: _Samples, started: float, ended: float) -> dict[str, Phase]:
    found = {}
    for what, end in [*samples.ended, (LAST_PHASE, ended)]:
        seen = [
            size
            for moment, size in zip(samples.moments, samples.anonymous_bytes, strict=True)
            if started <= moment < end
        ]
        found[what] = Phase(end - started, max(seen, default=0))
        started = end
    return found


def _anonymous_bytes(pid: int) -> int:
    """0 when the process is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0

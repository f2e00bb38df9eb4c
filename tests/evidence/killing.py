"""Kills functions and programs, without a warning, at random moments; each user says what must hold afterwards."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

_PHASE = re.compile(rb"^([a-z0-9 -]+): ", re.MULTILINE)
_LOOK_EVERY_S = 0.001

P, T = ParamSpec("P"), TypeVar("T")
Moment = float | Callable[[], bool]  # so many seconds after the start; or as soon as this is true


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    finished: bool  # it was done, if need be before its killer came
    seconds: float
    phase: str = ""  # of a program: what it last said that it was busy with; empty: nothing yet


def in_a_fresh_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What it returns there: a process of one thread, which `run_function` needs, has a module's function done."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args, **kwargs).result()


def run_function(work: Callable[[], object], kill_at: Moment | None = None) -> Ended:
    """Runs it in a fork of this process, which must have one thread only.

    Seconds, also those after which it is killed, are of its processor time: what else the machine does changes
    little of it.

    Raises:
        RuntimeError: it failed by itself.
    """
    dies_after_s = kill_at if isinstance(kill_at, int | float) else None
    child = multiprocessing.get_context("fork").Process(target=_silently, args=(work, dies_after_s))
    before_s = _childrens_seconds()
    child.start()
    if callable(kill_at) and _came(kill_at, child.join, lambda: child.exitcode is not None):
        child.kill()
    child.join()
    return Ended(_finished(child.exitcode, "the function"), _childrens_seconds() - before_s)


def run_program(line: Sequence[str], kill_at: Moment | None = None) -> Ended:
    """Runs a command line.

    Raises:
        RuntimeError: it failed by itself; with what it said last.
    """
    with tempfile.TemporaryFile() as said, subprocess.Popen(line, stdout=said, stderr=said) as child:
        started = time.perf_counter()
        if _came(kill_at, lambda seconds: _wait(child, seconds), lambda: child.poll() is not None):
            child.kill()
        child.wait()
        seconds = time.perf_counter() - started
        said.seek(0)
        output = said.read()
    phases = _PHASE.findall(output)
    finished = _finished(child.returncode, output[-2000:].decode(errors="replace"))
    return Ended(finished, seconds, phases[-1].decode() if phases else "")


def kills(
    run: Callable[[float], Ended], whole_s: float, count: int, seed: int
) -> Iterator[tuple[float, Ended]]:
    """Kills a run `count` times; gives the moment, in seconds, and how the run ended, while its traces are fresh.

    The run is cut into as many equal pieces as there are kills, and each kill comes at a random moment of its own
    piece, in random order, so that all of a run gets its share. A run that is quicker than its killer shortens the
    later moments.

    Args:
        run: starts one and kills it after so many seconds.
        whole_s: what one takes that is not killed.
        count: of kills.
        seed: of the moments.
    """
    chosen = random.Random(seed)
    for piece in chosen.sample(range(count), count):
        moment_s = (piece + chosen.random()) / count * whole_s
        ended = run(moment_s)
        if ended.finished:
            whole_s = min(whole_s, ended.seconds)
        yield moment_s, ended


def _came(kill_at: Moment | None, wait: Callable[[float | None], object], ended: Callable[[], bool]) -> bool:
    """Waits for the moment or the end; whether the moment came first."""
    if kill_at is None or isinstance(kill_at, int | float):
        wait(kill_at)
    else:
        while not ended() and not kill_at():
            time.sleep(_LOOK_EVERY_S)
    return not ended()


def _wait(child: subprocess.Popen[bytes], seconds: float | None) -> None:
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _finished(status: int | None, said: str) -> bool:
    if status not in (0, -signal.SIGKILL, -signal.SIGPROF):
        raise RuntimeError(f"it failed with status {status} before anybody killed it: {said}")
    return status == 0


def _childrens_seconds() -> float:
    """Processor time of children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _silently(work: Callable[[], object], dies_after_s: float | None) -> None:
    if dies_after_s is not None:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process as SIGKILL does
        signal.setitimer(signal.ITIMER_PROF, max(dies_after_s, 1e-6))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    work()

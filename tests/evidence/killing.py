"""Kills functions and programs (SIGKILL) at random moments; each user says what must hold afterwards."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

_PHASE = re.compile(rb"^([a-z0-9 -]+): ", re.MULTILINE)
_LOOK_EVERY_S = 0.001

P, T = ParamSpec("P"), TypeVar("T")
Moment = (
    float | Callable[[], bool]
)  # how far from the start, as in `Ended.length`; or as soon as this is true


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    finished: bool  # it was done, if need be before its killer came
    length: float  # seconds of a program; of a function, calls of others and returns from them
    phase: str = ""  # of a program: what it last said that it was busy with; empty: nothing yet


def in_a_fresh_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What it returns there: a process of one thread, which `run_function` needs, has a module's function done."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args, **kwargs).result()


def run_function(work: Callable[[], object], kill_at: Moment | None = None) -> Ended:
    """Runs it in a fork of this process, which must have one thread only.

    Its killer counts calls and no seconds, which also other programs spend, and would come too late for short work.

    Raises:
        RuntimeError: it failed by itself.
    """
    fork = multiprocessing.get_context("fork")
    calls = fork.RawValue(ctypes.c_int64, 0)
    dies_after = float("inf") if kill_at is None or callable(kill_at) else kill_at
    child = fork.Process(target=_silently, args=(work, calls, dies_after))
    child.start()
    if callable(kill_at) and _came(kill_at, child.join, lambda: child.exitcode is not None):
        child.kill()
    child.join()
    return Ended(_finished(child.exitcode, "the function"), calls.value)


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
    run: Callable[[float], Ended], whole: float, count: int, seed: int
) -> Iterator[tuple[float, Ended]]:
    """Kills a run `count` times; gives the moment and how the run ended, while its traces are fresh.

    The run is cut into as many equal pieces as there are kills, and each kill comes at a random moment of its own
    piece, in random order, so that all of a run gets its share. A run that is quicker than its killer shortens the
    later moments.

    Args:
        run: starts one and kills it so far from its start, as `Ended.length` counts.
        whole: the length of one that is not killed.
        count: of kills.
        seed: of the moments.
    """
    chosen = random.Random(seed)
    for piece in chosen.sample(range(count), count):
        moment = (piece + chosen.random()) / count * whole
        ended = run(moment)
        if ended.finished:
            whole = min(whole, ended.length)
        yield moment, ended


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
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"it failed with status {status} before anybody killed it: {said}")
    return status == 0


def _silently(work: Callable[[], object], calls: ctypes.c_int64, dies_after: float) -> None:
    def count(*_: object) -> None:
        calls.value += 1
        if calls.value > dies_after:
            os.kill(os.getpid(), signal.SIGKILL)

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.setprofile(count)
    work()
    sys.setprofile(None)

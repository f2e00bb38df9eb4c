"""The harness that kills: moments in every part of a run, ends told apart, failures not taken for kills."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import pytest
from killing import Ended, in_a_fresh_process, kills, run_function, run_program

SLEEPS = [sys.executable, "-c", "import time; print('writing all: 1/1', flush=True); time.sleep(1000)"]


def _fail() -> None:
    raise ValueError("by itself")


def _works() -> None:
    while True:
        time.sleep(0)


def _ends() -> list[bool]:
    """Of a function that is not killed, one that is at once, and one that is as soon as something is true."""
    return [
        run_function(partial(time.sleep, 0)).finished,
        run_function(_works, 100).finished,
        run_function(partial(time.sleep, 1000), lambda: True).finished,
    ]


def test_functions_and_programs_finish_or_are_killed_and_it_is_told_which(tmp_path: Path) -> None:
    assert in_a_fresh_process(_ends) == [True, False, False]
    said = tmp_path / "said"
    program = [sys.executable, "-c", f"open({str(said)!r}, 'w').close(); {SLEEPS[2]}"]
    ended = run_program(program, said.exists)
    assert not ended.finished
    assert ended.length < 1000
    assert run_program([sys.executable, "-c", "print('writing all: 1/1')"]).phase == "writing all"


def test_what_fails_by_itself_was_not_killed() -> None:
    with pytest.raises(RuntimeError, match="failed with status 1 before anybody killed it"):
        in_a_fresh_process(run_function, _fail)
    with pytest.raises(RuntimeError, match="failed with status 3 before anybody killed it: no"):
        run_program([sys.executable, "-c", "print('no', flush=True); raise SystemExit(3)"])


def test_each_piece_of_a_run_gets_one_kill_and_a_quick_run_shortens_the_rest() -> None:
    asked: list[float] = []

    def run(after_s: float) -> Ended:
        asked.append(after_s)
        return Ended(finished=False, length=after_s)

    found = list(kills(run, 8.0, 4, seed=1))
    assert [moment for moment, _ in found] == asked
    assert sorted(int(moment // 2) for moment in asked) == [0, 1, 2, 3]
    assert asked != sorted(asked)
    assert [moment for moment, _ in kills(run, 8.0, 4, seed=1)] == asked[:4]
    quick = [moment for moment, _ in kills(lambda _: Ended(finished=True, length=1.0), 8.0, 4, seed=1)]
    assert max(quick[1:]) < 1.0

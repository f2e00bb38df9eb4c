"""A part that crashes, hangs or says nonsense ends alone, and the table says what became of it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from check_runner import Part, Row, emit, run_parts, status_of, table

OK = 'import json; print(json.dumps(dict(part="p", what="w", result="ok", detail="d")), flush=True); '


def part(code: str, *, limit_s: float = 900, skip: str = "") -> Part:
    return Part("p", limit_s, [sys.executable, "-c", code], skip)


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("import ctypes; ctypes.string_at(0)", "died of SIGSEGV"),
        ("import os; os.abort()", "died of SIGABRT"),
        ("raise SystemExit('no memory')", "ended with status 1: no memory"),
        ("1 / 0", "ended with status 1: ZeroDivisionError: division by zero"),
    ],
)
def test_what_kills_a_part_is_said_behind_the_rows_that_it_printed(code: str, detail: str) -> None:
    rows = run_parts([part(OK + code), part(OK)])
    assert [row.result for row in rows] == ["ok", "failed", "ok"]
    assert rows[1].detail.startswith(detail)


def test_a_part_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    code = f"""
import pathlib, subprocess, sys, time
started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
pathlib.Path({str(child)!r}).write_text(str(started.pid))
{OK}
time.sleep(1000)
"""
    for limit_s in (2, 20, 200):  # a busy machine takes long to get so far
        rows = run_parts([part(code, limit_s=limit_s)])
        assert rows[-1].detail == f"took more than its {limit_s} s"
        if len(rows) > 1:
            break
    assert [row.result for row in rows] == ["ok", "failed"]
    pid, end = int(child.read_text()), time.monotonic() + 300
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert not alive(pid)


def alive(pid: int) -> bool:
    """Whether it runs; a killed orphan that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_part_that_says_nothing_or_nonsense_has_failed() -> None:
    (silent,) = run_parts([part("print('[{}]'); print('{\"part\": 1}'); print('hello')")])
    assert (silent.result, silent.detail) == ("failed", "said nothing")


def test_parts_beyond_the_whole_time_are_skipped() -> None:
    moments = iter([0.0, 0.0, 9.0, 11.0])
    rows = run_parts([part(OK), part(OK), part(OK)], budget_s=10, now=lambda: next(moments))
    assert [row.result for row in rows] == ["ok", "ok", "skipped"]
    assert rows[2].detail == "the 10 s of the whole check are used up"


def test_a_part_that_cannot_run_is_not_started() -> None:
    assert run_parts([part("1 / 0", skip="no GPU")]) == [Row("p", "p", "skipped", "no GPU")]


@pytest.mark.parametrize(
    ("results", "status"),
    [(["ok", "skipped"], 0), (["ok", "failed"], 1), (["skipped", "failed"], 1), (["skipped"], 2)],
)
def test_the_status_tells_success_failure_and_nothing_apart(results: list[str], status: int) -> None:
    assert status_of([Row("p", "w", result, "") for result in results]) == status  # type: ignore[arg-type]


def test_rows_come_through_and_stand_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    emit("part", "what", "ok", "a detail")
    assert (
        capsys.readouterr().out == '{"part": "part", "what": "what", "result": "ok", "detail": "a detail"}\n'
    )
    rows = [Row("a", "long name", "ok", "x"), Row("part", "b", "skipped", "")]
    assert table(rows) == ["a     long name  OK       x", "part  b          SKIPPED"]

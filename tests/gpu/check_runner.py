"""Runs the parts of the GPU check, each in a process of its own: a crash, a hang or a lost GPU ends one part only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Literal

BUDGET_S = 480.0  # of all parts together
RESULTS = ("ok", "failed", "skipped")
Result = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    part: str
    what: str
    result: Result
    detail: str


@dataclass(frozen=True)
class Part:
    """A process that prints rows as JSON lines."""

    name: str
    limit_s: float
    command: Sequence[str]
    skip: str = ""  # why it cannot run here; empty: it can


class SkipError(Exception):
    """A part, or what is left of it, cannot run here; the text says why."""


def run_parts(
    parts: Sequence[Part],
    *,
    budget_s: float = BUDGET_S,
    now: Callable[[], float] = time.monotonic,
    on_rows: Callable[[Sequence[Row]], None] = lambda _: None,
) -> list[Row]:
    """The rows of all parts, in order.

    Args:
        parts: what to run.
        budget_s: of all of them; those that no time is left for are skipped.
        now: seconds, from some moment on.
        on_rows: called with each part's rows.
    """
    started, rows = now(), list[Row]()
    for part in parts:
        left = budget_s - (now() - started)
        if part.skip:
            found = [Row(part.name, part.name, "skipped", part.skip)]
        elif left <= 0:
            found = [
                Row(part.name, part.name, "skipped", f"the {budget_s:.0f} s of the whole check are used up")
            ]
        else:
            found = _run(part, min(part.limit_s, left))
        on_rows(found)
        rows += found
    return rows


def emit(part: str, what: str, result: Result, detail: str, stream: IO[str] | None = None) -> None:
    """A part's row, for the process that started it."""
    print(json.dumps(asdict(Row(part, what, result, detail))), file=stream or sys.stdout, flush=True)


def status_of(rows: Sequence[Row]) -> int:
    """0: something ran and nothing failed; 1: something failed; 2: all was skipped."""
    found = {row.result for row in rows}
    return 1 if "failed" in found else 0 if "ok" in found else 2


def table(rows: Sequence[Row]) -> list[str]:
    """For people."""
    widths = [max(len(getattr(row, name)) for row in rows) for name in ("part", "what", "result")]
    return [
        f"{row.part:{widths[0]}}  {row.what:{widths[1]}}  {row.result.upper():{widths[2]}}  {row.detail}".rstrip()
        for row in rows
    ]


def _run(part: Part, limit_s: float) -> list[Row]:
    process = subprocess.Popen(
        part.command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    late = False
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        late = True
        os.killpg(process.pid, signal.SIGKILL)  # and what it started
        out, err = process.communicate()
    rows = [row for line in out.splitlines() if (row := _row(line)) is not None]
    if late:
        rows.append(Row(part.name, part.name, "failed", f"took more than its {limit_s:.0f} s"))
    elif process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        rows.append(Row(part.name, part.name, "failed", f"died of {name}{_last(err)}"))
    elif process.returncode:
        rows.append(
            Row(part.name, part.name, "failed", f"ended with status {process.returncode}{_last(err)}")
        )
    elif not rows:
        rows.append(Row(part.name, part.name, "failed", f"said nothing{_last(err)}"))
    return rows


def _row(line: str) -> Row | None:
    """None for what libraries print by themselves."""
    try:
        found = json.loads(line)
        row = Row(**found)
    except (ValueError, TypeError):
        return None
    return row if row.result in RESULTS else None


def _last(err: str) -> str:
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    return f": {lines[-1][:300]}" if lines else ""

"""`make gpu-check`: all that this machine's GPU and packages can show, in eight minutes at most, as one table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for `python tests/gpu/gpu_check.py`, which carries no path

from check_facts import Facts, this_machine, why_not
from check_parts import PARTS, run_part
from check_runner import BUDGET_S, Part, Row, emit, run_parts, status_of, table

from neo_edge.byte_size import show_bytes


def main(argv: Sequence[str] | None = None, facts: Facts | None = None) -> int:
    """0: something ran and nothing failed; 1: something failed; 2: nothing can run here."""
    args = _parser().parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.part is not None:
        for row in run_part(args.part, args.folder):
            emit(row.part, row.what, row.result, row.detail)
        return 0
    facts = facts or this_machine()
    if not args.json:
        print(*_machine(facts), sep="\n", flush=True)
    parts = [_part(name, facts, args.folder) for name in PARTS if args.only is None or name in args.only]
    rows = run_parts(parts, budget_s=args.seconds, on_rows=_silent if args.json else _say)
    if args.json:
        print(json.dumps({"machine": _machine(facts), "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        print("", *table(rows), sep="\n")
    return status_of(rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("out/gpu-check"),
        metavar="DIR",
        help="of tiny.bundle, nano.bundle and 2b.bundle; those that are not there are exported (default out/gpu-check)",
    )
    parser.add_argument("--only", action="append", choices=tuple(PARTS), help="this part; repeatable")
    parser.add_argument("--seconds", type=float, default=BUDGET_S, help=f"for all (default {BUDGET_S:.0f})")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)  # in a process of its own
    return parser


def _part(name: str, facts: Facts, folder: Path) -> Part:
    plan = PARTS[name]
    command = [sys.executable, __file__, "--part", name, "--folder", str(folder)]
    return Part(name, plan.limit_s, command, why_not(facts, plan.needs))


def _machine(facts: Facts) -> list[str]:
    if isinstance(facts.driver, str):
        return [facts.driver]
    driver = facts.driver
    lines = [f"driver {driver.version}, CUDA {driver.cuda or 'unknown'}"]
    for device in driver.devices:
        memory = "shared memory" if device.memory_bytes is None else show_bytes(device.memory_bytes)
        lines.append(f"{device.name}, compute capability {device.compute_capability or 'unknown'}, {memory}")
    return lines


def _say(rows: Sequence[Row]) -> None:
    for row in rows:
        print(f"{row.part}: {row.what}: {row.result}", file=sys.stderr, flush=True)


def _silent(_: Sequence[Row]) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())

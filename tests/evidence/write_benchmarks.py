"""Runs evidence scripts and writes what they print into docs/benchmarks.md, with device, date and command.

Each script has a place there between `<!-- begin NAME -->` and `<!-- end NAME -->`; what stands outside such places
is left as it is. A script without a place gets one at the end of the page. `NAME:ARGUMENT` hands the script an argument
that chooses a part of it, and has a place of its own, at first right behind the script's.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from itertools import groupby
from pathlib import Path

from neo_edge_runtime.bench.device import device_lines
from neo_edge_runtime.processors import usable_physical_cores

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"


def main(
    argv: Sequence[str] | None = None, *, page: Path = PAGE, scripts: Path = Path(__file__).parent
) -> int:
    """Runs the scripts one after another; 1 when one of them fails or misses (what it printed is written, too)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME[:ARGUMENT]", help="of a script, without .py")
    parser.add_argument(
        "--scripts", type=Path, default=scripts, help="where they are (default: beside this one)"
    )
    args = parser.parse_args(argv)
    names, scripts = args.names, args.scripts
    unknown = [name for name in names if not (scripts / _words(name)[0]).is_file()]
    if unknown:
        parser.error(f"there is no script {', '.join(unknown)} in {scripts}")
    missed = []
    for name in names:
        print(f"== {name}", flush=True)
        device = device_lines(usable_physical_cores())
        script, *argument = _words(name)
        line = [sys.executable, scripts / script, *argument]
        ran = subprocess.run(line, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        print(ran.stdout, end="")
        if ran.returncode:
            missed.append(name)
        # After each script, since later ones may take an hour. A traceback leaves no output.
        if ran.stdout:
            written = section(
                name, ran.stdout, device, date.today(), failed=bool(ran.returncode), folder=_shown(scripts)
            )
            page.write_text(placed(page.read_text(encoding="utf-8"), name, written), encoding="utf-8")
    print(f"missed: {' '.join(missed)}" if missed else f"wrote {page}")
    return 1 if missed else 0


def section(
    name: str,
    output: str,
    device: Sequence[str],
    day: date,
    *,
    failed: bool = False,
    folder: str = "tests/evidence",
) -> str:
    """What stands between a script's marks: command, date and device, then its output."""
    missed = " **Something missed its aim or failed.**" if failed else ""
    command = " ".join(["python", f"{folder}/{_words(name)[0]}", *_words(name)[1:]])
    head = f"`{command}`, {day.isoformat()}. {device[0]}; {device[1]}.{missed}"
    lines = [line.rstrip() for line in output.splitlines() if line not in device]
    return "\n\n".join([head, *_blocks(lines)])


def placed(page: str, name: str, text: str) -> str:
    """The page with `text` between the marks of `name`."""
    begin, end = _marks(name)
    whole = f"{begin}\n{text}\n{end}"
    found = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if found.search(page):
        return found.sub(lambda _: whole, page, count=1)
    script, _, part = name.partition(":")
    _, behind = _marks(script)
    if part and behind in page:
        return page.replace(behind, f"{behind}\n\n{whole}", 1)
    return f"{page.rstrip()}\n\n## {name.replace('_', ' ').capitalize()}\n\n{whole}\n"


def _words(name: str) -> list[str]:
    """`a:b` is the file a.py and the argument b."""
    script, *argument = name.split(":", 1)
    return [f"{script}.py", *argument]


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- begin {name} -->", f"<!-- end {name} -->"


def _shown(scripts: Path) -> str:
    """The folder as a reader in the repository calls it."""
    folder = scripts.resolve()
    return folder.relative_to(ROOT).as_posix() if folder.is_relative_to(ROOT) else folder.name


def _blocks(lines: Sequence[str]) -> list[str]:
    """Tables in Markdown as they are, all other lines as they were printed."""
    blocks = []
    for is_table, group in groupby(lines, key=lambda line: line.startswith("|")):
        text = "\n".join(group).strip("\n")
        if text:
            blocks.append(text if is_table else f"```text\n{text}\n```")
    return blocks


if __name__ == "__main__":
    sys.exit(main())

"""Finds and runs the code blocks of the documentation.

A page's blocks run from top to bottom: `python` in one namespace, `console` as its `$ ` lines in bash, `json` is
parsed, `text` is for reading. What a console block shows under a command is compared with what the command prints;
`...` stands for anything. A block behind the line

    *Not run by the tests: REASON.*

is not run, and counted.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from sybil.parsers.markdown.lexers import FENCE

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
LANGUAGES = ("python", "console", "json", "text")

EXPORT = "neo-edge export neo-ov-nano -o nano.bundle --precision fp32 --precision fp16"
"""Makes the bundle that every page has."""

_SKIP = re.compile(r"^\*Not run by the tests: (?P<reason>[^*]+)\.\*\n+(?=```)", re.MULTILINE)
_COMMAND_TIMEOUT_S = 900  # the export, on a machine that does other work too

Run = Callable[[str], "subprocess.CompletedProcess[str]"]


def parse(page: Path, run: Run) -> Document:
    """The page as sybil sees it, its skipped blocks taken out.

    Args:
        page: a Markdown file.
        run: runs one command line of a console block.
    """
    parsers = [
        PythonCodeBlockParser(),
        CodeBlockParser("console", lambda example: _console(example, run)),
        CodeBlockParser("json", _json),
    ]
    return Sybil([_unless_skipped(parser) for parser in parsers]).parse(page)


def languages(page: Path) -> list[str]:
    """What stands behind the opening fence of each block."""
    fences = [match["trailing"] for match in FENCE.finditer(page.read_text(encoding="utf-8"))]
    assert len(fences) % 2 == 0, f"{page.name}: a code block is not closed"
    return fences[::2]


def skip_reasons(page: Path) -> list[str]:
    """Why blocks of this page are not run."""
    return [match["reason"] for match in _SKIP.finditer(page.read_text(encoding="utf-8"))]


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs one command line where `neo-edge` and `python` are this environment's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NEO_EDGE_")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
        "COLUMNS": "80",
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": str(folder / "cache-home"),
    }
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_COMMAND_TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block, with what is shown under it."""
    lines = block.splitlines()
    while lines:
        command = lines.pop(0)
        assert command.startswith("$ "), (
            f"a console block begins with {command!r}; a command begins with '$ '"
        )
        while command.endswith("\\"):
            command += "\n" + lines.pop(0)
        shown = []
        while lines and not lines[0].startswith("$ "):
            shown.append(lines.pop(0))
        yield command[2:], "\n".join(shown).strip()


def matches(shown: str, printed: str) -> bool:
    """Whether the output is what the page shows; `...` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in shown.split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def _unless_skipped(parser: Callable[[Document], Iterator[Region]]) -> Callable[[Document], Iterator[Region]]:
    def parse_others(document: Document) -> Iterator[Region]:
        skipped = {match.end() for match in _SKIP.finditer(document.text)}
        return (region for region in parser(document) if region.start not in skipped)

    return parse_others


def _console(example: Example, run: Run) -> str | None:
    for command, shown in commands(example.parsed):
        done = run(command)
        if done.returncode != 0:
            return f"$ {command}\nended with status {done.returncode}:\n{done.stdout}{done.stderr}"
        # Progress and notes go to standard error; of it a page shows errors only.
        errors = "".join(line for line in done.stderr.splitlines(keepends=True) if line.startswith("error: "))
        if shown and not matches(shown, errors + done.stdout):
            return f"$ {command}\nprinted\n{errors}{done.stdout}\nand the page shows\n{shown}"
    return None


def _json(example: Example) -> None:
    json.loads(example.parsed)

"""Every code block of the documentation runs, and prints what the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_blocks import LANGUAGES, PAGES, Run, commands, languages, matches, parse, shell, skip_reasons

# Downloads, commands that would start these tests again, and what needs cameras, ROS, a Jetson or a second program.
SKIPPED = {"README.md": 2, "jetson.md": 2, "offline-gpu.md": 4, "robots.md": 3}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_the_page_runs(page: Path, run: Run) -> None:
    for example in parse(page, run):
        example.namespace.setdefault("__name__", "__main__")
        example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_block_is_of_a_kind_that_is_run_or_read(page: Path) -> None:
    assert set(languages(page)) <= set(LANGUAGES)
    fenced = False
    for line in page.read_text(encoding="utf-8").splitlines():
        fenced ^= line.startswith("```")
        assert fenced or not line.startswith("    "), (
            f"{page.name} has an indented block, which nothing runs: {line}"
        )


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    found = {page.name: len(skip_reasons(page)) for page in PAGES}
    assert {name: count for name, count in found.items() if count} == SKIPPED


def test_a_page_that_shows_other_output_or_a_failing_command_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for block, message in (("$ echo a\nb", "the page shows\nb"), ("$ false", "status 1")):
        page.write_text(f"```console\n{block}\n```\n")
        (example,) = parse(page, lambda command: shell(command, tmp_path))
        with pytest.raises(AssertionError, match=message):
            example.evaluate()


def test_a_block_behind_a_reason_is_left_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("*Not run by the tests: it fails.*\n\n```python\n1 / 0\n```\n\n```python\n1\n```\n")
    assert [example.parsed for example in parse(page, lambda command: shell(command, tmp_path))] == ["1\n"]
    assert skip_reasons(page) == ["it fails"]


def test_a_console_block_is_cut_into_commands_and_their_output() -> None:
    assert list(commands("$ a \\\n    b\nx\ny\n$ c\n")) == [("a \\\n    b", "x\ny"), ("c", "")]


def test_three_dots_stand_for_anything() -> None:
    assert matches("a ... c\n...\nz", "a b c\n1\n2\nz\n")
    assert not matches("a ... c", "a b d")

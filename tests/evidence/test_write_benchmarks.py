"""The page of benchmarks: a script's output goes between its marks, and nothing else changes."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from write_benchmarks import PAGE, main, placed, section

PAGE_TEXT = """# Measured

By hand \\1.

## A
<!-- begin a -->
old
<!-- end a -->
between
<!-- begin b -->
old b
<!-- end b -->
after
"""


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    changed = placed(PAGE_TEXT, "a", "new \\g<0>\nlines")
    assert changed == PAGE_TEXT.replace("old\n", "new \\g<0>\nlines\n", 1)
    assert placed(changed, "a", "old") == PAGE_TEXT


def test_a_script_without_a_place_gets_one_at_the_end() -> None:
    changed = placed(PAGE_TEXT, "full_2b", "x")
    assert changed == PAGE_TEXT + "\n## Full 2b\n\n<!-- begin full_2b -->\nx\n<!-- end full_2b -->\n"
    assert placed(changed, "full_2b", "x") == changed


def test_a_part_of_a_script_has_a_place_of_its_own_behind_the_scripts() -> None:
    changed = placed(PAGE_TEXT, "a:one", "x")
    assert changed == PAGE_TEXT.replace(
        "<!-- end a -->\n", "<!-- end a -->\n\n<!-- begin a:one -->\nx\n<!-- end a:one -->\n", 1
    )
    assert placed(placed(changed, "a:one", "y"), "a:one", "x") == changed
    assert placed(PAGE_TEXT, "c:one", "x").endswith(
        "\n## C:one\n\n<!-- begin c:one -->\nx\n<!-- end c:one -->\n"
    )


def test_a_section_names_command_date_and_device_and_keeps_tables() -> None:
    output = "a chip\nPython 3\nload 1\n\nfacts\n\n| a | b |\n| - | - |\n| 1 | 2 |\n\n  more\n"
    text = section("cpu_speed", output, ["a chip", "Python 3", "load 1"], date(2026, 1, 2))
    assert text == (
        "`python tests/evidence/cpu_speed.py`, 2026-01-02. a chip; Python 3.\n\n"
        "```text\nfacts\n```\n\n| a | b |\n| - | - |\n| 1 | 2 |\n\n```text\n  more\n```"
    )
    assert "missed its aim or failed" in section("a", "x", ["chip", "system"], date(2026, 1, 2), failed=True)


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    (tmp_path / "a.py").write_text("print('figure of a')")
    (tmp_path / "b.py").write_text("import sys; print('figure of b'); sys.exit(1)")
    (tmp_path / "c.py").write_text("raise SystemExit('no disk')")
    (tmp_path / "page.md").write_text(PAGE_TEXT)
    return tmp_path


def test_every_script_runs_and_what_missed_is_written_and_said(
    scripts: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = scripts / "page.md"
    assert main(["a", "b", "c"], page=page, scripts=scripts) == 1
    text = page.read_text()
    assert "```text\nfigure of a\n```\n<!-- end a -->" in text
    assert "failed.**\n\n```text\nfigure of b\n```\n<!-- end b -->" in text
    assert "begin c" not in text
    assert capfd.readouterr().out.splitlines()[-1] == "missed: b c"
    assert main(["a"], page=page, scripts=scripts) == 0


def test_a_part_is_the_scripts_argument(scripts: Path) -> None:
    (scripts / "d.py").write_text("import sys; print(sys.argv[1:])")
    page = scripts / "page.md"
    assert main(["d:int8"], page=page, scripts=scripts) == 0
    text = page.read_text()
    assert "d.py int8`, " in text
    assert "```text\n['int8']\n```\n<!-- end d:int8 -->" in text


def test_a_name_without_a_script_runs_nothing(scripts: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["a", "nowhere"], page=scripts / "page.md", scripts=scripts)
    assert caught.value.code == 2
    assert (scripts / "page.md").read_text() == PAGE_TEXT


def test_make_bench_names_scripts_that_exist_and_marks_stand_once() -> None:
    page = PAGE.read_text(encoding="utf-8")
    makefile = (PAGE.parents[1] / "Makefile").read_text(encoding="utf-8")
    (line,) = (line for line in makefile.splitlines() if line.startswith("EVIDENCE :="))
    names = line.partition(":=")[2].split()
    assert len(names) > 5
    assert [name for name in names if not (Path(__file__).parent / f"{name}.py").is_file()] == []
    for kind in ("begin", "end"):
        assert [name for name in names if page.count(f"<!-- {kind} {name} -->") > 1] == []

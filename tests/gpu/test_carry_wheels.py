"""Wheels carried in parts arrive as they were, or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "samples" / "carry_wheels.py"
FILES = {"a.whl": b"x" * 1000, "deep/b.whl": bytes(range(256)) * 5, "empty.txt": b"", "z.whl": b"end"}


def carry(*arguments: object) -> subprocess.CompletedProcess[str]:
    """As on a machine that has Python alone: no site-packages."""
    return subprocess.run(
        [sys.executable, "-S", SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        path = tmp_path / "wheels" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "wheels"


@pytest.fixture
def parts(wheels: Path, tmp_path: Path) -> Path:
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        from carry_wheels import split
    finally:
        sys.path.pop(0)
    written = split(wheels, tmp_path / "parts", part_bytes=600)
    assert [part.stat().st_size for part in written] == [600, 600, 600, 483]
    return tmp_path / "parts"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_files_arrive_as_they_were(parts: Path, tmp_path: Path) -> None:
    done = carry("join", parts, tmp_path / "arrived")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("wrote 4 files, 0.0 MB, into ")
    assert contents(tmp_path / "arrived") == FILES


def test_a_part_has_60_megabytes_at_most(wheels: Path, tmp_path: Path) -> None:
    (wheels / "large.whl").write_bytes(bytes(61_000_000))
    done = carry("split", wheels, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    sizes = sorted(path.stat().st_size for path in (tmp_path / "two").glob("*.part"))
    assert sizes[-1] == 60_000_000
    assert len(sizes) == 2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda parts: (parts / "001.part").unlink(), "1 of 4 parts are missing: carry 001.part"),
        (
            lambda parts: (parts / "002.part").write_bytes(b"y" * 600),
            "1 of 4 parts are damaged: carry 002.part again",
        ),
        (
            lambda parts: (parts / "003.part").write_bytes(b"x" * 5),
            "1 of 4 parts are damaged: carry 003.part again",
        ),
        (lambda parts: (parts / "contents.json").unlink(), "is not there or damaged"),
        (lambda parts: (parts / "contents.json").write_text("{}"), "is not there or damaged"),
    ],
)
def test_what_is_missing_or_damaged_is_named_and_nothing_is_written(
    parts: Path, tmp_path: Path, spoil: object, message: str
) -> None:
    spoil(parts)  # type: ignore[operator]
    done = carry("join", parts, tmp_path / "arrived")
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "arrived").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "../out.whl", "outside of the folder"),
        ("sha256", "0" * 64, "a.whl is not what was sent"),
        ("size_bytes", 10**6, "end 997"),
    ],
)
def test_a_list_that_does_not_fit_its_parts_is_refused(
    parts: Path, tmp_path: Path, field: str, value: object, message: str
) -> None:
    listed = json.loads((parts / "contents.json").read_text())
    listed["files"][0][field] = value
    (parts / "contents.json").write_text(json.dumps(listed))
    done = carry("join", parts, tmp_path / "arrived")
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "arrived" / "a.whl").exists()
    assert not (tmp_path / "out.whl").exists()


def test_nothing_to_carry_and_a_used_folder_are_refused(wheels: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert "holds no files" in carry("split", tmp_path / "none", tmp_path / "p").stderr
    assert "is not empty" in carry("split", wheels, wheels).stderr

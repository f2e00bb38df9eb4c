"""contract < runtime < calibration < export: a package imports only what stands before it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import neo_edge

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "neo_edge": ROOT / "neo_edge",
    "neo_edge_runtime": ROOT / "runtime" / "neo_edge_runtime",
    "neo_edge_calibration": ROOT / "calibration" / "neo_edge_calibration",
    "neo_edge_export": ROOT / "export" / "neo_edge_export",
}
MODEL_TOOLS = {"torch", "onnx", "onnxscript", "onnx_ir"}
FORBIDDEN = {
    "neo_edge": {"neo_edge_runtime", "neo_edge_calibration", "neo_edge_export", "onnxruntime", *MODEL_TOOLS},
    "neo_edge_runtime": {"neo_edge_calibration", "neo_edge_export", *MODEL_TOOLS},
    "neo_edge_calibration": {"neo_edge_export", "torch"},
    "neo_edge_export": {"samples", "tests"},
}
# The trainer needs the reference model and the scenes; the other samples show what a user writes.
TRAINER = ROOT / "samples" / "nano"


def imports(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Each imported module with the names taken from it, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module, [alias.name for alias in node.names]


@pytest.mark.parametrize("package", FOLDERS)
def test_a_package_imports_only_what_stands_before_it(package: str) -> None:
    files = sorted(FOLDERS[package].rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module, _ in imports(path)
        if module.split(".")[0] in FORBIDDEN[package]
        # The public face names its types for type checkers; it imports them when they are first used.
        and path != FOLDERS["neo_edge"] / "__init__.py"
    ]
    assert wrong == []


def test_the_public_face_imports_the_runtime_for_type_checkers_only() -> None:
    tree = ast.parse((FOLDERS["neo_edge"] / "__init__.py").read_text(encoding="utf-8"))
    guarded = {
        inner
        for node in tree.body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    unguarded = [
        node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node not in guarded
    ]
    assert unguarded == ["__future__", "typing"]


def test_samples_use_public_names() -> None:
    wrong = []
    for path in sorted((ROOT / "samples").rglob("*.py")):
        if path.is_relative_to(TRAINER):
            continue
        for module, names in imports(path):
            private = set(names) - set(neo_edge.__all__) if module == "neo_edge" else set()
            if private or module.startswith(("neo_edge.", "neo_edge_")):
                wrong.append(f"{path.relative_to(ROOT)} imports {', '.join(sorted(private)) or module}")
    assert wrong == []


def test_no_file_is_longer_than_400_lines() -> None:
    folders = [*FOLDERS.values(), ROOT / "samples", ROOT / "tests", ROOT / "docs"]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    assert len(files) > 30
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files
    }
    assert {path: length for path, length in lengths.items() if length > 400} == {}

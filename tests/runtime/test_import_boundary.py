"""The runtime in a fresh interpreter: what it imports, and when."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_REPORT = """
import json, sys
names = ("torch", "onnx", "onnxruntime", "neo_edge_export", "neo_edge_calibration", "safetensors", "tokenizers")
before = [name for name in names if name in sys.modules]
"""


def report(code: str) -> dict[str, list[str]]:
    """What `code`, which prints a JSON object as its last line, says in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", _REPORT + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_importing_the_runtime_imports_no_stage_and_no_onnxruntime() -> None:
    found = report(
        "import neo_edge_runtime, neo_edge_runtime.ort_backend, neo_edge_runtime.parity\n"
        "print(json.dumps({'now': [name for name in names if name in sys.modules]}))"
    )
    assert set(found["now"]) <= {"tokenizers"}


def test_verbs_are_light_to_import() -> None:
    found = report(
        "from importlib.metadata import entry_points\n"
        "for entry in entry_points(group='neo_edge.commands'): entry.load()\n"
        "print(json.dumps({'now': [name for name in (*names, 'numpy', 'PIL') if name in sys.modules]}))"
    )
    assert set(found["now"]) <= {"neo_edge_calibration", "neo_edge_export"}


def test_running_a_bundle_imports_neither_torch_nor_onnx(tiny_bundle: Path) -> None:
    found = report(
        "import neo_edge, numpy as np\n"
        f"with neo_edge.load({str(tiny_bundle)!r}, threads=1, max_pixels=4096) as model:\n"
        "    options = neo_edge.SamplingOptions(max_new_tokens=3)\n"
        "    model.generate('where?', [np.zeros((64, 64, 3), np.uint8)], options=options)\n"
        "print(json.dumps({'now': [name for name in names if name in sys.modules]}))"
    )
    assert sorted(found["now"]) == ["onnxruntime", "tokenizers"]

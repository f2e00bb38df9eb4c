"""The portable profile under onnxruntime 1.23.2, the newest that Python 3.10 on JetPack 6 has.

NEO_EDGE_ORT_123 names a folder with that package (pip install --no-deps --target FOLDER onnxruntime==1.23.2).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import neo_edge
from neo_edge.checkpoint import resolve_checkpoint

FOLDER = os.environ.get("NEO_EDGE_ORT_123")

_ASK = """
import json, sys
import numpy as np, onnxruntime, neo_edge
picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
with neo_edge.load(sys.argv[1], threads=1, max_pixels=96 * 128) as model:
    options = neo_edge.SamplingOptions(max_new_tokens=12)
    answer = model.generate("What is left of the red ball?", [picture], options=options)
    chat = model.chat()
    chat.send("What is left of the red ball?", [picture], options=options)
    again = chat.send("And right?", options=options)
print(json.dumps([onnxruntime.__version__, answer.token_ids, again.token_ids, chat.session.length]))
"""


_REPLAY_ON_DEVICE = """
import json, sys
import onnxruntime
from ort_host_device import OrtHostDevice
from neo_edge.bundle import open_bundle
from neo_edge_runtime.golden import read_golden
from neo_edge_runtime.ort_device_backend import OrtDeviceBackend
from neo_edge_runtime.parity import TOLERANCE, replay
from neo_edge_runtime.prompt_assembly import text_only_tokens
bundle = open_bundle(sys.argv[1])
tokens = bundle.manifest.special_tokens or text_only_tokens(bundle.manifest.model)
passed = {}
for variant in ("fp32-portable", "fp16-portable"):
    backend = OrtDeviceBackend(bundle, variant, device=OrtHostDevice())
    cases = [read_golden(path, bundle.manifest.model) for path in sys.argv[2:]]
    allowed = TOLERANCE[bundle.variant(variant).precision]
    passed[variant] = [replay(backend, tokens, case, chunked=True).within(allowed) for case in cases]
print(json.dumps([onnxruntime.__version__, passed]))
"""


@pytest.fixture(scope="module")
def portable_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped nano checkpoint."""
    from neo_edge_export.bundle_export import ExportOptions, export_bundle

    target = tmp_path_factory.mktemp("old") / "nano"
    export_bundle(resolve_checkpoint("neo-ov-nano"), target, ExportOptions(ops=("portable",)))
    return target


@pytest.mark.skipif(not FOLDER, reason="NEO_EDGE_ORT_123 names no folder with onnxruntime 1.23.2")
def test_the_portable_bundle_answers_alike_under_onnxruntime_1_23(portable_bundle: Path) -> None:
    old = ask(portable_bundle, [str(FOLDER)])
    assert old[0] == "1.23.2"
    picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    options = neo_edge.SamplingOptions(max_new_tokens=12)
    with neo_edge.load(portable_bundle, variant="fp32-portable", threads=1, max_pixels=96 * 128) as model:
        answer = model.generate("What is left of the red ball?", [picture], options=options)
        chat = model.chat()
        chat.send("What is left of the red ball?", [picture], options=options)
        again = chat.send("And right?", options=options)
    assert old[1:] == [list(answer.token_ids), list(again.token_ids), chat.session.length]


@pytest.mark.skipif(not FOLDER, reason="NEO_EDGE_ORT_123 names no folder with onnxruntime 1.23.2")
def test_golden_files_are_met_under_onnxruntime_1_23(tiny_bundle: Path) -> None:
    golden = sorted((Path(__file__).parents[1] / "golden" / "tiny").glob("*.npz"))
    code = "import sys; from neo_edge.cli import main; sys.exit(main(sys.argv[1:]))"
    found = call(
        code, ["parity", str(tiny_bundle), *map(str, golden), "--threads", "1", "--json"], [str(FOLDER)]
    )
    variants = json.loads(found)["variants"]
    # The modern variants need a newer one, and are left out.
    assert list(variants) == ["fp32-portable", "fp16-portable"]
    assert all(variant["passed"] for variant in variants.values())


@pytest.mark.skipif(not FOLDER, reason="NEO_EDGE_ORT_123 names no folder with onnxruntime 1.23.2")
def test_the_backend_for_gpus_meets_golden_files_under_onnxruntime_1_23(tiny_bundle: Path) -> None:
    golden = sorted((Path(__file__).parents[1] / "golden" / "tiny").glob("*.npz"))
    folders = [str(FOLDER), str(Path(__file__).parent)]
    printed = call(_REPLAY_ON_DEVICE, [str(tiny_bundle), *map(str, golden)], folders)
    version, passed = json.loads(printed.splitlines()[-1])
    assert version == "1.23.2"
    assert passed == dict.fromkeys(("fp32-portable", "fp16-portable"), [True] * len(golden))


@pytest.mark.skipif(not FOLDER, reason="NEO_EDGE_ORT_123 names no folder with onnxruntime 1.23.2")
def test_prompts_are_answered_together_as_alone_under_onnxruntime_1_23(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    prompts = [
        {"prompt": list(range(size)), "options": {"max_new_tokens": 20 - size}} for size in range(3, 15, 2)
    ]
    file.write_text("\n".join(map(json.dumps, prompts)), encoding="utf-8")
    code = "import sys; from neo_edge.cli import main; sys.exit(main(sys.argv[1:]))"
    for variant in ("fp32-portable", "fp16-portable"):
        found = []
        for batch_size in ("1", "4"):
            arguments = ["--variant", variant, "--threads", "1", "--batch-size", batch_size]
            printed = call(code, ["batch", str(tiny_bundle), str(file), *arguments], [str(FOLDER)])
            found.append([json.loads(line)["token_ids"] for line in printed.splitlines()])
        assert found[0] == found[1]
        assert [len(token_ids) for token_ids in found[0]] == [17, 15, 13, 11, 9, 7]


def ask(bundle: Path, folders: list[str]) -> list[object]:
    answer: list[object] = json.loads(call(_ASK, [str(bundle)], folders).splitlines()[-1])
    return answer


def call(code: str, arguments: list[str], folders: list[str]) -> str:
    """Standard output of a new interpreter that looks for packages in `folders` first."""
    paths = [*folders, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout

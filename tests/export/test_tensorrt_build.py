"""TensorRT-RTX builds engines into a bundle; `test_engine_cache.py` has which are kept and which are built anew."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from neo_edge.bundle import Bundle, read_bundle, verify_bundle
from neo_edge.bundle_update import STAGING
from neo_edge.errors import BundleCorruptError, BundleError, EngineBuildError, MemoryBudgetError
from neo_edge_export.tensorrt.engine_builder import BuildRequest, BuildResult, build_engines

pytest.importorskip("tensorrt_rtx_bindings", reason="the tensorrt-rtx-cu13-bindings wheel is not installed")

SMALL = BuildRequest("tensorrt-rtx", max_context=64, max_chunk=32, compute_capability="86")
COMMAND = [
    *(sys.executable, "-c", "import sys; from neo_edge.cli import main; sys.exit(main())", "build"),
    *("--backend", "tensorrt-rtx", "--compute-capability", "86", "--max-context", "64", "--max-chunk", "32"),
]
STAYS = """if True:
    import sys, time
    from neo_edge.bundle_update import BundleUpdate
    from neo_edge.cli import main
    def stay(update, change):
        print("built", flush=True)
        time.sleep(1000)
    BundleUpdate.commit = stay
    sys.exit(main())
"""
NO_DRIVER = "no NVIDIA driver (for this test)"


@pytest.fixture
def root(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(tiny_bundle.root, tmp_path / "robot.bundle"))


@pytest.fixture(scope="module")
def built(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    """Engines that were built once, for tests that only need some."""
    root = Path(shutil.copytree(tiny_bundle.root, tmp_path_factory.mktemp("built") / "robot.bundle"))
    return build(root)


@pytest.fixture
def built_root(built: BuildResult, tmp_path: Path) -> Path:
    """A copy of the bundle with these engines that may be changed."""
    return Path(shutil.copytree(built.bundle.root, tmp_path / "built.bundle"))


def build(root: Path, request: BuildRequest = SMALL) -> BuildResult:
    return build_engines(root, request, driver=NO_DRIVER)


def test_engines_are_part_of_the_bundle_and_are_found_again(built: BuildResult) -> None:
    assert built.built
    assert built.why == "none were there"
    assert built.name.startswith("tensorrt-rtx-1.7.")
    assert built.engines.key.variant == "fp16-portable"
    assert built.engines.key.driver is None
    bundle = verify_bundle(built.bundle.root)
    assert bundle.manifest.engines == {built.name: built.engines}
    assert bundle.path(built.engines.decoder).stat().st_size > 100_000
    second = build(bundle.root)
    assert not second.built
    assert (second.name, second.engines) == (built.name, built.engines)


def test_of_two_builders_at_once_the_bundle_gets_one_set_of_engines(root: Path) -> None:
    processes = [
        subprocess.Popen([*COMMAND, str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    done = [(process.communicate()[1], process.returncode) for process in processes]
    for error, status in done:
        assert status == 0 or (status == 1 and "is being updated by another process" in error), error
    assert 0 in [status for _, status in done]
    assert len(verify_bundle(root).manifest.engines) == 1
    assert not build(root).built


def started_build(root: Path) -> subprocess.Popen[str]:
    """A process that stays where it has built an engine and the bundle does not know."""
    process = subprocess.Popen(
        [sys.executable, "-c", STAYS, *COMMAND[3:], str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "built\n" in process.stdout, process.communicate()[1]
    assert list((root / STAGING).glob("files/engines/*"))
    return process


def test_a_killed_build_leaves_a_bundle_without_engines_and_the_next_one_works(root: Path) -> None:
    before = {path.name for path in root.iterdir()}
    process = started_build(root)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert verify_bundle(root).manifest.engines == {}
    result = build(root)
    assert result.built
    assert {path.name for path in root.iterdir()} == {*before, "engines"}
    assert verify_bundle(root).manifest.engines == {result.name: result.engines}


def test_ctrl_c_ends_a_build_and_leaves_the_bundle_as_it_was(root: Path) -> None:
    before = (root / "bundle.json").read_bytes()
    process = started_build(root)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert (root / "bundle.json").read_bytes() == before
    assert not (root / STAGING).exists()


def test_graphs_that_are_not_what_the_manifest_says_are_not_built(root: Path) -> None:
    weights = root / "fp16-portable/decoder.onnx.data"
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleCorruptError, match="decoder.onnx.data was altered"):
        build(root)
    assert read_bundle(root).manifest.engines == {}


@pytest.mark.parametrize("capability", ["87", "90", "sm_90", "8.7"])
def test_a_gpu_that_tensorrt_rtx_does_not_build_for_is_refused(root: Path, capability: str) -> None:
    with pytest.raises(
        EngineBuildError, match="does not build for compute capability (87|90); it builds for 75, 80,"
    ):
        build(root, replace(SMALL, compute_capability=capability))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"variant": "fp16"},
            "the variant fp16 has modern operators and engines are built from portable ones "
            r"\(a cache updated in place has a fixed length",
        ),
        (
            {"precision": "int4"},
            "is int4 with portable operators; it has fp32 .fp32, modern.*neo-edge quantize",
        ),
        ({"precision": "fp64"}, "is fp64 with portable operators"),
    ],
)
def test_a_variant_that_is_not_there_is_refused_with_those_there_are(
    root: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(EngineBuildError, match=message):
        build(root, replace(SMALL, **changes))
    with pytest.raises(BundleError, match="has no variant 'fp17': it has"):
        build(root, replace(SMALL, variant="fp17"))


def test_engines_that_the_gpu_cannot_hold_are_refused_with_the_numbers(root: Path) -> None:
    wanted = replace(SMALL, max_context=32768, max_chunk=4096, device_memory_bytes=4 << 30)
    with pytest.raises(
        MemoryBudgetError,
        match=r"need about [\d.]+ GiB \(weights .*, caches .*, attention scratch .*, activations .*, workspace .*\) "
        r"and the GPU has 4 GiB: choose smaller --max-context, --max-chunk or --max-batch",
    ):
        build(root, wanted)
    assert read_bundle(root).manifest.engines == {}


def test_the_layers_that_were_built_are_kept_beside_the_plans(built: BuildResult) -> None:
    layers = json.loads(built.bundle.path(built.engines.layers).read_text())
    count = built.bundle.manifest.model.decoder.num_layers
    # Nine projections, scores and values of the cache and of the new tokens; and the head.
    for part, products in (("vision", 2), ("decoder", 13 * count + 1)):
        network = layers[part]["network"]
        assert layers[part]["engine"] is None  # its inspector needs a GPU
        assert network["layers"]["MATRIX_MULTIPLY"] == products
        assert sum(network["matrix_products"].values()) == products
        assert network["int8_products"] == 0
    decoder = layers["decoder"]["network"]
    assert (decoder["attention_operators"], decoder["softmax_layers"]) == (0, count)
    assert decoder["matrix_products"] == {"HALF x HALF": 13 * count + 1}


def test_two_sequences_at_once_are_other_limits(built: BuildResult, built_root: Path) -> None:
    second = build(built_root, replace(SMALL, max_batch=2))
    assert second.built
    assert second.engines.key.limits == replace(built.engines.key.limits, max_batch=2)
    assert read_bundle(built_root).manifest.engines.keys() == {built.name, second.name}

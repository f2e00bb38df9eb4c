"""What the build does around TensorRT: finding it, choosing the GPU, parser errors, listings, estimates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_tensorrt import H100, INSPECTED, ORIN, fake_installed, layer, network, tensor

from neo_edge.bundle import Bundle, verify_bundle
from neo_edge.engines import BACKENDS, EngineBackend, EngineLimits
from neo_edge.errors import (
    BackendError,
    BrokenPackageError,
    EngineBuildError,
    MemoryBudgetError,
    MissingExtraError,
)
from neo_edge_export.tensorrt.build_estimate import BuildEstimate, estimate_build, require_memory
from neo_edge_export.tensorrt.build_progress import PhaseTree
from neo_edge_export.tensorrt.compute_capability import choose_target
from neo_edge_export.tensorrt.engine_builder import BuildRequest, BuildResult, build_engines
from neo_edge_export.tensorrt.installed import Installed, find_tensorrt
from neo_edge_export.tensorrt.layer_listing import list_network
from neo_edge_export.tensorrt.parsing import parse_graph
from neo_edge_export.tensorrt.shape_ranges import decoder_ranges, vision_ranges
from neo_edge_runtime.nvidia_devices import NvidiaDevice, NvidiaDriver
from neo_edge_runtime.tensorrt.tensorrt_log import TensorRtLog

NO_DRIVER = "no NVIDIA driver (libnvidia-ml.so.1 is not there)"
LIMITS = EngineLimits(max_context=64, max_chunk=32, max_batch=2, max_logits_rows=16, max_patches=128)


def importer(**there: str | Exception) -> Callable[[str], ModuleType]:
    """Gives modules of these versions, or raises."""

    def give(name: str) -> ModuleType:
        found = there.get(name, ModuleNotFoundError(name))
        if isinstance(found, Exception):
            raise found
        module = ModuleType(name)
        module.__dict__["__version__"] = found
        return module

    return give


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tensorrt_that_is_not_installed_is_named_with_its_pip_line(backend: EngineBackend) -> None:
    with pytest.raises(MissingExtraError, match=rf'pip install "neo-edge\[{backend}\]"; or '):
        find_tensorrt(backend, importer())


def test_on_a_jetson_the_cure_is_jetpacks_own() -> None:
    with pytest.raises(MissingExtraError, match="JetPack's own .sudo apt install python3-libnvinfer"):
        find_tensorrt("tensorrt", importer(tensorrt_rtx="1.7.1"))


def test_tensorrt_rtx_is_found_under_either_name() -> None:
    both = importer(tensorrt_rtx="1.8.0", tensorrt_rtx_bindings="1.7.1.116")
    assert find_tensorrt("tensorrt-rtx", both).version == "1.8.0"
    assert find_tensorrt("tensorrt-rtx", importer(tensorrt_rtx_bindings="1.7.1.116")).version == "1.7.1.116"


@pytest.mark.parametrize("error", [ImportError("libnvinfer.so.10"), OSError("libcudart.so.13")])
def test_a_tensorrt_whose_libraries_do_not_load_is_broken(error: Exception) -> None:
    with pytest.raises(BrokenPackageError, match="'tensorrt' is installed and cannot be loaded .lib"):
        find_tensorrt("tensorrt", importer(tensorrt=error))


@pytest.mark.parametrize(
    ("backend", "version"),
    [
        ("tensorrt", "8.6.1"),
        ("tensorrt", "10.2.0.19"),
        ("tensorrt", "unknown"),
        ("tensorrt-rtx", "1.6.3"),
    ],
)
def test_a_tensorrt_that_is_too_old_is_refused(backend: EngineBackend, version: str) -> None:
    with pytest.raises(
        BackendError, match=f"{backend} {version} is installed; (10.3|1.7) or newer is needed"
    ):
        find_tensorrt(backend, importer(tensorrt=version, tensorrt_rtx=version))


def test_tensorrt_builds_for_the_gpu_that_is_here() -> None:
    installed, _ = fake_installed()
    target = choose_target(installed, None, H100)
    assert (target.compute_capability, target.driver, target.device) == ("90", "580.65", H100.devices[0])
    assert choose_target(installed, "SM_90", H100) == choose_target(installed, "9.0", H100) == target


@pytest.mark.parametrize(
    ("wanted", "driver", "error", "message"),
    [
        (
            None,
            NO_DRIVER,
            BackendError,
            "no NVIDIA driver .*TensorRT builds on the GPU that the engines are for",
        ),
        ("87", NO_DRIVER, EngineBuildError, "compute capability 87 is not here .no NVIDIA driver"),
        ("87", H100, EngineBuildError, "compute capability 87 is not here .9.0 here.: build on that device"),
        (None, NvidiaDriver("1", "13.0", ()), BackendError, "the driver finds no GPU, so there is none"),
        (
            None,
            NvidiaDriver("1", "12.6", (NvidiaDevice("Orin", None, ""),)),
            BackendError,
            "does not say the compute capability of Orin: give it with --compute-capability",
        ),
    ],
)
def test_a_gpu_that_is_not_here_is_refused(
    wanted: str | None, driver: NvidiaDriver | str, error: type[Exception], message: str
) -> None:
    installed, _ = fake_installed()
    with pytest.raises(error, match=message):
        choose_target(installed, wanted, driver)


def test_a_jetson_whose_driver_does_not_say_its_capability_is_believed_what_is_given() -> None:
    installed, _ = fake_installed()
    silent = NvidiaDriver("540.4.0", "12.6", (NvidiaDevice("Orin", None, ""),))
    target = choose_target(installed, "87", silent)
    assert (target.compute_capability, target.driver) == ("87", "540.4.0")


def build(root: Path, installed: Installed, driver: NvidiaDriver | str = H100, **changes: int) -> BuildResult:
    request = replace(BuildRequest("tensorrt", max_context=64, max_chunk=32, max_batch=2), **changes)
    return build_engines(root, request, installed=installed, driver=driver)


@pytest.fixture
def root(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle.root, tmp_path / "robot.bundle"))


def test_both_profiles_are_set_for_every_input_and_only_named_dimensions_vary(root: Path) -> None:
    installed, fake = fake_installed()
    build(root, installed)
    vision, prefill, decode = fake.profiles
    assert vision == {"x": ([4, 8, 4], [64, 8, 64], [128, 8, 128])}
    assert prefill == {"x": ([1, 8, 1], [2, 8, 32], [2, 8, 32])}
    assert decode == {"x": ([1, 8, 1], [2, 8, 1], [2, 8, 2])}
    assert fake.limits == {}
    assert fake.cleared == ["tf32", "tf32"]
    build(root, installed, overwrite=True, workspace_bytes=1 << 30)
    assert fake.limits == {"workspace": 1 << 30}


def test_decode_is_chosen_for_one_token_and_takes_two_so_that_weights_are_laid_out_once() -> None:
    prefill, decode = decoder_ranges(LIMITS)
    assert decode.least == prefill.least == {"batch": 1, "sequence": 1, "capacity": 1, "logits_rows": 1}
    assert decode.usual == {"batch": 2, "sequence": 1, "capacity": 32, "logits_rows": 1}
    assert decode.most == {"batch": 2, "sequence": 2, "capacity": 64, "logits_rows": 2}
    assert prefill.usual == {"batch": 2, "sequence": 32, "capacity": 32, "logits_rows": 1}
    assert prefill.most == {"batch": 2, "sequence": 32, "capacity": 64, "logits_rows": 16}
    _, least = decoder_ranges(EngineLimits(1, 1, 1, 1, 4))
    assert set(least.most.values()) == {1}


def test_a_vision_profile_never_starts_below_one_visual_token() -> None:
    (ranges,) = vision_ranges(replace(LIMITS, max_patches=4))
    assert ranges.least == ranges.usual == ranges.most == {"patches": 4}


def test_engines_timed_on_a_gpu_are_for_its_driver_and_hold_what_the_inspector_said(root: Path) -> None:
    installed, fake = fake_installed()
    result = build(root, installed)
    assert result.engines.key.driver == "580.65"
    layers = json.loads((root / result.engines.layers).read_text())
    assert layers["decoder"]["engine"] == INSPECTED
    assert fake.deserialized[1] == (root / result.engines.decoder).read_bytes()
    newer = replace(H100, version="590.1")
    again = build(root, installed, newer)
    assert again.built
    assert verify_bundle(root).manifest.engines.keys() == {result.name, again.name}


def test_measured_tactics_are_kept_and_start_the_next_build_of_the_same_gpu(root: Path) -> None:
    installed, _ = fake_installed()
    first = build(root, installed)
    assert first.engines.timing_cache is not None
    assert (root / first.engines.timing_cache).read_bytes() == b"measured;measured;"
    second = build(root, installed, max_context=96)
    assert (root / second.engines.vision).read_bytes() == b"plan after " + b"measured;" * 3
    elsewhere = build(root, installed, ORIN, max_context=96)
    assert (root / elsewhere.engines.vision).read_bytes() == b"plan after measured;"


def test_a_timing_cache_that_was_altered_is_not_read(root: Path) -> None:
    installed, _ = fake_installed()
    first = build(root, installed)
    assert first.engines.timing_cache is not None
    (root / first.engines.timing_cache).write_bytes(b"measured;forgeries;")
    second = build(root, installed, max_context=96)
    assert (root / second.engines.vision).read_bytes() == b"plan after measured;"


def test_a_build_that_fails_says_what_tensorrt_said_and_leaves_the_bundle_as_it_was(root: Path) -> None:
    installed, _ = fake_installed(builds=False)
    before = (root / "bundle.json").read_bytes()
    with pytest.raises(
        EngineBuildError, match="built no engine of fp16-portable/vision.onnx for compute"
    ) as raised:
        build(root, installed)
    assert "Could not find any implementation for node MatMul_7" in str(raised.value)
    assert (root / "bundle.json").read_bytes() == before
    assert not (root / "engines").exists()


def test_without_a_driver_tensorrt_is_not_touched(root: Path) -> None:
    installed, fake = fake_installed()
    with pytest.raises(BackendError, match="no NVIDIA driver"):
        build(root, installed, NO_DRIVER)
    assert (fake.profiles, fake.deserialized) == ([], [])


@pytest.fixture
def rtx() -> Installed:
    pytest.importorskip(
        "tensorrt_rtx_bindings", reason="the tensorrt-rtx-cu13-bindings wheel is not installed"
    )
    return find_tensorrt("tensorrt-rtx")


def parse(rtx: Installed, graph: Path) -> None:
    log = TensorRtLog(rtx.module)
    parse_graph(rtx, rtx.module.Builder(log.logger), graph, log)


def test_a_graph_that_the_parser_refuses_is_shown_by_node_operator_and_reason(
    rtx: Installed, tiny_bundle: Bundle
) -> None:
    with pytest.raises(EngineBuildError) as raised:
        parse(rtx, tiny_bundle.path("fp16/decoder.onnx"))
    first, reason, cure = str(raised.value).splitlines()
    assert first == f"tensorrt-rtx {rtx.version} takes no fp16/decoder.onnx:"
    assert "(TensorScatter): " in reason
    assert "must have a static sequence length" in reason
    assert cure.startswith("use a variant with portable operators")


def test_a_graph_that_is_no_onnx_or_lacks_its_weights_is_refused(
    rtx: Installed, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineBuildError, match=r"broken.onnx:\n  .*MODEL_DESERIALIZE_FAILED"):
        parse(rtx, tmp_path / "broken.onnx")
    shutil.copy(tiny_bundle.path("fp16-portable/vision.onnx"), tmp_path)
    with pytest.raises(EngineBuildError, match=r"vision.onnx.data"):
        parse(rtx, tmp_path / "vision.onnx")


def quantized(stored: str, name: str, own: str = "HALF") -> tuple[Any, list[Any]]:
    """A tensor of type `own` that is dequantized from one of type `stored`, and the layers that make it."""
    raw, wide, shaped = tensor(f"{name}.q", stored), tensor(f"{name}.dq", own), tensor(f"{name}.t", own)
    scale = tensor(f"{name}.scale", own)
    return shaped, [layer("DEQUANTIZE", [raw, scale], wide), layer("SHUFFLE", [wide], shaped)]


def test_products_are_listed_by_what_their_operands_are_stored_as() -> None:
    activation, made_activation = quantized("INT8", "x")
    weight, made_weight = quantized("INT8", "w")
    block, made_block = quantized("INT4", "b")
    plain, normed = tensor("p", "HALF"), tensor("n", "HALF")
    listing = list_network(
        network(
            [
                *made_activation,
                *made_weight,
                *made_block,
                layer("MATRIX_MULTIPLY", [activation, weight], tensor("y0", "HALF")),
                layer("MATRIX_MULTIPLY", [activation, weight], tensor("y1", "HALF")),
                layer("MATRIX_MULTIPLY", [plain, block], tensor("y2", "HALF")),
                layer("UNARY", [activation], normed),
                layer("MATRIX_MULTIPLY", [normed, weight], tensor("y3", "HALF")),
                layer("ATTENTION_INPUT", [plain], tensor("y4", "HALF")),
            ]
        )
    )
    assert listing.matrix_products == {"INT8 x INT8": 2, "HALF x INT4": 1, "HALF x INT8": 1}
    assert listing.int8_products == 2
    assert listing.attention_operators == 1
    assert listing.softmax_layers == 0
    assert listing.layers["DEQUANTIZE"] == 3


def test_progress_counts_phases_within_phases_and_never_goes_back() -> None:
    tree = PhaseTree()
    seen = []
    tree.start("build", None, 2)
    tree.start("tactics", "build", 4)
    for step in range(4):
        tree.step("tactics", step)
        seen.append(tree.percent)
    tree.finish("tactics")
    seen.append(tree.percent)
    tree.step("build", 0)
    seen.append(tree.percent)
    tree.finish("build")
    seen.append(tree.percent)
    assert seen == [12, 25, 37, 50, 50, 50, 100]


def test_phases_that_nobody_announced_are_ignored() -> None:
    tree = PhaseTree()
    tree.step("unknown", 3)
    tree.finish("unknown")
    assert tree.percent == 0


def test_the_estimate_grows_with_each_limit_and_sums_up(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.manifest
    variant = manifest.variants["fp16-portable"]

    def estimate(limits: EngineLimits) -> BuildEstimate:
        return estimate_build(manifest, variant, limits)

    least = estimate(LIMITS)
    decoder = manifest.model.decoder
    wide = 3 * decoder.head_dim * decoder.num_kv_heads * decoder.num_layers
    assert least.caches == 2 * 64 * wide * 2
    assert least.device_total == (
        least.weights + least.caches + least.attention_scratch + least.activations + least.workspace
    )
    assert estimate(replace(LIMITS, max_context=128)).caches == 2 * least.caches
    assert estimate(replace(LIMITS, max_context=128)).attention_scratch > least.attention_scratch
    assert estimate(replace(LIMITS, max_patches=256)).activations == 2 * least.activations
    assert estimate(replace(LIMITS, max_batch=4)).attention_scratch == 2 * least.attention_scratch


SUM = BuildEstimate(
    weights=4 << 30,
    caches=1 << 30,
    attention_scratch=1 << 30,
    activations=1 << 30,
    workspace=1 << 30,
    build_memory=17 << 30,
    plan_files=4 << 30,
)


@pytest.mark.parametrize(
    ("device", "here", "shared", "message"),
    [
        (
            7 << 30,
            64 << 30,
            False,
            "need about 8 GiB .weights 4 GiB, .* and the GPU has 7 GiB: choose smaller --max-",
        ),
        (
            80 << 30,
            16 << 30,
            False,
            "building needs about 17 GiB here .weights of 4 GiB.* and 16 GiB are free",
        ),
        (None, 16 << 30, True, "need about 17 GiB .* and the GPU has 16 GiB"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers_and_what_to_change(
    device: int | None, here: int, shared: bool, message: str
) -> None:
    with pytest.raises(MemoryBudgetError, match=message):
        require_memory(SUM, device_bytes=device, here_bytes=here, shared=shared)


@pytest.mark.parametrize(("device", "here"), [(8 << 30, 17 << 30), (None, None), (None, 17 << 30)])
def test_what_fits_or_is_unknown_passes(device: int | None, here: int | None) -> None:
    require_memory(SUM, device_bytes=device, here_bytes=here, shared=False)
    assert SUM.to_json()["device_total"] == 8 << 30

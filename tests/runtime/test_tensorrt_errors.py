"""What keeps TensorRT engines from running, each with a message that says what to do; none is loaded then."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tensorrt_bundle import DRIVER, LIMITS, RTX, Fakes, add_engines, engine_key

from neo_edge.bundle import Bundle, open_bundle, read_bundle
from neo_edge.engines import EngineKey, EngineSet
from neo_edge.errors import (
    BackendError,
    BrokenPackageError,
    BundleError,
    ContextOverflowError,
    EngineError,
    InputError,
    MemoryBudgetError,
    MissingExtraError,
)
from neo_edge.file_digest import digest_file
from neo_edge.manifest import FileEntry
from neo_edge_runtime.backend import DecoderInputs
from neo_edge_runtime.tensorrt.backend import TensorRtBackend
from neo_edge_runtime.tensorrt.device import Tensor
from neo_edge_runtime.tensorrt.engine import bind
from neo_edge_runtime.tensorrt.installed import find_tensorrt

VARIANT = "fp32-portable"
Change = Callable[[DecoderInputs], DecoderInputs]


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "robot.bundle"))


@pytest.fixture
def key(root: Path) -> EngineKey:
    return engine_key(open_bundle(root), VARIANT)


@pytest.fixture
def engines(root: Path, key: EngineKey) -> EngineSet:
    return add_engines(root, key)


@pytest.fixture
def fakes(root: Path, engines: EngineSet) -> Fakes:
    assert engines.key.variant == VARIANT
    return Fakes(open_bundle(root))


@pytest.fixture
def backend(fakes: Fakes) -> TensorRtBackend:
    return fakes.open()


def replace_file(root: Path, relative: str, content: bytes) -> None:
    """Another file of that name, which the manifest names."""
    (root / relative).write_bytes(content)
    manifest = read_bundle(root).manifest
    entry = FileEntry(len(content), digest_file(root / relative))
    (root / "bundle.json").write_text(
        replace(manifest, files={**manifest.files, relative: entry}).to_json(), encoding="utf-8"
    )


def refused(root: Path, message: str, **arguments: Any) -> None:
    """Opening says that, and has loaded nothing."""
    fakes = Fakes(read_bundle(root))
    with pytest.raises(EngineError, match=message) as caught:
        fakes.open(**arguments)
    assert "neo-edge build" in str(caught.value)
    assert fakes.loaded == []
    assert fakes.device.closed


def test_without_a_driver_no_device_is_opened_and_nothing_loaded(fakes: Fakes) -> None:
    with pytest.raises(
        BackendError, match=r"no NVIDIA driver \(here\), and tensorrt-rtx runs on an NVIDIA GPU only: "
    ):
        fakes.open(driver="no NVIDIA driver (here)")
    assert fakes.loaded == []
    assert fakes.device.free_memory == 1 << 30


def test_tensorrt_that_is_missing_broken_or_old_is_named_with_its_cure() -> None:
    def missing(name: str) -> ModuleType:
        raise ModuleNotFoundError(name)

    def broken(name: str) -> ModuleType:
        raise ImportError(f"libnvinfer.so.10 is not there ({name})")

    def old(name: str) -> ModuleType:
        module = ModuleType(name)
        module.__version__ = "8.6.1"  # type: ignore[attr-defined]
        return module

    with pytest.raises(MissingExtraError, match=r"neo-edge\[tensorrt-rtx\].*; or use --backend tensorrt"):
        find_tensorrt("tensorrt-rtx", missing)
    with pytest.raises(BrokenPackageError, match=r"libnvinfer.so.10 is not there"):
        find_tensorrt("tensorrt", broken)
    with pytest.raises(BackendError, match=r"tensorrt 8.6.1 is installed; 10.3 or newer is needed"):
        find_tensorrt("tensorrt", old)


def test_a_bundle_without_engines_says_how_to_build_them(root: Path) -> None:
    refused(
        root, r"has no tensorrt-rtx engines \(it has none\): run  neo-edge build .* --backend tensorrt-rtx"
    )


def test_engines_of_another_backend_or_variant_or_name_are_not_taken(root: Path, engines: EngineSet) -> None:
    name = engines.key.name
    refused(root, rf"has no tensorrt engines \(it has {name}\)", backend="tensorrt")
    refused(root, r"engines of the variant 'fp16-portable'.*--variant fp16-portable", variant="fp16-portable")
    refused(root, r"engines named 'others'", engines="others")
    with pytest.raises(BundleError, match="has no variant 'fp8'"):
        Fakes(read_bundle(root)).open("fp8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "1.6.0"}, "is for version 1.6.0 instead of 1.7.1"),
        ({"compute_capability": "89"}, "is for compute capability 89 instead of 86"),
        ({"driver": "570.1"}, "is for driver 570.1 instead of 580.65"),
        ({"graph_digest": "0" * 64}, "was built from other graphs than the bundle has now"),
    ],
)
def test_engines_with_another_key_are_not_loaded(
    root: Path, key: EngineKey, change: dict[str, str], message: str
) -> None:
    add_engines(root, replace(key, **change))  # type: ignore[arg-type]
    refused(root, message)


def test_engines_that_fit_are_found_beside_others_and_the_larger_ones_taken(
    root: Path, key: EngineKey
) -> None:
    add_engines(root, replace(key, compute_capability="89"))
    add_engines(root, replace(key, limits=replace(LIMITS, max_context=64, max_chunk=32)))
    wanted = add_engines(root, replace(key, driver=DRIVER.version))
    small = add_engines(root, replace(key, limits=replace(LIMITS, max_context=600)))
    fakes = Fakes(open_bundle(root))
    assert fakes.open().engines == wanted
    assert fakes.loaded == [wanted.vision, wanted.decoder]
    assert Fakes(open_bundle(root)).open(engines=small.key.name).limits.max_context == 600


def test_a_variant_that_changed_makes_its_engines_stale(root: Path, engines: EngineSet) -> None:
    assert engines.key.variant == VARIANT
    weights = f"{VARIANT}/decoder.onnx.data"
    replace_file(root, weights, (root / weights).read_bytes()[::-1])
    refused(root, "was built from other graphs than the bundle has now")


@pytest.mark.parametrize("part", ["vision", "decoder"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda plan: plan[:-5], "bytes, the manifest says"),
        (lambda plan: plan[:-1] + b"?", "was altered: its sha256 differs"),
        (lambda _: b"", "cannot be read"),
    ],
)
def test_a_plan_that_is_truncated_or_altered_is_never_loaded(
    root: Path, engines: EngineSet, part: str, damage: Callable[[bytes], bytes], message: str
) -> None:
    relative = engines.vision if part == "vision" else engines.decoder
    path = root / relative
    path.write_bytes(damage(path.read_bytes()))
    fakes = Fakes(read_bundle(root))
    with pytest.raises(EngineError, match=message):
        fakes.open()
    assert relative not in fakes.loaded
    assert fakes.device.closed


def test_a_plan_of_another_bundle_is_never_loaded(
    root: Path, engines: EngineSet, tmp_path: Path, tiny_bundle: Path
) -> None:
    other = Path(shutil.copytree(tiny_bundle, tmp_path / "other.bundle"))
    replace_file(other, f"{VARIANT}/decoder.onnx.data", b"\0" * 8)
    foreign = add_engines_of_damaged(other)
    # Its files in place of ours: the manifest has their digests from before.
    shutil.copyfile(other / foreign.decoder, root / engines.decoder)
    fakes = Fakes(read_bundle(root))
    with pytest.raises(EngineError, match="the manifest says|was altered"):
        fakes.open()
    assert engines.decoder not in fakes.loaded


def add_engines_of_damaged(root: Path) -> EngineSet:
    return add_engines(root, engine_key(read_bundle(root), VARIANT))


def test_an_engine_of_another_model_is_refused_when_it_is_loaded(root: Path, engines: EngineSet) -> None:
    bundle = open_bundle(root)
    fakes = Fakes(bundle)
    swapped = replace(engines, vision=engines.decoder, decoder=engines.vision)
    vision, decoder = (
        fakes.open_engine(RTX, (root / path).read_bytes(), path) for path in (engines.vision, engines.decoder)
    )
    with pytest.raises(EngineError, match=r"is not an engine of this bundle's model: patches is missing; "):
        TensorRtBackend(bundle, swapped, fakes.device, vision=decoder, decoder=vision)
    half = replace(
        bundle.manifest,
        variants={VARIANT: replace(bundle.variant(VARIANT), cache_dtype="float16")},
    )
    with pytest.raises(EngineError, match=r"key_cache.0 is float32, float16 is wanted"):
        TensorRtBackend(Bundle(root, half), engines, fakes.device, vision=vision, decoder=decoder)


def test_a_gpu_that_is_too_small_is_said_to_be(root: Path, engines: EngineSet) -> None:
    fakes = Fakes(open_bundle(root), memory_bytes=1500)
    with pytest.raises(MemoryBudgetError, match="no memory left for scratch of the decoder"):
        fakes.open()
    assert fakes.device.allocated["device"] == {}
    assert fakes.loaded == [engines.vision, engines.decoder]
    fakes = Fakes(open_bundle(root), memory_bytes=100_000)
    backend = fakes.open()
    free = fakes.device.free_memory
    with pytest.raises(MemoryBudgetError, match="no memory left for one layer's cache"):
        backend.new_state(batch=1, capacity=1024)
    assert fakes.device.free_memory == free


def inputs_of(backend: TensorRtBackend, *, batch: int = 1, tokens: int = 4, rows: int = 1) -> DecoderInputs:
    return DecoderInputs(
        inputs_embeds=backend.token_embedding[np.ones((batch, tokens), int)],
        position_ids=np.zeros((batch, 3, tokens), np.int32),
        visible_length=np.tile(np.arange(1, tokens + 1, dtype=np.int32), (batch, 1)),
        write_index=np.zeros(batch, np.int32),
        logits_index=np.zeros((batch, rows), np.int32),
    )


def with_array(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda inputs: replace(inputs, **{name: change(getattr(inputs, name))})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            with_array("inputs_embeds", lambda array: array.astype(np.float64)),
            InputError,
            r"inputs_embeds is \[1, 4, 64\] float64; it must be \[1, 4, 64\] float32",
        ),
        (
            with_array("inputs_embeds", lambda array: array[..., :32]),
            InputError,
            r"inputs_embeds is \[1, 4, 32\] float32; it must be \[1, 4, 64\]",
        ),
        (
            with_array("inputs_embeds", lambda array: array[0]),
            InputError,
            r"inputs_embeds is \[4, 64\] float32; it must be",
        ),
        (
            with_array("position_ids", lambda array: array.astype(np.int64)),
            InputError,
            r"position_ids is \[1, 3, 4\] int64; it must be \[1, 3, 4\] int32",
        ),
        (
            with_array("visible_length", lambda array: array[:, :3]),
            InputError,
            r"visible_length is \[1, 3\] int32; it must be \[1, 4\]",
        ),
        (
            with_array("visible_length", lambda array: array - 1),
            InputError,
            r"visible_length in 1..256, the capacity",
        ),
        (
            with_array("visible_length", lambda array: array + 253),
            InputError,
            r"visible_length in 1..256, the capacity",
        ),
        (
            with_array("write_index", lambda array: array[None]),
            InputError,
            r"write_index is \[1, 1\] int32; it must be \[1\]",
        ),
        (with_array("write_index", lambda array: array - 1), InputError, r"write_index must be 0 or above"),
        (
            with_array("write_index", lambda array: array + 253),
            InputError,
            r"the run ends at 257 tokens and the caches hold 256",
        ),
        (
            with_array("write_index", lambda array: array + 1021),
            ContextOverflowError,
            r"1025 tokens are needed and the engines hold 1024",
        ),
        (
            with_array("logits_index", lambda array: array[:, :0]),
            InputError,
            r"logits_index is \[1, 0\] int32; .*without an empty dimension",
        ),
        (with_array("logits_index", lambda array: array + 4), InputError, r"logits_index must lie in 0..3"),
    ],
)
def test_a_run_with_a_wrong_array_is_refused_and_changes_nothing(
    fakes: Fakes, backend: TensorRtBackend, change: Change, error: type[Exception], message: str
) -> None:
    state, good = backend.new_state(batch=1, capacity=256), inputs_of(backend)
    expected = state.run(good)
    runs, free = fakes.engines[1].runs, fakes.device.free_memory
    with pytest.raises(error, match=message):
        state.run(change(good))
    assert (fakes.engines[1].runs, fakes.device.free_memory) == (runs, free)
    assert np.array_equal(state.run(good), expected)


def test_requests_beyond_the_engines_limits_name_the_option_to_build_with(backend: TensorRtBackend) -> None:
    state = backend.new_state(batch=1, capacity=1024)
    with pytest.raises(InputError, match=r"513 tokens go in at once and the engines take 512: .*--max-chunk"):
        state.run(inputs_of(backend, tokens=513))
    with pytest.raises(InputError, match=r"4 sequences at once .* the engines take 1 to 3: .*--max-batch"):
        backend.new_state(batch=4, capacity=256)
    with pytest.raises(InputError, match=r"the run is of 2 sequences and its caches of 1"):
        state.run(inputs_of(backend, batch=2))
    with pytest.raises(
        InputError, match=r"patches is \[6, 768\] float32 and patch_xy \[6, 2\] int32; .*a multiple of 4"
    ):
        backend.encode_patches(np.zeros((6, 768), np.float32), np.zeros((6, 2), np.int32))
    with pytest.raises(
        InputError, match=r"patches is .* float64 and .* int64; .* float32 and \[P, 2\] int32"
    ):
        backend.encode_patches(np.zeros((4, 768)), np.zeros((4, 2), np.int64))


def test_what_is_bound_is_compared_with_the_engine_in_shape_type_and_place(
    fakes: Fakes, backend: TensorRtBackend
) -> None:
    backend.encode_patches(np.zeros((4, 768), np.float32), np.zeros((4, 2), np.int32))
    engine, float32 = fakes.engines[0], np.dtype(np.float32)
    context = backend._vision._context
    assert context is not None
    good = {
        "patches": Tensor(256, (8, 768), float32),
        "patch_xy": Tensor(256, (8, 2), np.dtype(np.int32)),
        "visual_tokens": Tensor(256, (2, 64), float32),
    }
    wrong = [
        (
            {"patches": replace(good["patches"], location="host")},
            "patches lies on the host, the engine wants it on",
        ),
        (
            {"patches": replace(good["patches"], dtype=np.dtype(np.float16))},
            "patches is float16, the engine takes",
        ),
        (
            {"patches": replace(good["patches"], shape=(8, 700))},
            r"patches has shape \[8, 700\], the engine takes",
        ),
        (
            {"patches": replace(good["patches"], shape=(260, 768))},
            r"profile 0 takes \[4, 768\] to \[256, 768\]",
        ),
        ({"patches": replace(good["patches"], address=0)}, "patches has no memory"),
        ({"pixels": good["patches"]}, "pixels is unknown"),
    ]
    for change, message in wrong:
        with pytest.raises(BackendError, match=message):
            bind(engine, context, 0, {**good, **change})
    with pytest.raises(BackendError, match="visual_tokens is not bound"):
        bind(engine, context, 0, {name: good[name] for name in ("patches", "patch_xy")})
    backend.encode_patches(np.zeros((4, 768), np.float32), np.zeros((4, 2), np.int32))

"""What the GPU check does, part by part; each runs in a process of its own and says what it saw."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from check_bundles import CASES, GOLDEN, SHAPE, find_bundle, shape_checkpoint, write_bundle
from check_facts import this_machine
from check_kernels import kernel_rows, largest_logits
from check_runner import Result, Row, SkipError

from neo_edge.bundle import Bundle
from neo_edge.engines import EngineKey
from neo_edge.errors import BackendError, NeoEdgeError
from neo_edge_runtime.tensorrt.device import Device
from neo_edge_runtime.tensorrt.device import Rows as Pieces

Rows = Iterator[tuple[str, Result, str]]  # what, result, detail
Engines = Literal["tensorrt", "tensorrt-rtx"]
_BLOCK = 1 << 20
_QUESTION = [5, 6, 7, 8, 9]  # token ids: the tiny bundle has no tokenizer
_CONTEXT, _CHUNK = 1024, 256  # of the small engines
_MEASURED = ["--new-tokens", "128", "--repetitions", "3", "--json"]
_ALL_SHAPES = ["--prompt-tokens", "512,2048", "--depth", "0,2048,8192", *_MEASURED]
_VS_TORCH = ["--prompt-tokens", "512", "--depth", "0", *_MEASURED, "--vs", "torch"]


@dataclass(frozen=True)
class PartPlan:
    """A part, what it needs beside a GPU, and how long it may take."""

    needs: tuple[str, ...]
    limit_s: float
    run: Callable[[Path], Rows]


def buffers(_: Path) -> Rows:
    """Bytes to the device, within it, and back."""
    yield from buffer_rows(_gpu())


def graphs(_: Path) -> Rows:
    """A copy captured as a CUDA graph, replayed with other numbers."""
    yield from graph_rows(_gpu())


def kernels(_: Path) -> Rows:
    """Arg-max and largest logits by the runtime's own programs."""
    yield from kernel_rows(_gpu())


def buffer_rows(device: Device) -> Rows:
    """The same on any device."""
    yield "device", "ok", f"{device.name}, compute capability {device.compute_capability}"
    pinned = device.allocate_pinned(_BLOCK)
    source, target = (device.allocate(_BLOCK, "the check") for _ in range(2))
    sent = np.random.default_rng(0).integers(0, 256, _BLOCK, np.uint8)
    pinned.array[:] = sent
    device.copy(source, pinned.address, _BLOCK)
    device.copy(target, source, _BLOCK)
    device.synchronize()
    pinned.array[:] = 0
    device.copy(pinned.address, target, _BLOCK)
    device.synchronize()
    yield _compared("copy to the device, within it and back", pinned.array, sent)
    device.zero(target, _BLOCK)
    pieces = Pieces(target, 64), Pieces(source, 128)
    device.copy_rows(*pieces, width_bytes=32, rows=100)
    device.copy(pinned.address, target, _BLOCK)
    device.synchronize()
    expected = np.zeros(_BLOCK, np.uint8)
    expected.reshape(-1, 64)[:100, :32] = sent.reshape(-1, 128)[:100, :32]
    yield _compared("copy pieces with a pitch", pinned.array, expected)
    if device.kernels is None:
        yield "kernels of our own", "skipped", "NVRTC is not installed"
    else:
        yield "kernels of our own", "ok", "compiled"


def graph_rows(device: Device) -> Rows:
    """The same on any device."""
    pinned = device.allocate_pinned(_BLOCK)
    source, target = (device.allocate(_BLOCK, "the check") for _ in range(2))
    graph = device.capture(lambda: device.copy(target, source, _BLOCK))
    if graph is None:
        yield "capture", "failed", "the driver captured no graph of a copy"
        return
    for number in (1, 2):
        pinned.array[:] = number
        device.copy(source, pinned.address, _BLOCK)
        graph.launch()
        device.copy(pinned.address, target, _BLOCK)
        device.synchronize()
        yield _compared(f"replay {number}", pinned.array, np.full(_BLOCK, number, np.uint8))
    graph.close()


def bundles(folder: Path) -> Rows:
    """Exports what the other parts run."""
    for name in ("tiny", "nano"):
        wrote = write_bundle(folder, name)
        yield f"{name}.bundle", "ok", "exported" if wrote else "there already"


def onnxruntime_cuda(folder: Path) -> Rows:
    """Each variant on the CUDA provider: which run, goldens, the same answer as the CPU's."""
    import onnxruntime

    yield (
        "package",
        "ok",
        f"onnxruntime {onnxruntime.__version__}, CUDA {getattr(onnxruntime, 'cuda_version', '?')}",
    )
    bundle = find_bundle(folder, "tiny")
    for variant in bundle.manifest.variants:
        yield from _variant(bundle, variant)
    yield from _guarded(
        "answer", lambda: _same_answer(bundle, "onnxruntime-cuda", "fp32-portable", exact=True)
    )
    yield from _guarded("nano", lambda: _scenes(folder, "onnxruntime-cuda", "fp16-portable"))


def tensorrt(folder: Path) -> Rows:
    """TensorRT: build for this GPU and run."""
    yield from _engines(folder, "tensorrt")


def tensorrt_rtx(folder: Path) -> Rows:
    """TensorRT-RTX: build for this GPU and run; whether it takes compute capability 9.0 is one of the questions."""
    yield from _engines(folder, "tensorrt-rtx")


def shape(folder: Path) -> Rows:
    """Writes a checkpoint of 2B's shape, random, and its fp16 bundle."""
    wrote = write_bundle(folder, SHAPE)
    yield f"{SHAPE}.bundle", "ok", "exported" if wrote else "there already"


def bench_onnxruntime(folder: Path) -> Rows:
    """2B's shape on the CUDA provider."""
    yield from _bench(folder, "onnxruntime-cuda", _ALL_SHAPES)


def bench_tensorrt(folder: Path) -> Rows:
    """2B's shape with TensorRT, else with TensorRT-RTX."""
    backend, started = _installed_engines(), time.perf_counter()
    _build(find_bundle(folder, SHAPE), backend, context=8192 + 2048 + 256, chunk=2048)
    yield f"build {backend}", "ok", f"{time.perf_counter() - started:.0f} s"
    yield from _bench(folder, backend, _ALL_SHAPES)


def bench_torch(folder: Path) -> Rows:
    """The same engines and PyTorch in turn, in two shapes only: each is compiled, which takes the most time."""
    backend = _installed_engines()
    find_bundle(folder, SHAPE)  # before four gigabytes are written
    yield from _bench(folder, backend, [*_VS_TORCH, "--checkpoint", str(shape_checkpoint(folder))])


PARTS = {
    "buffers": PartPlan(("cuda",), 30, buffers),
    "graphs": PartPlan(("cuda",), 30, graphs),
    "kernels": PartPlan(("cuda",), 30, kernels),
    "bundles": PartPlan(("torch", "onnx"), 60, bundles),
    "onnxruntime-cuda": PartPlan(("onnxruntime",), 60, onnxruntime_cuda),
    "tensorrt": PartPlan(("tensorrt", "cuda"), 90, tensorrt),
    "tensorrt-rtx": PartPlan(("tensorrt_rtx", "cuda"), 60, tensorrt_rtx),
    "shape": PartPlan(("torch", "onnx"), 150, shape),
    "bench-onnxruntime": PartPlan(("onnxruntime",), 90, bench_onnxruntime),
    "bench-tensorrt": PartPlan(("cuda",), 180, bench_tensorrt),
    "bench-torch": PartPlan(("cuda", "onnx", "torch"), 180, bench_torch),
}


def run_part(name: str, folder: Path) -> Iterator[Row]:
    """The part's rows; what it raises on purpose is one of them."""
    try:
        for what, result, detail in PARTS[name].run(folder):
            yield Row(name, what, result, detail)
    except SkipError as reason:
        yield Row(name, name, "skipped", str(reason))
    except NeoEdgeError as error:
        yield Row(name, name, "failed", f"{type(error).__name__}: {error}")


def _gpu() -> Device:
    from neo_edge_runtime.tensorrt.cuda_device import CudaDevice

    return CudaDevice()


def _compared(what: str, found: np.ndarray, expected: np.ndarray) -> tuple[str, Result, str]:
    wrong = int((found != expected).sum())
    return (
        what,
        "failed" if wrong else "ok",
        f"{wrong} of {expected.size} bytes are wrong" if wrong else "all bytes right",
    )


def _variant(bundle: Bundle, name: str) -> Rows:
    """Variants that the provider refuses are an answer, too; the plainest one must run."""
    try:
        yield from ((name, *found) for found in [_parity(bundle, "onnxruntime-cuda", name)])
    except BackendError as error:
        yield name, "failed" if name == "fp32-portable" else "skipped", f"refused: {error}"


def _guarded(what: str, run: Callable[[], tuple[Result, str]]) -> Rows:
    """One row; a typed error is a failure of it alone."""
    try:
        result, detail = run()
    except SkipError as reason:
        result, detail = "skipped", str(reason)
    except NeoEdgeError as error:
        result, detail = "failed", f"{type(error).__name__}: {error}"
    yield what, result, detail


def _parity(bundle: Bundle, backend: str, variant: str) -> tuple[Result, str]:
    """Upstream's numbers, whole and in chunks, with rewind and fork."""
    from neo_edge_runtime.backend_choice import open_backend
    from neo_edge_runtime.golden import read_golden
    from neo_edge_runtime.parity import TOLERANCE, replay
    from neo_edge_runtime.prompt_assembly import text_only_tokens

    config = bundle.manifest.model
    allowed = TOLERANCE.get(bundle.variant(variant).precision)
    if allowed is None:
        raise SkipError("there is no tolerance for this precision")
    opened = open_backend(bundle, backend, variant=variant).backend
    tokens = bundle.manifest.special_tokens or text_only_tokens(config)
    try:
        found = [
            replay(opened, tokens, read_golden(GOLDEN / f"{case}.npz", config), chunked=chunked)
            for case in CASES
            for chunked in (False, True)
        ]
    finally:
        opened.close()
    worst = max(case.worst for case in found)
    right = all(case.within(allowed) for case in found)
    return "ok" if right else "failed", f"goldens: worst {worst:.2e}, allowed {allowed:.0e}"


def _same_answer(bundle: Bundle, backend: str, variant: str, *, exact: bool) -> tuple[Result, str]:
    """Greedy tokens against ONNX Runtime on the CPU in float32."""
    from neo_edge.options import SamplingOptions
    from neo_edge_runtime.loading import load

    options, found = SamplingOptions(max_new_tokens=16), []
    for name, which in ((backend, variant), ("onnxruntime", "fp32-portable")):
        with load(bundle.root, backend=cast("Engines", name), variant=which) as model:
            found.append(model.generate(_QUESTION, options=options).token_ids)
    equal = sum(mine == theirs for mine, theirs in zip(*found, strict=False))
    right = equal == len(found[1]) or not exact
    return "ok" if right else "failed", f"{equal} of {len(found[1])} tokens are those of fp32 on the CPU"


def _scenes(folder: Path, backend: str, variant: str) -> tuple[Result, str]:
    """The nano's answers about pictures that it was trained for."""
    from neo_edge_calibration.evaluation import evaluate, scene_questions
    from neo_edge_runtime.loading import load

    bundle = find_bundle(folder, "nano")
    with load(bundle.root, backend=cast("Engines", backend), variant=variant) as model:
        scores = evaluate(model, scene_questions(["count"], 0, 20))
    accuracy = next(iter(scores.values())).accuracy
    return "ok" if accuracy >= 0.9 else "failed", f"{variant}: {accuracy:.0%} of 20 scenes right"


def _engines(folder: Path, backend: Engines) -> Rows:
    for name in ("tiny", "nano"):
        bundle, started = find_bundle(folder, name), time.perf_counter()
        key = _build(bundle, backend, context=_CONTEXT, chunk=_CHUNK)
        yield (
            f"build {name}",
            "ok",
            f"{key.version}, SM{key.compute_capability}, {time.perf_counter() - started:.1f} s",
        )
    bundle = find_bundle(folder, "tiny")
    yield from _guarded("parity", lambda: _parity(bundle, backend, "fp16-portable"))
    yield from _guarded("answer", lambda: _same_answer(bundle, backend, "fp16-portable", exact=False))
    yield from _guarded("largest logits", lambda: largest_logits(bundle, backend))
    yield from _guarded("nano", lambda: _scenes(folder, backend, "fp16-portable"))
    yield from _guarded("frame on the GPU", lambda: _frame(folder, backend))


def _installed_engines() -> Engines:
    modules = this_machine().modules
    if "tensorrt" in modules:
        return "tensorrt"
    if "tensorrt_rtx" in modules:
        return "tensorrt-rtx"
    raise SkipError("neither tensorrt nor tensorrt-rtx-cu13 is installed")


def _build(bundle: Bundle, backend: Engines, *, context: int, chunk: int) -> EngineKey:
    from neo_edge_export.tensorrt.engine_builder import BuildRequest, build_engines

    request = BuildRequest(backend=backend, max_context=context, max_chunk=chunk)
    try:
        return build_engines(bundle.root, request).engines.key
    except NeoEdgeError as error:
        if backend == "tensorrt-rtx" and "compute capability" in str(error):
            raise SkipError(f"TensorRT-RTX does not build for this GPU: {error}") from error
        raise


def _frame(folder: Path, backend: Engines) -> tuple[Result, str]:
    from neo_edge_calibration.scenes import make_question
    from neo_edge_runtime.loading import load

    question = make_question("count", seed=0, index=0)
    with load(find_bundle(folder, "nano").root, backend=backend, variant="fp16-portable") as model:
        image = np.asarray(question.images[0].convert("RGB"))
        return frame_row(lambda picture: model.generate(question.prompt, [picture]).text, _gpu(), image)


def frame_row(answer: Callable[[Any], str], device: Device, image: np.ndarray) -> tuple[Result, str]:
    """The answer about a picture on the host and about the same one on the device."""
    pinned = device.allocate_pinned(image.nbytes)
    address = device.allocate(image.nbytes, "a frame")
    pinned.array[:] = image.reshape(-1)
    device.copy(address, pinned.address, image.nbytes)
    device.synchronize()
    expected, found = answer(image), answer(FrameOnDevice(address, image.shape))
    if found != expected:
        return "failed", f"answer {found!r} of the frame on the GPU, {expected!r} of the same on the host"
    return "ok", f"same answer as from the host: {found!r}"


class FrameOnDevice:
    """[H, W, 3] uint8 at an address, as pycuda, cupy and torch describe theirs."""

    def __init__(self, address: int, shape: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {
            "data": (address, True),
            "shape": shape,
            "strides": None,
            "typestr": "|u1",
            "version": 3,
        }


def _bench(folder: Path, backend: str, arguments: list[str]) -> Rows:
    bundle = find_bundle(folder, SHAPE)
    command = [
        sys.executable,
        "-m",
        "neo_edge.cli",
        "bench",
        str(bundle.root),
        "--backend",
        backend,
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        yield "bench", "failed", done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"
        return
    name = f"bench-{backend}{'-torch' if 'torch' in arguments else ''}.json"
    (folder / name).write_text(done.stdout, encoding="utf-8")
    yield from bench_rows(json.loads(done.stdout))


def bench_rows(report: dict[str, object]) -> Rows:
    """The figures of `neo-edge bench --json`, one row a test."""
    peak = report["peak_device_memory_bytes"]
    yield (
        "memory",
        "ok",
        "not known" if peak is None else f"{cast('int', peak) / 2**30:.2f} GiB on the device",
    )
    rates = cast("dict[str, dict[str, float]]", report["read_bytes_per_second"])
    for name, rate in rates.items():
        yield "bandwidth", "ok", f"{rate['mean'] / 1e9:.0f} GB/s: {name}"
    for row in cast("list[dict[str, dict[str, float]]]", report["text"]):
        detail = f"{row['tokens_per_second']['mean']:.1f} tokens/s"
        if row["share_of_read_bandwidth"] is not None:
            detail += f", {row['share_of_read_bandwidth']['mean']:.2f} of the bandwidth"
        for name, ratio in cast("dict[str, dict[str, float]]", row["times_ours"]).items():
            detail += f", {name} takes {ratio['mean']:.2f} x"
        yield str(row["test"]), "ok", detail
    image = cast("dict[str, dict[str, dict[str, float]]]", report["image"])["seconds"]
    if "first token" in image:
        yield "one picture", "ok", f"{image['first token']['mean'] * 1e3:.1f} ms to the first token"

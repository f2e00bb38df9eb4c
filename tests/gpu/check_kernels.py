"""The runtime's own programs that look at logits, against numpy on the same numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from check_runner import Result

from neo_edge.bundle import Bundle
from neo_edge.engines import EngineBackend
from neo_edge.positions import layout
from neo_edge_runtime.backend import MOST_CANDIDATES, Backend, Candidates
from neo_edge_runtime.backend_choice import open_backend
from neo_edge_runtime.prompt_assembly import text_only_tokens
from neo_edge_runtime.session import Session
from neo_edge_runtime.tensorrt.device import Device, Kernels, Tensor

_VOCAB = 151_936  # 2B's
_TEMPERATURE = 0.7
_STEPS = 4


def kernel_rows(device: Device) -> Iterator[tuple[str, Result, str]]:
    """What was looked at, whether it is right, and what was wrong; on any device."""
    kernels = device.kernels
    if kernels is None:
        yield "kernels of our own", "skipped", "NVRTC is not installed"
        return
    for name, logits in _rows().items():
        yield f"arg-max, {name}", *_likeliest(device, kernels, logits)
        yield f"largest logits, {name}", *_candidates(device, kernels, logits)


def largest_logits(bundle: Bundle, backend: EngineBackend) -> tuple[Result, str]:
    """`steps_row` of the bundle's engines."""
    opened = open_backend(bundle, backend, variant="fp16-portable").backend
    try:
        return steps_row(opened)
    finally:
        opened.close()


def steps_row(backend: Backend) -> tuple[Result, str]:
    """The largest logits of steps that run as they are, are captured and replayed, against all logits of the same."""
    ids = np.array([5, 6, 7, 8, 9])
    found: list[Candidates] = []

    def all_logits(candidates: Candidates) -> None:
        found.append(candidates)

    with Session(backend) as session:
        session.prefill(ids, layout(ids, [], text_only_tokens(backend.traits.config)))
        for step in range(_STEPS):
            logits = session.decode_narrowed(step, _TEMPERATURE, all_logits)
            if len(found) != step + 1 or not len(found[-1].tokens):
                return "failed", "the device found none"
            assert isinstance(logits, np.ndarray)
            expected = np.flatnonzero(logits > np.float32(found[-1].below))
            if not np.array_equal(found[-1].tokens, expected):
                return "failed", f"step {step}: {len(found[-1].tokens)} tokens, {len(expected)} of all logits"
    return "ok", f"those of all logits in {_STEPS} steps"


def _rows() -> dict[str, np.ndarray]:
    logits = np.random.default_rng(0).normal(0, 3, _VOCAB).astype(np.float32)
    spoilt = logits.copy()
    spoilt[_VOCAB - 1] = np.nan
    return {
        "spread": logits,
        "many equal": np.round(logits),
        "all equal": np.full(_VOCAB, -2.5, np.float32),
        "not finite": spoilt,
    }


def _likeliest(device: Device, kernels: Kernels, logits: np.ndarray) -> tuple[Result, str]:
    rows, found = _tensor(device, (1, _VOCAB), np.float32), _tensor(device, (1, 2), np.int32)
    _send(device, rows, logits)
    kernels.likeliest(rows, found)
    token, finite = _fetch(device, found)[0].tolist()
    if finite != np.isfinite(logits).all():
        return "failed", f"finite is {finite}"
    if finite and token != logits.argmax():
        return "failed", f"token {token}, numpy says {logits.argmax()}"
    return "ok", "as numpy"


def _candidates(device: Device, kernels: Kernels, logits: np.ndarray) -> tuple[Result, str]:
    row, heat = _tensor(device, (_VOCAB,), np.float32), _tensor(device, (1,), np.float32)
    tokens, values = (_tensor(device, (MOST_CANDIDATES,), dtype) for dtype in (np.int32, np.float32))
    summary = _tensor(device, (4,), np.float32)
    _send(device, row, logits)
    _send(device, heat, np.array([_TEMPERATURE], np.float32))
    kernels.candidates(row, heat, tokens, values, summary)
    count, below, total, finite = _fetch(device, summary).tolist()
    if finite != np.isfinite(logits).all():
        return "failed", f"finite is {finite}"
    if not finite:
        return "ok", "seen"
    expected = np.flatnonzero(logits > np.sort(logits)[-MOST_CANDIDATES])
    ids = _fetch(device, tokens)[: int(count)]
    order = ids.argsort()
    if ids[order].tolist() != expected.tolist():
        return "failed", f"{int(count)} tokens above {below}; numpy finds {len(expected)}, or others"
    if not np.array_equal(_fetch(device, values)[: int(count)][order], logits[expected]):
        return "failed", "the logits are not those of their tokens"
    scores = (logits / np.float32(_TEMPERATURE)).astype(np.float64)
    right = np.exp(scores - scores.max()).sum()
    error = abs(total / right - 1)
    allowed = (_VOCAB / 1024 + 64) * 2.0**-23
    return (
        "ok" if error <= allowed else "failed",
        f"{int(count)} tokens as numpy; the sum is off by {error:.1e}, allowed {allowed:.1e}",
    )


def _tensor(device: Device, shape: tuple[int, ...], dtype: type[np.generic]) -> Tensor:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return Tensor(device.allocate(size, "the check"), shape, np.dtype(dtype))


def _send(device: Device, tensor: Tensor, values: np.ndarray) -> None:
    pinned = device.allocate_pinned(tensor.nbytes)
    pinned.array[:] = values.reshape(-1).view(np.uint8)
    device.copy(tensor.address, pinned.address, tensor.nbytes)
    device.synchronize()
    device.free_pinned(pinned)


def _fetch(device: Device, tensor: Tensor) -> np.ndarray:
    pinned = device.allocate_pinned(tensor.nbytes)
    device.copy(pinned.address, tensor.address, tensor.nbytes)
    device.synchronize()
    found = pinned.array.view(tensor.dtype).reshape(tensor.shape).copy()
    device.free_pinned(pinned)
    return found

"""The PyTorch reference on a GPU, eager and compiled, and what PyTorch says of the GPU itself."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from neo_edge_export.bench.torch_speed import Step, TorchDecoder
from neo_edge_export.reference import LanguageModel
from neo_edge_runtime.bench.timing import Contender

_SIZE, _PRODUCTS = 8192, 8  # float16 matrices large enough that starting a product costs nothing
_COMPILE_MODE = "reduce-overhead"  # CUDA graphs, for which the cache stays at one place


class TorchGpuRival:
    """The reference in float16 with PyTorch's fused attention; its cache is allocated once."""

    def __init__(
        self,
        model: LanguageModel,
        *,
        device: str = "cuda",
        dtype: torch.dtype = torch.float16,
        compiled: bool = True,
    ) -> None:
        """Moves the model.

        Args:
            model: the reference; it is changed in place.
            device: where to.
            dtype: of weights and cache.
            compiled: whether `torch.compile` runs, too.
        """
        self._model = model.to(device=device, dtype=dtype)
        self._compiled = compiled
        self._wait: Callable[[], None] = torch.cuda.synchronize if device.startswith("cuda") else lambda: None

    def contenders(self, tokens: int, past: int) -> dict[str, Contender]:
        """Eager, and compiled; see `neo_edge_runtime.bench.measuring.Rival`."""
        found = {"torch eager": self._contender(self._decoder(tokens, past).step)}
        if self._compiled:
            step = torch.compile(self._decoder(tokens, past).step, mode=_COMPILE_MODE)
            found[f"torch.compile({_COMPILE_MODE})"] = self._contender(step)
        return found

    def _decoder(self, tokens: int, past: int) -> TorchDecoder:
        return TorchDecoder(self._model, "MKL", Step(tokens, past))  # whose products are PyTorch's own

    def _contender(self, step: Callable[[], Tensor]) -> Contender:
        def timed() -> Tensor:
            with torch.inference_mode():
                logits = step()
            self._wait()
            return logits

        return Contender(timed)


def torch_matrix_rate(device: str = "cuda", size: int = _SIZE) -> float:
    """Operations a second of float16 products [size, size] x [size, size], the best of three."""
    dtype = torch.float16
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    wait: Callable[[], None] = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    best = 0.0
    with torch.inference_mode():
        for _ in range(4):  # the first starts the library
            wait()
            started = time.perf_counter()
            for _ in range(_PRODUCTS):
                torch.mm(left, right)
            wait()
            best = max(best, _PRODUCTS * 2 * size**3 / (time.perf_counter() - started))
    return best

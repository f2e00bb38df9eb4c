"""The largest number that goes into or comes out of a projection: what float16 must be able to hold."""

from __future__ import annotations

from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

FLOAT16_MAX = 65504.0


class ActivationRange:
    """Watches the projections of a model while it runs inside a `with` statement.

    ONNX Runtime computes float16 products in float32 on CPUs and leaves out many a rounding in between, so an
    overflow that a GPU would suffer does not show in its results; it shows here.
    """

    def __init__(self, model: nn.Module) -> None:
        self.largest = 0.0
        self._model = model
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> ActivationRange:
        for module in self._model.modules():
            if isinstance(module, nn.Linear):
                self._handles.append(module.register_forward_hook(self._see))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _see(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen = torch.stack([inputs[0].abs().amax(), output.abs().amax()]).amax()
        self.largest = max(self.largest, float(seen))

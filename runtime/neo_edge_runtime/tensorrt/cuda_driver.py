"""Calls of the CUDA driver through NVIDIA's cuda-bindings, with typed errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from neo_edge.errors import BackendError, MemoryBudgetError, MissingExtraError
from neo_edge.extras import require

if TYPE_CHECKING:
    from types import ModuleType

_PACKAGE = "cuda-bindings"
_SUCCESS, _OUT_OF_MEMORY, _NO_DEVICE = 0, 2, 100  # of CUresult


class CudaDriver:
    """The driver's library, started.

    `cuda.bindings.driver` has the names and arguments of CUDA's C interface; each function gives a tuple of a status
    and its results.
    """

    def __init__(self, extra: str, importer: Callable[..., ModuleType] = require) -> None:
        """Starts CUDA.

        Args:
            extra: of the `neo-edge` package that brings cuda-bindings, for the message.
            importer: gives the module of that name.

        Raises:
            MissingExtraError, BrokenPackageError: cuda-bindings is not there, or does not load.
            BackendError: there is no driver or no GPU.
        """
        try:
            self.names: ModuleType = importer("cuda.bindings.driver", extra=extra)
        except MissingExtraError as error:
            raise MissingExtraError(
                _PACKAGE, extra, otherwise=f'on JetPack 6 (CUDA 12):  pip install "{_PACKAGE}<13"'
            ) from error
        try:
            (status,) = self.names.cuInit(0)
        except RuntimeError as error:  # the package looks for libcuda at the first call
            raise BackendError(
                f"no NVIDIA driver ({error}): install it, start a container with --gpus all, or use --backend "
                "onnxruntime"
            ) from error
        if int(status) == _NO_DEVICE or (int(status) == _SUCCESS and self.call("cuDeviceGetCount") == 0):
            raise BackendError(
                "the NVIDIA driver finds no GPU: see nvidia-smi and CUDA_VISIBLE_DEVICES, or use --backend onnxruntime"
            )
        self._require(int(status), "cuInit", None)

    def call(
        self, name: str, *arguments: object, purpose: str | None = None
    ) -> Any:  # as many types as functions
        """A function's result: nothing, one value or a tuple.

        Raises:
            MemoryBudgetError: memory ran out.
            BackendError: anything else.
        """
        function: Callable[..., tuple[Any, ...]] = getattr(self.names, name)
        try:
            status, *found = function(*arguments)
        except RuntimeError as error:  # this driver lacks the function
            raise BackendError(f"{name} cannot be called ({error}): install a newer NVIDIA driver") from error
        self._require(int(status), name, purpose)
        return found[0] if len(found) == 1 else tuple(found)

    def _require(self, status: int, name: str, purpose: str | None) -> None:
        if status == _SUCCESS:
            return
        if status == _OUT_OF_MEMORY:
            raise MemoryBudgetError(
                f"the GPU has no memory left for {purpose or name}: end other programs on it, close sessions, or build "
                "engines with smaller --max-context, --max-chunk or --max-batch"
            )
        error = self.names.CUresult(status)
        _, text = self.names.cuGetErrorString(error)
        told = text.decode("utf-8", "replace") if isinstance(text, bytes) else "unknown"
        raise BackendError(
            f"{name} failed: {told} ({error.name}). After most such errors a process cannot use the GPU any more: "
            "start it again, and look at nvidia-smi and dmesg when it comes back"
        )

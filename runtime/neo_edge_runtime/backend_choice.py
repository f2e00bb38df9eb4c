"""What runs a bundle: the backends by name, and how each is opened. None stands in for another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from neo_edge.errors import InputError
from neo_edge.shown import shown

if TYPE_CHECKING:
    from neo_edge.bundle import Bundle
    from neo_edge.engines import EngineBackend
    from neo_edge_runtime.backend import Backend
    from neo_edge_runtime.prepacked_build import PrepackedMode

BackendName = Literal["onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
DEFAULT_BACKEND: BackendName = "onnxruntime"  # on the CPU, which is everywhere


@dataclass(frozen=True)
class OpenedBackend:
    """A backend that is ready, and what it runs."""

    name: BackendName
    backend: Backend
    variant: str
    threads: int  # of the host's operators
    prepacked: bool = False  # the weights are mapped from the prepacked cache
    kernels: str = ""  # what computes the decoder on a CPU, see `OrtBackend.kernels`; empty: another device


def backend_name(asked: str | None) -> BackendName:
    """The backend of that name; None: `DEFAULT_BACKEND`.

    Raises:
        InputError: there is none of that name.
    """
    if asked is None:
        return DEFAULT_BACKEND
    for name in BACKENDS:
        if name == asked:
            return name
    raise InputError(f"backend is {shown(asked)}; it must be one of {', '.join(BACKENDS)}")


def open_backend(
    bundle: Bundle,
    asked: str | None,
    *,
    variant: str | None = None,
    threads: int | None = None,
    keep_scratch: bool = True,
    prepacked: PrepackedMode = "auto",
) -> OpenedBackend:
    """Loads a variant, or fails: nothing runs elsewhere than asked.

    Args:
        bundle: an opened bundle.
        asked: one of `BACKENDS`; None: ONNX Runtime on the CPU.
        variant: one of the bundle's; None: the first that the backend can run, with TensorRT the one that engines
            were built of.
        threads: of the host's operators; None: what the backend is best with.
        keep_scratch: see `OrtBackend`.
        prepacked: see `OrtBackend`; of the CPU alone.

    Raises:
        InputError: no such backend, or `prepacked` is `build` for a GPU.
        BundleError, MissingExtraError, BackendError, CacheError, MemoryBudgetError: as the backend says.
    """
    name = backend_name(asked)
    if name == "onnxruntime":
        from neo_edge_runtime.ort_backend import OrtBackend, runnable_variants

        chosen = variant or runnable_variants(bundle)[0]
        host = OrtBackend(bundle, chosen, threads=threads, keep_scratch=keep_scratch, prepacked=prepacked)
        return OpenedBackend(name, host, chosen, host.threads, host.prepacked, host.kernels)
    if prepacked == "build":
        raise InputError(
            f"prepacked is 'build' and the backend {name}: prepacked weights are the CPU's; leave it out for a GPU"
        )
    if name == "onnxruntime-cuda":
        from neo_edge_runtime.ort_device_backend import open_on_device

        device, chosen = open_on_device(bundle, variant, threads=threads)
        return OpenedBackend(name, device, chosen, device.threads)
    return _open_tensorrt(bundle, name, variant)


def _open_tensorrt(bundle: Bundle, name: EngineBackend, variant: str | None) -> OpenedBackend:
    from neo_edge_runtime.tensorrt.backend import TensorRtBackend

    engines = TensorRtBackend.open(bundle, variant, backend=name)
    return OpenedBackend(name, engines, engines.engines.key.variant, threads=1)

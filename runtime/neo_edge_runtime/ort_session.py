"""How graphs are opened in ONNX Runtime, and what it raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from neo_edge_runtime.denormals import FloatEnvironmentKept, flushes_denormals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import ModuleType

    import numpy.typing as npt

    from neo_edge_runtime.backend import BackendTraits


def session_options(ort: ModuleType, threads: int, *, pack_weights: bool = True) -> Any:  # it has no types
    """`threads` for each operator; operators run one after another; only errors are logged.

    Without `pack_weights` products read the weights as they lie, and opening a graph makes no second copy of them.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # its warnings are about its own optimizations
    if not pack_weights:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if flushes_denormals:  # in the graph's own threads; `denormals_flushed` does it in the caller's
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return options


def open_session(
    ort: ModuleType,
    graph: Path | bytes,
    options: Any,
    providers: Sequence[str | tuple[str, Mapping[str, str]]] = ("CPUExecutionProvider",),
) -> Any:
    """The graph with these providers; raises one of `ort_errors`."""
    with FloatEnvironmentKept():  # the option above changes this thread's, too
        return ort.InferenceSession(
            graph if isinstance(graph, bytes) else str(graph), options, providers=list(providers)
        )


def run_vision(
    session: Any,
    traits: BackendTraits,
    patches: npt.NDArray[np.float32],
    patch_xy: npt.NDArray[np.int32],
) -> npt.NDArray[np.generic]:
    """[P, 768] float32 and [P, 2] int32 -> [P/4, hidden]; no patches give no tokens; raises one of `ort_errors`."""
    if not len(patches):
        return np.zeros((0, traits.config.decoder.hidden_size), traits.embedding_dtype)
    outputs: list[npt.NDArray[np.generic]] = session.run(
        ["visual_tokens"], {"patches": patches, "patch_xy": patch_xy}
    )
    return outputs[0]


def ort_errors(ort: ModuleType) -> tuple[type[Exception], ...]:
    """What onnxruntime raises; its own classes derive from Exception directly and have no common base."""
    state = ort.capi.onnxruntime_pybind11_state
    names = (
        "EPFail",
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NotImplemented",
        "NoSuchFile",
        "RuntimeException",
    )
    return (*(getattr(state, name) for name in names), RuntimeError, ValueError, MemoryError)

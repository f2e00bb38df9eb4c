"""Runs one block in ONNX Runtime; its weights are mapped from the variant's files and go when it closes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from neo_edge.errors import BackendError
from neo_edge.extras import require
from neo_edge_runtime.ort_session import ort_errors, session_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from neo_edge_calibration.observation.blocks import Block

_FOLDER = "session.model_external_initializers_file_folder_path"


class BlockRunner:
    """A loaded block."""

    def __init__(self, block: Block, *, threads: int) -> None:
        """Raises `BackendError` when onnxruntime cannot load it, `MissingExtraError` when there is none."""
        ort = require("onnxruntime", extra="cpu")
        self._block, self._errors = block, ort_errors(ort)
        options = session_options(ort, threads)
        options.add_session_config_entry(_FOLDER, str(block.folder))
        # Scratch of the longest sample would stay for all others.
        options.enable_cpu_mem_arena = False
        try:
            self._session: Any = ort.InferenceSession(
                block.graph, options, providers=["CPUExecutionProvider"]
            )
        except self._errors as error:
            raise BackendError(
                f"onnxruntime {ort.__version__} cannot load a part of {block.folder} ({error}): check the bundle with "
                "neo-edge verify, or install another onnxruntime"
            ) from error
        self._types = {value.name: value.type for value in self._session.get_inputs()}

    def run(
        self, feeds: Mapping[str, npt.NDArray[np.generic]]
    ) -> tuple[dict[str, npt.NDArray[np.floating]], npt.NDArray[np.floating] | None]:
        """Values of the groups by name, and the block's output.

        Args:
            feeds: by the inputs' names; those that the block does not have are left out.
        """
        block = self._block
        given = {name: self._typed(name, feeds[name]) for name in block.inputs}
        try:
            results = self._session.run(block.output_names, given)
        except self._errors as error:
            raise BackendError(f"a part of {block.folder} failed: {error}") from error
        found = {**given, **dict(zip(block.output_names, results, strict=True))}
        return {item.group: found[item.value] for item in block.observed}, found.get(block.output or "")

    def _typed(self, name: str, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        wide = array.astype(np.float16) if self._types[name] == "tensor(float16)" else array
        return np.ascontiguousarray(wide)

"""Host memory that stands in for a GPU's under ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType

from neo_edge_runtime.memory import available_memory_bytes


@dataclass(frozen=True)
class OrtHostDevice:
    """The CPU behind the calls of `OrtDevice`."""

    name: str = "cpu"
    index: int = 0
    provider: str = "CPUExecutionProvider"
    options: Mapping[str, str] = field(default_factory=dict)
    arena: str = "cpu:0"

    def free_bytes(self) -> int | None:
        return available_memory_bytes()

    def require(self, ort: ModuleType) -> None:
        """The CPU is always there."""

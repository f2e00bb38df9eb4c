"""What a prepacked variant depends on: its graphs, ONNX Runtime's build and the processor.

Not on the number of threads: the files are equal to the last byte for any.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from neo_edge_runtime.control_groups import PROC, read_text
from neo_edge_runtime.machine import cpu_name
from neo_edge_runtime.ort_memory import graph_files

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from neo_edge.bundle import Bundle

FORMAT = 2  # of an entry's files; another one is another key
# Instruction sets that kernels are chosen by or compiled with. Other flags come and go with the kernel's version.
_INSTRUCTIONS = re.compile(
    r"(avx|amx|fma|f16c|sse|ssse|bmi|abm|movbe|popcnt|asimd|fphp|sve|sme(?!p)|i8mm|bf16|neon|vfp)\w*"
)


@dataclass(frozen=True)
class Surroundings:
    """What packs, and for which processor."""

    onnxruntime: str  # version and build: builds of one version may pack differently
    architecture: str  # x86_64, aarch64
    cpu: str  # its model
    instructions: tuple[str, ...]  # sorted

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {**asdict(self), "instructions": list(self.instructions)}


@dataclass(frozen=True)
class PrepackedKey:
    """The parts of a key; equal parts, equal files."""

    graphs: Mapping[str, str]  # sha256 by path in the bundle, from its manifest
    surroundings: Surroundings
    kernels: str = ""  # digest of the sources of kernels of our own; empty: ONNX Runtime's
    format: int = FORMAT

    @property
    def name(self) -> str:
        """sha256 of the parts: the name of the entry's directory."""
        return key_name(self.to_dict())

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {
            "format": self.format,
            "graphs": dict(self.graphs),
            "kernels": self.kernels,
            **self.surroundings.to_dict(),
        }


def key_name(parts: Mapping[str, object]) -> str:
    """The name of the entry whose key has these parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def prepacked_key(ort: ModuleType, bundle: Bundle, variant_name: str, *, kernels: str = "") -> PrepackedKey:
    """The key of a variant here and now.

    Args:
        ort: the module `onnxruntime`.
        bundle: its manifest's digests stand for the files.
        variant_name: one of its variants.
        kernels: digest of the sources of kernels of our own; empty: ONNX Runtime's.
    """
    entries = graph_files(bundle.manifest, bundle.variant(variant_name))
    graphs = {path: entry.sha256 for path, entry in sorted(entries.items())}
    return PrepackedKey(graphs, surroundings(ort), kernels)


def surroundings(ort: ModuleType, proc: Path = PROC) -> Surroundings:
    """Those of this process; `proc` is where Linux describes the processor."""
    cpuinfo = read_text(proc / "cpuinfo")
    return Surroundings(
        onnxruntime=f"{ort.__version__} ({ort.get_build_info()})",
        architecture=platform.machine(),
        cpu=cpu_name(cpuinfo),
        instructions=instruction_sets(cpuinfo),
    )


def instruction_sets(cpuinfo: str) -> tuple[str, ...]:
    """Those that kernels are chosen by, sorted, as Linux's description of the processor lists them."""
    listed = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = set(listed[1].split()) if listed else set()
    return tuple(sorted(flag for flag in flags if _INSTRUCTIONS.fullmatch(flag)))

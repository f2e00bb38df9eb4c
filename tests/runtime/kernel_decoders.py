"""Decoders on kernels of our own, and how far their numbers are from those of graphs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx
from decoder_cases import Case, Embeddings, Logits
from quantized_decoders import decoder_path

from neo_edge.bundle import Bundle
from neo_edge_runtime.backend import Backend, DecoderState
from neo_edge_runtime.cpu.decoder import CpuDecoder
from neo_edge_runtime.cpu.packing import pack
from neo_edge_runtime.cpu.recognition import recognize
from neo_edge_runtime.host_state import HostState
from neo_edge_runtime.ort_backend import OrtBackend


@dataclass(frozen=True)
class Ran:
    """What a case gave."""

    logits: list[Logits]
    caches: list[npt.NDArray[np.float32]]  # of all states that it made, [B, kv_heads, C, 2d or d]


def ran(decoder: Backend | CpuDecoder, case: Case, table: Embeddings) -> Ran:
    states: list[DecoderState] = []

    def new(batch: int, capacity: int) -> DecoderState:
        states.append(decoder.new_state(batch=batch, capacity=capacity))
        return states[-1]

    logits = list(case(new, table))
    caches = [cast("HostState", state).cache for state in states]
    return Ran(logits, [np.asarray(one) for cache in caches for one in (*cache.keys, *cache.values)])


def same_bits(first: Ran, second: Ran) -> bool:
    pairs = zip([*first.logits, *first.caches], [*second.logits, *second.caches], strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


def row_errors(
    found: list[npt.NDArray[np.float32]], wanted: list[npt.NDArray[np.float32]]
) -> npt.NDArray[np.float64]:
    """Of each row's numbers the root mean square error, as a share of their standard deviation."""
    errors = [np.zeros(0)]
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        width = other.shape[-1]
        rows, right = one.reshape(-1, width).astype(np.float64), other.reshape(-1, width)
        there = right.any(axis=1)  # of a cache also rows that nobody has written yet
        assert np.array_equal(there, rows.any(axis=1))
        difference = np.sqrt(((rows - right) ** 2).mean(axis=1))
        errors.append(difference[there] / right.std(axis=1)[there])
    return np.concatenate(errors)


def packed_decoder(
    bundle: Bundle, variant: str, library: Path, folder: Path, *, threads: int = 1, keep_scratch: bool = True
) -> CpuDecoder:
    """Of a variant's weights, packed into a folder of its own below `folder`."""
    entry, config = folder / variant, bundle.manifest.model.decoder
    if not entry.exists():
        entry.mkdir(parents=True)
        shutil.copy(library, entry)
        pack(recognize(onnx, decoder_path(bundle, variant), config), entry)
    return CpuDecoder(entry, config, threads=threads, keep_scratch=keep_scratch)


def graph_backend(bundle: Bundle, variant: str) -> OrtBackend:
    return OrtBackend(bundle, variant, threads=1, prepacked="off")


def embeddings(bundle: Bundle) -> Embeddings:
    """[V, hidden]."""
    table = graph_backend(bundle, "fp32").token_embedding
    return np.asarray(table[np.arange(len(table))], np.float32)

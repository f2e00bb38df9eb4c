"""The compiled kernels, through `decoder.h`."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64, c_void_p
from typing import TYPE_CHECKING

from neo_edge.errors import BackendError, CacheError, MemoryBudgetError
from neo_edge_runtime.cpu.layout import LAYER_VECTORS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from neo_edge_runtime.cpu.layout import DecoderLayout

_DONE, _OUT_OF_MEMORY, _NO_THREADS = range(3)
_BITS = {"int8": 8, "int4": 4}


class _Widths(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "mlp", "vocab")),
        ("epsilon", c_float),
    )


class _Product(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("bits", "block", "inputs", "outputs")),
        *((name, c_void_p) for name in ("weights", "scales", "corrections")),
    )


class Step(Structure):
    """One run; addresses of arrays in C order, with the shapes and types of `DecoderInputs` and `HostCache`."""

    _fields_ = (
        *((name, c_int64) for name in ("batch", "tokens", "capacity", "rows")),
        *(
            (name, c_void_p)
            for name in ("inputs_embeds", "position_ids", "visible_length", "write_index", "logits_index")
        ),
        ("key_caches", POINTER(c_void_p)),
        ("value_caches", POINTER(c_void_p)),
        ("logits", c_void_p),
    )


def addresses(values: Sequence[int]) -> ctypes.Array[c_void_p]:
    """An array of pointers."""
    return (c_void_p * len(values))(*values)


class Library:
    """A loaded library; decoders are plain addresses."""

    def __init__(self, path: Path) -> None:
        """Raises `CacheError` if it does not load."""
        try:
            library = ctypes.CDLL(str(path))
            self._new = library.neo_edge_decoder_new
            self._run = library.neo_edge_decoder_run
            self._release = library.neo_edge_decoder_release
            self._delete = library.neo_edge_decoder_delete
            kernels = library.neo_edge_kernels
        except (OSError, AttributeError) as error:
            raise CacheError(
                f"the kernels in {path} do not load ({error}): run `neo-edge prepack` to build them anew"
            ) from error
        self._new.argtypes = [
            *(POINTER(_Widths), POINTER(_Product), POINTER(c_void_p), POINTER(c_int32)),
            *(ctypes.c_int, POINTER(c_void_p)),
        ]
        self._run.argtypes = [c_void_p, POINTER(Step)]
        self._release.argtypes = self._delete.argtypes = [c_void_p]
        self._release.restype = self._delete.restype = None
        kernels.restype = ctypes.c_char_p
        self.kernels: str = kernels().decode()  # AMX or AVX-512 VNNI

    def new_decoder(self, layout: DecoderLayout, base: int, threads: int) -> int:
        """A decoder on the packed weights that are mapped at `base`, for as long as it lives.

        Raises:
            CacheError: the kernels have no way to compute such a decoder.
            MemoryBudgetError: the system gives no memory, or no threads.
        """
        wide = layout.widths
        widths = _Widths(
            *(wide.layers, wide.hidden, wide.heads, wide.kv_heads, wide.head_dim, wide.mlp, wide.vocab),
            wide.epsilon,
        )
        products = (_Product * len(layout.products))(
            *(
                _Product(
                    _BITS[one.storage.kind],
                    one.storage.block or 0,
                    one.inputs,
                    one.outputs,
                    base + one.weights_offset,
                    None if one.scales_offset is None else base + one.scales_offset,
                    None if one.corrections_offset is None else base + one.corrections_offset,
                )
                for one in layout.products.values()
            )
        )
        vectors = {name: base + offset for name, offset in layout.vectors.items()}
        axis = ctypes.cast(vectors.pop("axis"), POINTER(c_int32))
        assert len(vectors) == len(LAYER_VECTORS) * wide.layers + 2
        decoder = c_void_p()
        status = self._new(
            byref(widths), products, addresses(list(vectors.values())), axis, threads, byref(decoder)
        )
        if status in (_OUT_OF_MEMORY, _NO_THREADS):
            what = "memory" if status == _OUT_OF_MEMORY else f"{threads} threads"
            raise MemoryBudgetError(
                f"the system refused {what} for the decoder: free memory or use fewer threads"
            )
        if status != _DONE or decoder.value is None:
            raise CacheError(f"the kernels cannot compute a decoder of {wide}")
        return decoder.value

    def run(self, decoder: int, step: Step) -> None:
        """Raises `MemoryBudgetError`, or `BackendError` for indices outside the caches."""
        status = self._run(decoder, byref(step))
        if status == _OUT_OF_MEMORY:
            raise MemoryBudgetError(
                f"the system refused memory to run {step.batch * step.tokens} tokens at once: free memory, or pass a "
                "smaller chunk_tokens"
            )
        if status != _DONE:
            raise BackendError(
                f"the decoder refused {step.tokens} tokens: a place, a visible length or a row of logits lies outside "
                f"the {step.capacity} positions of its caches"
            )

    def release(self, decoder: int) -> None:
        """Gives back what runs work in."""
        self._release(decoder)

    def delete(self, decoder: int) -> None:
        """Ends its threads; nothing may use it any more."""
        self._delete(decoder)

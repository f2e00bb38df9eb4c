"""The seam between a session's decisions and their execution: a vision call and a decoder with a cache.

Shapes: B batch, S new tokens, C cache capacity, N logits rows, P patches, V vocabulary. A tiny fake takes a
page (`tests/runtime/numpy_backend.py`); a device with its own memory keeps its caches there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from neo_edge.config import ModelConfig
    from neo_edge.patch_grid import PatchGrid
    from neo_edge_runtime.device_frame import DeviceFrame
    from neo_edge_runtime.token_table import TokenTable

MOST_CANDIDATES = 1024  # logits of a row that come back from a device at most, unless all do


@dataclass(frozen=True)
class BackendTraits:
    """What sessions must know about a backend; it decides memory sums and types, nothing else."""

    config: ModelConfig
    embedding_dtype: np.dtype[np.generic]  # of `inputs_embeds` and visual tokens: float32 or float16
    cache_element_bytes: int  # one number of a key or value cache
    # Buffers of [B, heads, S, T] float32 that one attention holds at once.
    score_buffers: float
    # Whether attention also makes one layer's caches anew in float32 (float16 graphs on a CPU).
    widens_cache: bool = False
    # Masks of [B, S, T] float32 that stand beside the scores for the whole run: the portable profile adds one to the
    # scores of every query head that shares a key head.
    mask_buffers: int = 1
    # Whether a run gives new keys and values in memory of their own, as the portable profile does.
    gives_new_rows: bool = False
    # Whether what a run works in was taken when the backend was opened, so that no request adds to it.
    holds_scratch: bool = False
    # Whether each capacity has its price, such as a graph to capture, so that caches double where there is memory.
    prepares_capacities: bool = False
    # Shapes that the backend was built for; None: any.
    max_context_tokens: int | None = None  # C
    max_chunk_tokens: int | None = None  # S of one run
    max_sequences: int | None = None  # B

    def within(self, context_tokens: int | None, chunk_tokens: int) -> tuple[int | None, int]:
        """A session's largest context (None: no limit) and chunk, as far as the backend takes them."""
        contexts = [most for most in (context_tokens, self.max_context_tokens) if most is not None]
        chunk = chunk_tokens if self.max_chunk_tokens is None else min(chunk_tokens, self.max_chunk_tokens)
        return min(contexts, default=None), chunk


@dataclass(frozen=True)
class DecoderInputs:
    """One run of the decoder graph; sessions make one for their decode steps and mutate its arrays."""

    inputs_embeds: npt.NDArray[np.generic]  # [B, S, hidden], `BackendTraits.embedding_dtype`
    position_ids: npt.NDArray[np.int32]  # [B, 3, S]: t, h, w
    visible_length: npt.NDArray[np.int32]  # [B, S]: cache positions that a token may attend to, 1..C
    write_index: npt.NDArray[np.int32]  # [B]: cache position of the first of these tokens
    logits_index: npt.NDArray[np.int32]  # [B, N]: rows of S to compute logits for


class DecoderState(Protocol):
    """The caches of B sequences, where the backend wants them, and the decoder that reads and fills them."""

    @property
    def capacity(self) -> int:
        """C: cache positions that exist."""
        ...

    def run(self, inputs: DecoderInputs) -> npt.NDArray[np.float32]:
        """Appends S tokens at `write_index`; logits [B, N, V] float32, valid until the next run.

        Inputs of fewer sequences than the state has are of its first ones; the others cost nothing then.
        """
        ...

    def grow(self, capacity: int, *, length: int, rows: int | None = None) -> None:
        """Makes room for `capacity` positions; the first `length` of the first `rows` stay (None: of all)."""
        ...

    def copy_row(self, row: int, source: DecoderState, source_row: int, *, length: int) -> None:
        """Makes the first `length` positions of a row those of a row of `source`, a state of the same backend."""
        ...

    def copy(self, *, length: int, capacity: int) -> DecoderState:
        """An independent state that starts with the first `length` positions of this one."""
        ...

    def close(self) -> None:
        """Gives the caches' memory back."""
        ...


@runtime_checkable
class SlidingState(DecoderState, Protocol):
    """A state whose oldest tokens can be dropped in place; live sessions of the policy `drop` need it."""

    def move(self, sources: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> None:
        """Copies positions of every row over others; no position is both a source and a target.

        A position's place in the cache means nothing to attention, so this makes room: what is dropped is overwritten
        with what stood last.
        """
        ...

    def shift_t(self, steps: int, *, length: int) -> None:
        """Makes the first `length` keys of every row those of tokens whose t is `steps` more (negative: less).

        The T part of a key is rotated by t times its frequencies, so it is turned by `steps` times them.
        """
        ...


@dataclass(frozen=True)
class Likeliest:
    """Arg-max of logits."""

    tokens: npt.NDArray[np.int32]  # [B, N]; of equal logits the first, as numpy's argmax
    finite: bool  # whether all logits are


@dataclass(frozen=True)
class Candidates:
    """The largest logits of a row of V, and what sampling must know of all others."""

    tokens: npt.NDArray[np.int64]  # [M], ascending; M may be 0 and is below MOST_CANDIDATES
    logits: npt.NDArray[np.float32]  # [M]
    below: float  # every logit that is above this is here
    total: float  # of exp((logit - largest) / temperature) over all V, in float32
    total_error: float  # of `total`, as a share of it, at most
    finite: bool  # whether all V logits are


@runtime_checkable
class ChoosingState(DecoderState, Protocol):
    """A state that finds likeliest tokens where the logits are, so that few of these come back."""

    def run_likeliest(self, inputs: DecoderInputs) -> Likeliest:
        """As `run`; greedy answers need no more."""
        ...

    def run_candidates(self, inputs: DecoderInputs, temperature: float) -> Candidates:
        """As `run`, one token of one sequence; `temperature` is that of `Candidates.total`."""
        ...

    def whole_logits(self) -> npt.NDArray[np.float32]:
        """[1, 1, V] of the last `run_candidates`, as `run` would have given them."""
        ...


@runtime_checkable
class FrameBackend(Protocol):
    """What a backend has beside `Backend` when it takes frames that lie on its device."""

    def encode_frame(self, frame: DeviceFrame, grid: PatchGrid) -> npt.NDArray[np.generic]:
        """Resizes, normalizes and encodes a frame there -> [visual tokens, hidden]."""
        ...


@runtime_checkable
class DeviceBackend(Protocol):
    """What a backend has beside `Backend` when its caches and scratch lie in a device's memory, not in the host's."""

    def free_device_bytes(self) -> int | None:
        """Memory that is free there now; None where the device does not say."""
        ...


class Backend(Protocol):
    """A loaded variant of a bundle on one device."""

    @property
    def traits(self) -> BackendTraits:
        """Facts for memory sums and types."""
        ...

    def encode_patches(
        self, patches: npt.NDArray[np.float32], patch_xy: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.generic]:
        """[P, 768] float32 packed patches and their [P, 2] int32 positions -> [P/4, hidden] visual tokens."""
        ...

    @property
    def token_embedding(self) -> TokenTable:
        """[V, hidden] on the host, memory-mapped where it comes from a file."""
        ...

    def new_state(self, *, batch: int, capacity: int) -> DecoderState:
        """Empty caches (finite numbers) for `batch` sequences of up to `capacity` tokens."""
        ...

    def release_scratch(self) -> None:
        """Gives memory back that is kept between runs only to make them quicker."""
        ...

    def close(self) -> None:
        """Gives the weights' memory back."""
        ...

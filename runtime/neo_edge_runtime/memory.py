"""How much memory a prompt will need, how much there is, and the refusal when the first exceeds the second."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from neo_edge.errors import InputError, MemoryBudgetError
from neo_edge.shown import shown
from neo_edge_runtime.backend import DeviceBackend
from neo_edge_runtime.control_groups import CGROUP, PROC, own_groups, read_text
from neo_edge_runtime.kv_cache import cache_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from neo_edge_runtime.backend import Backend, BackendTraits

_FLOAT32 = 4  # bytes
_CURE = "ask with fewer or smaller pictures (max_pixels), a shorter text or a float16 variant"
# Of a control group by version: its limit, its use, and the part of its use that the system can take back.
_GROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that one request takes beside the weights, at its worst moment."""

    kv_cache: int = 0  # growth of the caches
    attention_scores: int = 0  # scratch of one attention, [B, heads, S, T] float32 and what stands beside it
    activations: int = 0  # scratch of one layer
    new_keys_and_values: int = 0  # of a chunk, where a run does not write them into the caches itself
    logits: int = 0  # [B, N, V] float32: the graph's and what the caller gets
    embeddings: int = 0  # token embeddings and visual tokens of the prompt
    patches: int = 0  # pixels as float32 and the vision graph's hidden states

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))

    def __add__(self, other: MemoryNeed) -> MemoryNeed:
        return MemoryNeed(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def __str__(self) -> str:
        parts = ((field.name.replace("_", " "), getattr(self, field.name)) for field in fields(self))
        return ", ".join(f"{name} {_mib(size)}" for name, size in parts if size)


def prefill_need(
    traits: BackendTraits,
    *,
    chunks: Sequence[tuple[int, int]],
    new_tokens: int,
    logits_rows: int,
    kept_rows: int = 1,
    held_capacity: int = 0,
    batch: int = 1,
) -> MemoryNeed:
    """What appending `new_tokens` in these chunks takes.

    Args:
        traits: the backend's.
        chunks: (S, C) of each decoder run: new tokens and the capacity it runs at.
        new_tokens: tokens of the whole piece.
        logits_rows: N of the largest run.
        kept_rows: rows of logits that the caller gets.
        held_capacity: capacity that is already paid for.
        batch: B.
    """
    decoder = traits.config.decoder
    final_capacity = max([held_capacity, *(capacity for _, capacity in chunks)])
    longest = max((new for new, _ in chunks), default=0)

    def cached(tokens: int) -> int:
        return cache_bytes(decoder, batch=batch, capacity=tokens, element_bytes=traits.cache_element_bytes)

    scores = activations = 0
    if not traits.holds_scratch:
        scores = max((batch * attention_bytes(traits, new, capacity) for new, capacity in chunks), default=0)
        if traits.widens_cache:
            widened = cache_bytes(decoder, batch=batch, capacity=final_capacity, element_bytes=_FLOAT32)
            scores += widened // decoder.num_layers
        width = 4 * decoder.hidden_size + max(
            3 * decoder.intermediate_size,
            2 * (decoder.num_heads + decoder.num_kv_heads) * (decoder.key_dim + decoder.head_dim),
        )
        activations = batch * longest * width * _FLOAT32
    return MemoryNeed(
        kv_cache=cached(final_capacity - held_capacity),
        attention_scores=scores,
        activations=activations,
        new_keys_and_values=cached(longest) if traits.gives_new_rows else 0,
        logits=batch * (logits_rows + kept_rows) * decoder.vocab_size * _FLOAT32,
        embeddings=2 * batch * new_tokens * decoder.hidden_size * traits.embedding_dtype.itemsize,
    )


def attention_bytes(traits: BackendTraits, new_tokens: int, capacity: int) -> int:
    """Scores of one sequence's S new tokens: heads x S x T x 4 bytes a buffer, and the mask."""
    heads = traits.config.decoder.num_heads
    return int(
        (heads * traits.score_buffers + traits.mask_buffers) * new_tokens * (capacity + new_tokens) * _FLOAT32
    )


def vision_need(traits: BackendTraits, *, patches: int, visual_tokens: int) -> MemoryNeed:
    """What encoding takes: `patches` in the largest call, `visual_tokens` of all pictures."""
    vision, decoder = traits.config.vision, traits.config.decoder
    # Pixels; before and after the erf, before and after rotating.
    per_patch = vision.patch_dim + (0 if traits.holds_scratch else 4 * vision.hidden_size)
    return MemoryNeed(
        embeddings=visual_tokens * decoder.hidden_size * traits.embedding_dtype.itemsize,
        patches=patches * per_patch * _FLOAT32,
    )


class Reservation:
    """Memory that a run was promised; what it allocates for good is taken out of it by `MemoryBudget.hold`."""

    def __init__(self, size_bytes: int) -> None:
        self.left_bytes = size_bytes


class MemoryBudget:
    """Keeps the caches of a model's sessions, and the scratch of their runs, within what there is.

    Threads share it: what is reserved for one is not there for another. A run's scratch counts until its block ends,
    also where the system counts it as used by then.
    """

    def __init__(
        self,
        limit_bytes: int | None = None,
        *,
        reclaim: Callable[[], None] | None = None,
        free_device_bytes: Callable[[], int | None] | None = None,
    ) -> None:
        """Nothing is held yet.

        Args:
            limit_bytes: most that all sessions together may take beside the weights; None: what is free.
            reclaim: called when too little is free, before that is an error: `Backend.release_scratch`.
            free_device_bytes: of the device whose memory it is; None: it is the host's.
        """
        if limit_bytes is not None and limit_bytes < 1:
            raise InputError(f"memory_limit_bytes is {shown(limit_bytes)}; it must be above zero, or None")
        self.limit_bytes = limit_bytes
        self._reclaim, self._free_device_bytes = reclaim, free_device_bytes
        self._held, self._reserved = 0, 0
        # The garbage collector may close a dropped session, which calls `hold`, while this thread is in here.
        self._lock = threading.RLock()

    @classmethod
    def of(cls, backend: Backend, limit_bytes: int | None = None) -> MemoryBudget:
        """Of a backend's sessions, in the memory of its device where it has one."""
        free = backend.free_device_bytes if isinstance(backend, DeviceBackend) else None
        return cls(limit_bytes, reclaim=backend.release_scratch, free_device_bytes=free)

    @property
    def held_bytes(self) -> int:
        """What the open sessions' caches take now."""
        return self._held

    @property
    def reserved_bytes(self) -> int:
        """What runs that are under way may take beside that."""
        return self._reserved

    def require(self, need: MemoryNeed, purpose: str, *, cure: str = _CURE) -> None:
        """Passes when `need` fits now; reserves nothing. Arguments and errors as `reserve`."""
        with self.reserve(need, purpose, cure=cure):
            pass

    @contextmanager
    def reserve(self, need: MemoryNeed, purpose: str, *, cure: str = _CURE) -> Iterator[Reservation]:
        """Keeps `need` for the block.

        Args:
            need: bytes beside what is held and reserved.
            purpose: what they are for; the message begins with it.
            cure: what the user can do about it.

        Raises:
            MemoryBudgetError: they do not fit; nothing was allocated.
        """
        refusal = self._take(need, purpose, cure)
        if refusal is not None and self._reclaim is not None:
            # Not under the lock: this may wait for another thread's run, in which the collector may close a session.
            self._reclaim()
            refusal = self._take(need, purpose, cure)
        if refusal is not None:
            raise refusal
        reservation = Reservation(need.total)
        try:
            yield reservation
        finally:
            with self._lock:
                self._reserved -= reservation.left_bytes

    def extend(self, reservation: Reservation, size_bytes: int) -> bool:
        """Adds to what a run was promised, where so much is left beside all other promises; whether it did."""
        with self._lock:
            free, _ = self._free()
            if self.limit_bytes is not None and self._held + self._reserved + size_bytes > self.limit_bytes:
                return False
            if free is not None and self._reserved + size_bytes > free:
                return False
            self._reserved += size_bytes
            reservation.left_bytes += size_bytes
        return True

    def hold(self, size_bytes: int, reservation: Reservation | None = None) -> None:
        """Counts a cache that grew by `size_bytes` (negative: that was given back).

        Args:
            size_bytes: by how much.
            reservation: what it grew within.
        """
        with self._lock:
            self._held += size_bytes
            if reservation is not None and size_bytes > 0:
                taken = min(size_bytes, reservation.left_bytes)
                reservation.left_bytes -= taken
                self._reserved -= taken

    def _take(self, need: MemoryNeed, purpose: str, cure: str) -> MemoryBudgetError | None:
        """Reserves; gives the error of too little free memory, which may change, and raises that of the limit."""
        wanted = f"{purpose} needs {_mib(need.total)} ({need})"
        with self._lock:
            others = f" and {_mib(self._reserved)} that other runs may take" if self._reserved else ""
            if self.limit_bytes is not None and self._held + self._reserved + need.total > self.limit_bytes:
                raise MemoryBudgetError(
                    f"{wanted} beside {_mib(self._held)} that open sessions hold{others}; "
                    f"memory_limit_bytes allows {_mib(self.limit_bytes)}: {cure}, close sessions or raise the limit"
                )
            free, where = self._free()
            if free is None or need.total + self._reserved <= free:
                self._reserved += need.total
                return None
        return MemoryBudgetError(
            f"{wanted}{' beside' + others.removeprefix(' and') if others else ''} and {_mib(free)} are free{where}: "
            f"{cure}, or free memory"
        )

    def _free(self) -> tuple[int | None, str]:
        """Bytes, and where."""
        if self._free_device_bytes is None:
            return available_memory_bytes(), ""
        return self._free_device_bytes(), " on the GPU"


def available_memory_bytes(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """Bytes that can be allocated without swapping; None where the system does not say.

    On Linux the least of /proc/meminfo's MemAvailable and the room in each control group around this process.
    """
    if sys.platform == "win32":
        return None
    meminfo = _colon_table(proc / "meminfo").get("MemAvailable")
    rooms = [] if meminfo is None else [meminfo * 1024]
    rooms += _cgroup_rooms(proc, cgroup)
    return max(0, min(rooms)) if rooms else None


def peak_memory_bytes() -> int | None:
    """Largest resident size of this process so far; None where the system does not say."""
    peak_kib = _colon_table(PROC / "self" / "status").get("VmHWM")
    if peak_kib is not None:
        return peak_kib * 1024
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_memory_bytes() -> int | None:
    """Resident size of this process now; None where the system does not say."""
    resident_kib = _colon_table(PROC / "self" / "status").get("VmRSS")
    return None if resident_kib is None else resident_kib * 1024


def _cgroup_rooms(proc: Path, cgroup: Path) -> list[int]:
    """Limit minus use (page cache that can be dropped is free) of every group from this process's up to the root."""
    rooms = []
    for folder, version in own_groups("memory", proc, cgroup):
        limit_file, usage_file, reclaimable = _GROUP_FILES[version]
        limit, usage = read_text(folder / limit_file), read_text(folder / usage_file)
        if limit.isdigit() and usage.isdigit():
            stat = dict(
                pair.split(" ", 1) for pair in read_text(folder / "memory.stat").splitlines() if " " in pair
            )
            rooms.append(int(limit) - int(usage) + int(stat.get(reclaimable, "0")))
    return rooms


def _colon_table(path: Path) -> dict[str, int]:
    """`Name:  123 kB` lines as numbers."""
    table = {}
    for line in read_text(path).splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()
        if number and number[0].isdigit():
            table[name] = int(number[0])
    return table


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"

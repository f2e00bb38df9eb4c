"""How far a state's caches grow, within a memory budget."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from neo_edge.errors import MemoryBudgetError
from neo_edge_runtime.kv_cache import cache_bytes

if TYPE_CHECKING:
    from neo_edge_runtime.backend import BackendTraits, DecoderState
    from neo_edge_runtime.memory import MemoryBudget, Reservation

_log = logging.getLogger(__name__)


def grow(
    state: DecoderState,
    capacity: int,
    *,
    length: int,
    rows: int,
    limit: int | None,
    traits: BackendTraits,
    budget: MemoryBudget,
    reservation: Reservation,
) -> None:
    """Makes room for `capacity` positions; for twice what there are, where that spares work and memory is left.

    Args:
        state: its `capacity` afterwards says what was taken.
        capacity: positions that must be there.
        length: positions of each row that stay.
        rows: sequences that stay, the first ones.
        limit: most tokens that a sequence may ever hold; None: no limit.
        traits: the backend's.
        budget: what more than `capacity` takes is asked of it.
        reservation: has room for `capacity`.

    Raises:
        MemoryBudgetError: the backend has no room for `capacity`.
    """
    ample = 2 * state.capacity if limit is None else min(2 * state.capacity, limit)
    if traits.prepares_capacities and ample > capacity:
        more = cache_bytes(
            traits.config.decoder,
            batch=rows,
            capacity=ample - capacity,
            element_bytes=traits.cache_element_bytes,
        )
        if budget.extend(reservation, more):
            try:
                state.grow(ample, length=length, rows=rows)
                return
            except MemoryBudgetError as error:  # one tensor exists twice meanwhile
                _log.info("a cache grows to %d positions and not to %d: %s", capacity, ample, error)
    state.grow(capacity, length=length, rows=rows)

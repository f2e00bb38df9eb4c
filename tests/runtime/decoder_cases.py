"""What a decoder's caches are put through, whatever computes: each case gives the logits of all its runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from neo_edge_runtime.backend import DecoderInputs, DecoderState, SlidingState

Logits = npt.NDArray[np.float32]
Embeddings = npt.NDArray[np.float32]
NewState = Callable[[int, int], DecoderState]  # of B sequences and C positions
Case = Callable[[NewState, Embeddings], Iterator[Logits]]


def int32(values: object) -> npt.NDArray[np.int32]:
    return np.ascontiguousarray(values, np.int32)


def text(
    table: Embeddings,
    ids: Sequence[int],
    start: int = 0,
    *,
    picture: tuple[int, int] = (0, 0),
    rows: Sequence[int] | None = None,
) -> DecoderInputs:
    """One sequence's tokens behind `start` others; those of a picture (from, to) see to its end.

    Args:
        table: [V, hidden] that ids are looked up in.
        ids: of the tokens, those of the picture's among them.
        start: tokens in the cache.
        picture: places of the picture among the ids.
        rows: whose logits; None: all.
    """
    order = np.arange(len(ids))
    marked = (order >= picture[0]) & (order < picture[1])
    t = start + np.where(marked, picture[0], order)
    visible = start + np.where(marked, picture[1], order + 1)
    positions = [t, np.where(marked, (order - picture[0]) // 4, 0), np.where(marked, order % 4, 0)]
    return DecoderInputs(
        inputs_embeds=table[list(ids)][None],
        position_ids=int32([positions]),
        visible_length=int32([visible]),
        write_index=int32([start]),
        logits_index=int32([list(order) if rows is None else list(rows)]),
    )


def together(pieces: Sequence[DecoderInputs], *, rows: Sequence[int]) -> DecoderInputs:
    """Sequences in one run, the shorter ones padded with tokens that see one position; `rows` of each for logits."""
    longest = max(piece.inputs_embeds.shape[1] for piece in pieces)

    def padded(array: npt.NDArray[np.generic], axis: int, value: int) -> npt.NDArray[np.generic]:
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, longest - array.shape[axis])
        return np.pad(array, widths, constant_values=value)

    return DecoderInputs(
        inputs_embeds=np.concatenate([padded(piece.inputs_embeds, 1, 0) for piece in pieces]),
        position_ids=int32(np.concatenate([padded(piece.position_ids, 2, 0) for piece in pieces])),
        visible_length=int32(np.concatenate([padded(piece.visible_length, 1, 1) for piece in pieces])),
        write_index=int32(np.concatenate([piece.write_index for piece in pieces])),
        logits_index=int32([[row] for row in rows]),
    )


def some_ids(count: int, table: Embeddings, seed: int = 0) -> list[int]:
    ids: list[int] = np.random.default_rng(seed).integers(0, len(table), count).tolist()
    return ids


def decoded(state: DecoderState, table: Embeddings, ids: Sequence[int], start: int) -> Iterator[Logits]:
    for at, token in enumerate(ids):
        yield state.run(text(table, [token], start + at)).copy()


def whole_prefill(new: NewState, table: Embeddings) -> Iterator[Logits]:
    for count in (1, 2, 17, 130):
        yield new(1, count + 3).run(text(table, some_ids(count, table), rows=range(count)))


def prefill_in_chunks(new: NewState, table: Embeddings) -> Iterator[Logits]:
    state, ids = new(1, 140), some_ids(130, table)
    for start, end in ((0, 5), (5, 6), (6, 70), (70, 130)):
        yield state.run(text(table, ids[start:end], start))


def a_picture(new: NewState, table: Embeddings) -> Iterator[Logits]:
    state = new(1, 64)
    yield state.run(text(table, some_ids(30, table), picture=(9, 21)))
    yield state.run(text(table, some_ids(18, table, 1), 30, picture=(2, 18)))
    yield from decoded(state, table, [1, 2], 48)


def decode_steps(new: NewState, table: Embeddings) -> Iterator[Logits]:
    state = new(1, 128)
    yield state.run(text(table, some_ids(90, table), rows=[89]))
    yield from decoded(state, table, some_ids(10, table, 1), 90)


def rows_of_logits(new: NewState, table: Embeddings) -> Iterator[Logits]:
    state, ids = new(1, 64), some_ids(20, table)
    for rows in ([], [19], [3, 3, 0, 19], range(20)):
        yield state.run(text(table, ids, rows=rows))
    for rows in ([], [0], [0, 0, 0]):
        yield state.run(text(table, [5], 20, rows=rows)).copy()


def rewind_and_overwrite(new: NewState, table: Embeddings) -> Iterator[Logits]:
    state = new(1, 64)
    yield state.run(text(table, some_ids(20, table)))
    yield from decoded(state, table, [1, 2, 3], 20)
    yield state.run(text(table, some_ids(11, table, 1), 12))
    yield from decoded(state, table, [4], 23)


def copies(new: NewState, table: Embeddings) -> Iterator[Logits]:
    first = new(1, 64)
    yield first.run(text(table, some_ids(30, table)))
    second = first.copy(length=20, capacity=33)
    yield from decoded(first, table, [7], 30)
    yield from decoded(second, table, [8, 9], 20)
    yield from decoded(first, table, [7], 31)


def growth(new: NewState, table: Embeddings) -> Iterator[Logits]:
    state = new(1, 32)
    yield state.run(text(table, some_ids(31, table)))
    yield from decoded(state, table, [7], 31)
    state.grow(48, length=32)
    yield from decoded(state, table, [8, 9], 32)


def dropped_tokens(new: NewState, table: Embeddings) -> Iterator[Logits]:
    state = cast("SlidingState", new(1, 64))
    yield state.run(text(table, some_ids(40, table)))
    state.move(np.arange(30, 40), np.arange(4, 14))
    state.shift_t(-10, length=30)
    yield from decoded(state, table, [1, 2], 30)


def batches(new: NewState, table: Embeddings) -> Iterator[Logits]:
    lengths = [21, 7, 70]
    texts = [text(table, some_ids(length, table, length)) for length in lengths]
    state = new(3, 80)
    yield state.run(together(texts, rows=[length - 1 for length in lengths]))
    for step in range(3):
        each = [text(table, [step + row], length + step) for row, length in enumerate(lengths)]
        yield state.run(together(each, rows=[0, 0, 0])).copy()
    yield state.run(together(each[:2], rows=[0, 0])).copy()  # the third costs nothing now
    state.copy_row(0, state, 2, length=73)
    single = new(1, 64)
    yield single.run(text(table, some_ids(9, table)))
    state.copy_row(2, single, 0, length=9)
    each = [text(table, [3], start) for start in (73, 10, 9)]
    yield state.run(together(each, rows=[0, 0, 0])).copy()
    state.grow(96, length=74, rows=2)
    yield state.run(together(each[:2], rows=[0, 0])).copy()


CASES: dict[str, Case] = {
    case.__name__.replace("_", " "): case
    for case in (
        *(whole_prefill, prefill_in_chunks, a_picture, decode_steps, rows_of_logits, rewind_and_overwrite),
        *(copies, growth, dropped_tokens, batches),
    )
}

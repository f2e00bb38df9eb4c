"""Hypothesis strategies that break valid inputs: JSON by its structure, files by their bytes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 255, 2**31 - 1, 2**31, 2**63, 10**30, 10**400, -(10**30)),
    *(0.5, -0.0, 1e-320, 1e38, 1e308, float("inf"), float("nan"), 2.0),
    *(
        "",
        "x",
        "float32",
        "F32",
        "I64",
        "BF16",
        "../x",
        "/etc/passwd",
        "a\\b",
        ".",
        "a/../b",
        "\0",
        "\ud800",
        "x" * 300,
    ),
    *([], {}, [[]], [0], [1, 2], [-1, 0], [2**40, 2**40], ["x"], {"a": 1}, [[[[[[[[1]]]]]]]]),
)
Place = tuple[Any, Any]  # a list or object, and an index or key of it


def broken_json(documents: Sequence[Any]) -> st.SearchStrategy[bytes]:
    """One of the documents with one to four changes, as JSON; one in five with broken bytes, too."""

    @st.composite
    def build(draw: st.DrawFn) -> bytes:
        document = [copy.deepcopy(draw(st.sampled_from(documents)))]
        for _ in range(draw(st.integers(1, 4))):
            _change(draw, document)
        data = json.dumps(document[0]).encode()
        return draw(broken_bytes([data])) if draw(st.integers(0, 4)) == 0 else data

    return build()


def broken_bytes(
    files: Sequence[bytes], repair: Callable[[bytes], bytes] | None = None
) -> st.SearchStrategy[bytes]:
    """One of the files, with up to six bytes, words or stretches changed; perhaps repaired to look whole."""

    @st.composite
    def build(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(st.sampled_from(files)))
        for _ in range(draw(st.integers(1, 6))):
            _break(draw, data, files)
        return repair(bytes(data)) if repair is not None and draw(st.booleans()) else bytes(data)

    return build()


def random_bytes(heads: Sequence[bytes] = (b"",)) -> st.SearchStrategy[bytes]:
    """Noise, some of it behind a known beginning."""
    return st.builds(bytes.__add__, st.sampled_from(heads), st.binary(max_size=200))


def _change(draw: st.DrawFn, document: list[Any]) -> None:
    places = _places(document)
    holder, key = places[draw(st.integers(0, len(places) - 1))]
    action = draw(st.sampled_from(("odd", "odd", "odd", "number", "text", "drop", "copy", "extra")))
    if action == "drop" and holder is not document:
        del holder[key]
    elif action == "copy":
        other, name = places[draw(st.integers(0, len(places) - 1))]
        holder[key] = copy.deepcopy(other[name])
    elif action == "extra" and isinstance(holder, dict):
        name = draw(st.sampled_from(("extra", "", "../x", "\ud800", "fp32")))
        holder[name] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
    elif action == "number":
        holder[key] = draw(st.one_of(st.integers(-(2**70), 2**70), st.floats()))
    elif action == "text":
        holder[key] = draw(st.text(max_size=12))
    else:
        holder[key] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))


def _places(holder: Any) -> list[Place]:
    keys = list(holder) if isinstance(holder, dict) else range(len(holder))
    found: list[Place] = [(holder, key) for key in keys]
    for key in keys:
        if isinstance(holder[key], list | dict):
            found += _places(holder[key])
    return found


def _break(draw: st.DrawFn, data: bytearray, files: Sequence[bytes]) -> None:
    size = len(data)
    at = draw(st.integers(0, max(size - 1, 0)))
    # Headers are where the sizes stand.
    at = at % 64 if draw(st.booleans()) else at
    action = draw(st.sampled_from(("flip", "word", "cut", "drop", "repeat", "splice", "insert")))
    if action == "flip" and at < size:
        data[at] ^= 1 << draw(st.integers(0, 7))
    elif action == "word":
        word = draw(st.sampled_from((0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 60000, 100000)))
        width = draw(st.sampled_from((2, 4)))
        data[at : at + width] = (word & (1 << 8 * width) - 1).to_bytes(
            width, draw(st.sampled_from(("little", "big")))
        )
    elif action == "cut":
        del data[at:]
    elif action == "drop":
        del data[at : at + draw(st.integers(1, 16))]
    elif action == "repeat":
        data[at:at] = data[at : at + draw(st.integers(1, 64))]
    elif action == "splice":
        other = draw(st.sampled_from(files))
        data[at:] = other[draw(st.integers(0, max(len(other) - 1, 0))) :]
    else:
        data[at:at] = draw(st.binary(max_size=8))

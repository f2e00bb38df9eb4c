"""Breaks valid inputs: JSON by its structure, files by their bytes.

Hypothesis draws a seed for a group of inputs, from which everything else follows: a draw for each single choice would
take ten times as long.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
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
WORDS = (0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 60000, 100000)
Place = tuple[Any, Any]  # a list or object, and an index or key of it

Maker = Callable[[Random], bytes]
GROUP = 20  # inputs of one seed


def inputs(*makers: Maker) -> st.SearchStrategy[list[bytes]]:
    """Groups of inputs, each made by one of these."""
    seeds = st.randoms(use_true_random=True)
    return seeds.map(lambda random: [random.choice(makers)(random) for _ in range(GROUP)])


def broken_json(documents: Sequence[Any]) -> Maker:
    """One of the documents with one to four changes, as JSON; one in five with broken bytes, too."""

    def build(random: Random) -> bytes:
        document = [copy.deepcopy(random.choice(documents))]
        for _ in range(random.randint(1, 4)):
            _change(random, document)
        data = json.dumps(document[0]).encode()
        return _broken(random, data, [data]) if random.random() < 0.2 else data

    return build


def broken_bytes(files: Sequence[bytes], repair: Callable[[bytes], bytes] | None = None) -> Maker:
    """One of the files, with up to six bytes, words or stretches changed; perhaps repaired to look whole."""

    def build(random: Random) -> bytes:
        data = _broken(random, random.choice(files), files)
        return repair(data) if repair is not None and random.random() < 0.5 else data

    return build


def random_bytes(heads: Sequence[bytes] = (b"",)) -> Maker:
    """Noise, some of it behind a known beginning."""
    return lambda random: random.choice(heads) + random.randbytes(random.randint(0, 200))


def _change(random: Random, document: list[Any]) -> None:
    places = _places(document)
    holder, key = random.choice(places)
    action = random.choice(("odd", "odd", "odd", "number", "text", "drop", "copy", "extra"))
    if action == "drop" and holder is not document:
        del holder[key]
    elif action == "copy":
        other, name = random.choice(places)
        holder[key] = copy.deepcopy(other[name])
    elif action == "extra" and isinstance(holder, dict):
        name = random.choice(("extra", "", "../x", "\ud800", "fp32"))
        holder[name] = copy.deepcopy(random.choice(ODD_VALUES))
    elif action == "number":
        holder[key] = random.randint(-(2 ** random.randint(0, 70)), 2 ** random.randint(0, 70))
    elif action == "text":
        holder[key] = "".join(chr(random.randrange(0x11000)) for _ in range(random.randint(0, 12)))
    else:
        holder[key] = copy.deepcopy(random.choice(ODD_VALUES))


def _places(holder: Any) -> list[Place]:
    keys = list(holder) if isinstance(holder, dict) else range(len(holder))
    found: list[Place] = [(holder, key) for key in keys]
    for key in keys:
        if isinstance(holder[key], list | dict):
            found += _places(holder[key])
    return found


def _broken(random: Random, whole: bytes, files: Sequence[bytes]) -> bytes:
    data = bytearray(whole)
    for _ in range(random.randint(1, 6)):
        _break(random, data, files)
    return bytes(data)


def _break(random: Random, data: bytearray, files: Sequence[bytes]) -> None:
    # Headers are where the sizes stand.
    at = random.randrange(min(len(data), random.choice((64, len(data)))) or 1)
    action = random.choice(("flip", "flip", "word", "word", "cut", "drop", "repeat", "splice", "insert"))
    if action == "flip" and at < len(data):
        data[at] ^= 1 << random.randrange(8)
    elif action == "word":
        width, word = random.choice((2, 4)), random.choice(WORDS)
        data[at : at + width] = (word & (1 << 8 * width) - 1).to_bytes(
            width, random.choice(("little", "big"))
        )
    elif action == "cut":
        del data[at:]
    elif action == "drop":
        del data[at : at + random.randint(1, 16)]
    elif action == "repeat":
        data[at:at] = data[at : at + random.randint(1, 64)]
    elif action == "splice":
        other = random.choice(files)
        data[at:] = other[random.randrange(len(other) or 1) :]
    else:
        data[at:at] = random.randbytes(random.randint(0, 8))

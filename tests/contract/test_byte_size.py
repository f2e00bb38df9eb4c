from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neo_edge.byte_size import parse_bytes, show_bytes
from neo_edge.errors import InputError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("100B", 100),
        ("2GiB", 2 * 2**30),
        ("2g", 2 * 2**30),
        ("1.5GB", 1_500_000_000),
        (" 512 MiB ", 512 * 2**20),
        ("1ki", 1024),
        ("3TiB", 3 * 2**40),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1,5GiB", "2 GiBs", "1e9", "nan", "²", "2PiB"])
def test_anything_else_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError, match="512MiB, 2GiB or 1.5GB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (5.79e9, "5.39 GiB"),
        (2**60, "1048576 TiB"),
    ],
)
def test_sizes_are_shown_in_three_figures(size: float, shown: str) -> None:
    assert show_bytes(size) == shown


@given(st.integers(0, 2**50))
def test_what_is_shown_reads_back_as_nearly_the_same(size: int) -> None:
    assert abs(parse_bytes(show_bytes(size)) - size) <= 0.006 * size

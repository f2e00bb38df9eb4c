from __future__ import annotations

import pytest

from neo_edge.errors import InputError
from neo_edge.options import SamplingOptions
from neo_edge.shown import shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (-(10**12), "-1000000000000"),
        ("three", "'three'"),
        (10**400, "a number of about 400 digits"),
        (-(10**400), "a number of about 400 digits"),
        (10**5000, "a number of about 5000 digits"),  # which Python does not write
        ([10**5000], "a list with a number beyond any use"),
        ("x" * 81, "'" + "x" * 76 + "..."),
    ],
    ids=["short", "long", "text", "huge", "below zero", "too huge to write", "in a list", "a long text"],
)
def test_a_value_is_shown_whole_or_as_much_of_it_as_a_message_bears(value: object, text: str) -> None:
    assert shown(value) == text


def test_an_option_of_400_digits_is_named_and_not_printed() -> None:
    with pytest.raises(InputError, match="^temperature is a number of about 400 digits; it must be"):
        SamplingOptions(temperature=10**400)

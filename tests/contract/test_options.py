from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from neo_edge.errors import InputError
from neo_edge.options import SamplingOptions


def test_the_defaults_are_greedy() -> None:
    assert SamplingOptions().greedy
    assert not SamplingOptions(temperature=0.1).greedy


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "hot"),
        ("temperature", 10**400),
        ("temperature", True),
        ("top_k", 0),
        ("top_k", 2.5),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", float("nan")),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", float("inf")),
        ("max_new_tokens", 0),
        ("max_new_tokens", 1e3),
        ("seed", -1),
        ("stop", ("",)),
        ("stop", "word"),
    ],
)
def test_a_value_outside_what_is_allowed_is_named(field: str, value: object) -> None:
    with pytest.raises(InputError, match=field):
        SamplingOptions(**{field: value})  # type: ignore[arg-type]


def test_numpy_numbers_are_numbers() -> None:
    options = SamplingOptions(temperature=np.float32(0.5), top_k=np.int64(3))
    assert not options.greedy


def test_stop_strings_may_come_as_a_list_and_do_not_change_later() -> None:
    options = SamplingOptions(stop=["a", "b"])  # type: ignore[arg-type]
    assert options.stop == ("a", "b")
    with pytest.raises(FrozenInstanceError):
        options.temperature = 1.0  # type: ignore[misc]

"""The paired interval: published values, its own definition, and how often it holds the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neo_edge_calibration.quality.interval import (
    Z_95,
    drop_interval,
    questions_expected,
    questions_needed,
    score,
)


def test_it_gives_the_published_interval_of_airway_hyper_responsiveness() -> None:
    # Table 5 of Fagerland, Lydersen and Laake (2014): 1, 1, 7, 12 pairs; Tango -0.517 to -0.026.
    low, high = drop_interval(1, 7, 21)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


@pytest.mark.parametrize("count", [1, 4, 381, 2000])
def test_without_discordant_pairs_it_still_has_a_width(count: int) -> None:
    wanted = Z_95**2 / (count + Z_95**2)
    assert drop_interval(0, 0, count) == pytest.approx((-wanted, wanted))


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int, int]:
    count = draw(st.integers(1, 3000))
    lost = draw(st.integers(0, count))
    return lost, draw(st.integers(0, count - lost)), count


@given(counts())
def test_its_ends_are_the_drops_that_the_score_test_just_accepts(case: tuple[int, int, int]) -> None:
    lost, gained, count = case
    low, high = drop_interval(lost, gained, count)
    assert -1 <= low <= (lost - gained) / count <= high <= 1
    if low > -1 + 1e-9:
        assert score(lost, gained, count, low) == pytest.approx(Z_95, abs=1e-4)
    if high < 1 - 1e-9:
        assert score(lost, gained, count, high) == pytest.approx(-Z_95, abs=1e-4)


@given(counts())
def test_the_interval_of_the_opposite_drop_is_the_mirrored_one(case: tuple[int, int, int]) -> None:
    lost, gained, count = case
    low, high = drop_interval(lost, gained, count)
    assert drop_interval(gained, lost, count) == pytest.approx((-high, -low), abs=1e-9)


# Both nearly perfect with few discordant pairs, which is where Wald's interval fails; and ordinary cases.
@pytest.mark.parametrize(
    ("lost", "gained", "count"),
    [(0.001, 0.001, 2000), (0.002, 0.0, 2000), (0.005, 0.002, 2000), (0.01, 0.005, 400), (0.1, 0.05, 100)],
)
def test_it_holds_the_true_drop_in_about_95_of_100_measurements(
    lost: float, gained: float, count: int
) -> None:
    draws = np.random.default_rng(7).multinomial(count, [lost, gained, 1 - lost - gained], size=4000)
    held = sum(
        times
        for (a, b, _), times in zip(*np.unique(draws, axis=0, return_counts=True), strict=True)
        if (ends := drop_interval(int(a), int(b), count))[0] <= lost - gained <= ends[1]
    )
    # Counts are whole, so coverage moves in steps around 95 %; 4,000 draws know it to 0.7 points.
    assert 0.93 <= held / 4000 <= 0.985


@pytest.mark.parametrize(("target", "needed"), [(0.01, 381), (0.03, 125)])
def test_fewer_questions_than_needed_cannot_show_a_target(target: float, needed: int) -> None:
    assert questions_needed(target) == needed
    assert drop_interval(0, 0, needed)[1] < target <= drop_interval(0, 0, needed - 1)[1]


@pytest.mark.parametrize(
    ("lost", "gained", "count", "target"),
    [(0, 0, 1, 0.01), (1, 0, 80, 0.03), (3, 1, 400, 0.01), (20, 8, 2000, 0.01), (2, 0, 100, 0.03)],
)
def test_as_many_questions_as_expected_show_the_target_at_the_same_shares(
    lost: int, gained: int, count: int, target: float
) -> None:
    expected = questions_expected(target, lost, gained, count)
    assert expected is not None
    for times in range(1, 400):  # what was seen, again and again
        high = drop_interval(lost * times, gained * times, count * times)[1]
        assert (high < target) == (count * times >= expected)


def test_a_drop_that_reaches_the_target_is_shown_to_lie_below_it_by_no_number_of_questions() -> None:
    assert questions_expected(0.01, 4, 0, 400) is None
    assert questions_expected(0.01, 6, 1, 400) is None


@pytest.mark.parametrize("case", [(-1, 0, 5), (0, 0, 0), (3, 3, 5)])
def test_counts_that_cannot_be_are_refused(case: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        drop_interval(*case)

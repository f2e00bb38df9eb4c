from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from neo_edge_calibration.clipping import BINS, Method, clipping_range, mean_square_error


def _histogram(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], float, float]:
    maximum = float(np.abs(values).max())
    top = float(2.0 ** np.ceil(np.log2(maximum)))
    counts, _ = np.histogram(np.abs(values), BINS, (0, top))
    return counts.astype(np.int64), top, maximum


def _error(values: npt.NDArray[np.float64], clip: float, levels: int = 127) -> float:
    step = clip / levels
    rounded = np.clip(np.rint(values / step), -levels, levels) * step
    return float(np.mean((values - rounded) ** 2))


def _draw(kind: str) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(3)
    return {
        "gaussian": lambda: rng.normal(size=200_000),
        "laplacian": lambda: rng.laplace(size=200_000),
        "uniform": lambda: rng.uniform(-3, 3, size=200_000),
        "a few outliers": lambda: np.concatenate([rng.normal(size=200_000), rng.normal(size=20) * 40]),
    }[kind]()


KINDS = ("gaussian", "laplacian", "uniform", "a few outliers")


@pytest.mark.parametrize("kind", KINDS)
def test_max_is_the_largest_magnitude(kind: str) -> None:
    values = _draw(kind)
    assert clipping_range(*_histogram(values), "max") == np.abs(values).max()


@pytest.mark.parametrize("kind", KINDS)
def test_the_percentile_is_that_of_the_numbers_to_a_bin(kind: str) -> None:
    values = _draw(kind)
    counts, top, maximum = _histogram(values)
    found = clipping_range(counts, top, maximum, "percentile")
    assert abs(found - np.percentile(np.abs(values), 99.99)) <= top / BINS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", [127, 7])
def test_the_mse_range_loses_within_a_percent_of_the_best_that_a_search_finds(kind: str, levels: int) -> None:
    values = _draw(kind)
    counts, top, maximum = _histogram(values)
    found = clipping_range(counts, top, maximum, "mse", levels=levels)
    best = min(_error(values, float(clip), levels) for clip in maximum * np.linspace(0.01, 1, 400))
    assert _error(values, found, levels) <= 1.01 * best


def test_the_predicted_error_is_the_measured_one() -> None:
    values = _draw("gaussian")
    counts, top, maximum = _histogram(values)
    for part in (1.0, 0.7, 0.3, 0.05):
        predicted = mean_square_error(counts, top, part * maximum)
        assert predicted[0] == pytest.approx(_error(values, part * maximum), rel=0.02)


@pytest.mark.parametrize("method", ["max", "percentile", "mse"])
def test_one_magnitude_alone_is_kept_whole(method: Method) -> None:
    counts = np.zeros(BINS, np.int64)
    counts[int(0.75 * BINS)] = 1000
    assert clipping_range(counts, 1.0, 0.75, method) == pytest.approx(0.75, abs=1 / BINS)

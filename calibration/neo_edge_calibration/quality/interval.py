"""How far an accuracy may have dropped, from questions that two models answered both."""

from __future__ import annotations

import math

Z_95 = 1.959963984540054  # two-sided 95 % of the normal distribution
_STEPS = 60  # halvings of an interval of at most 1: below float64's own resolution


def drop_interval(lost: int, gained: int, count: int, z: float = Z_95) -> tuple[float, float]:
    """Tango's score interval for the drop of accuracy, (lost - gained) / count.

    All drops that the score test of paired proportions does not reject. It needs no correction near 100 % and stays
    honest when no or one pair is discordant, where Wald's interval has no width: without any, its upper end is
    z^2 / (count + z^2). T. Tango, "Equivalence test and confidence interval for the difference in proportions for
    the paired-sample design", Statistics in Medicine 17 (1998) 891-908; recommended by Fagerland, Lydersen and Laake,
    Statistics in Medicine 33 (2014) 2850-2875.

    Args:
        lost: questions that only the reference answered rightly.
        gained: questions that only the other model answered rightly.
        count: all questions, those included on which both were right or both wrong.
        z: quantile of the normal distribution; 1.96 for 95 %.

    Returns:
        Lower and upper end, as shares (0.01 is a point).
    """
    if lost < 0 or gained < 0 or count < max(1, lost + gained):
        raise ValueError(f"{lost} lost and {gained} gained of {count} questions cannot be")
    return _end(lost, gained, count, z, -1.0), _end(lost, gained, count, z, 1.0)


def questions_needed(target: float, z: float = Z_95) -> int:
    """Fewest questions of which none is lost or gained whose interval lies under `target` (a share)."""
    return math.floor(z * z * (1 - target) / target) + 1


def questions_expected(target: float, lost: int, gained: int, count: int, z: float = Z_95) -> int | None:
    """Fewest questions whose interval lies under `target` (a share), should the same shares be lost and gained.

    The score grows as the root of the number of questions.

    Returns:
        None where the drop is the target or more: no number of such questions has an interval below it.
    """
    if lost - gained >= count * target:
        return None
    return math.floor(count * (z / score(lost, gained, count, target)) ** 2) + 1


def score(lost: int, gained: int, count: int, drop: float) -> float:
    """Tango's statistic of a supposed drop; about standard normal when it is the true one."""
    distance = lost - gained - count * drop
    # The likeliest share of gained pairs, given the drop: the larger root of a quadratic equation.
    a = 2.0 * count
    b = -lost - gained + (2 * count - lost + gained) * drop
    c = -gained * drop * (1 - drop)
    share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = count * (2 * share + drop * (1 - drop))
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def _end(lost: int, gained: int, count: int, z: float, side: float) -> float:
    inside = (lost - gained) / count
    outside = side
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        if abs(score(lost, gained, count, middle)) <= z:
            inside = middle
        else:
            outside = middle
    return inside

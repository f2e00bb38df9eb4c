"""Lets each row of a weight make up for the error that rounding the rows before it has brought into the outputs.

This is GPTQ's update for a Hessian H = X^T X + D of few sampled rows X and a diagonal D: with the matrix inversion
lemma no [K, K] matrix is ever made, and all that is kept of the rows before is their error in the R sampled outputs.
docs/quantization-math.md derives it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float32]

_LEAST_SHRINKAGE = 0.02


@dataclass(frozen=True)
class Compensation:
    """How errors of rows of weights are passed on; the same for all columns."""

    group_size: int  # rows of weights that are worked on together
    inputs: Matrix  # [K, R], the columns of X
    row_answer: (
        Matrix  # [K, R]: what row i takes off per error in the samples, when rows i, i + 1, ... are free
    )
    group_answer: Matrix  # [K, R]: the same when all rows of i's group are free, too


def compensation(rows: npt.NDArray[np.floating], mean_square: Vector | None, group_size: int) -> Compensation:
    """Prepares the update.

    Args:
        rows: [R, K] sampled inputs.
        mean_square: [K] of each input over all that was seen; None: of `rows`.
        group_size: rows of weights that share scales, or are worked on together.
    """
    sample = np.asarray(rows, np.float64)
    square = np.square(sample).mean(axis=0)
    if mean_square is not None:
        square = np.maximum(square, mean_square)
    square = np.maximum(square, 1e-6 * square.mean() + 1e-30)
    shrinkage = _shrinkage(sample / np.sqrt(square))
    inputs = sample.T * np.sqrt((1 - shrinkage) / len(sample))
    diagonal = shrinkage * square
    row_answer, group_answer = np.empty_like(inputs), np.empty_like(inputs)
    inverse = np.eye(len(sample))  # of I + the sum of x x^T / d over the free rows
    for index in range(len(inputs) - 1, -1, -1):
        step = inverse @ inputs[index]
        row_answer[index] = step / (diagonal[index] + inputs[index] @ step)
        inverse -= np.outer(step, row_answer[index])
        if index % group_size == 0:
            group = slice(index, index + group_size)
            group_answer[group] = inputs[group] @ inverse / diagonal[group, None]
    return Compensation(
        group_size, *(array.astype(np.float32) for array in (inputs, row_answer, group_answer))
    )


def round_compensated(
    weight: Matrix, plan: Compensation, limits: tuple[int, int], find_scale: Callable[[Matrix, slice], Vector]
) -> tuple[npt.NDArray[np.int8], Matrix]:
    """Some columns of a weight as integers.

    Args:
        weight: [K, N] float32.
        plan: of the product's inputs.
        limits: the smallest and the largest integer.
        find_scale: gives the scale [N] of a group, from its rows as the errors so far would have them, and where
            they stand.

    Returns:
        [K, N] int8 and scales [groups, N].
    """
    inputs, outputs = weight.shape
    values = np.empty(weight.shape, np.int8)
    scales = np.empty((-(-inputs // plan.group_size), outputs), np.float32)
    owed: Matrix = np.zeros(
        (plan.inputs.shape[1], outputs), np.float32
    )  # the error in the sampled outputs so far
    for index, start in enumerate(range(0, inputs, plan.group_size)):
        span = slice(start, min(start + plan.group_size, inputs))
        scale = scales[index] = find_scale(_moved(weight[span], plan.group_answer[span], owed), span)
        steps = 1 / scale
        target = _moved(weight[span], plan.row_answer[span], owed)
        within = plan.row_answer[span] @ plan.inputs[span].T  # [g, g]; its lower half is used
        error = np.empty_like(target)
        for row in range(len(target)):
            if row:
                target[row] -= within[row, :row] @ error[:row]
            whole = np.multiply(target[row], steps, out=error[row])
            np.clip(np.rint(whole, out=whole), *limits, out=whole)
            values[start + row] = whole
            whole *= scale
            whole -= weight[start + row]
        np.add(owed, plan.inputs[span].T @ error, out=owed)
    return values, scales


def _moved(weight: Matrix, answer: Matrix, owed: Matrix) -> Matrix:
    """Rows of weights where the error so far would have them."""
    moved = answer @ owed
    rows: Matrix = np.subtract(weight, moved, out=moved)
    return rows


def _shrinkage(sample: npt.NDArray[np.float64]) -> float:
    """How far to move the sample's correlations to none: Schafer and Strimmer (2005), without making them.

    The estimate is the sum of the correlations' variances over the sum of their squares, off the diagonal.
    """
    count = len(sample)
    if count < 2:
        return 1.0
    squares = np.square(sample)
    gram = sample @ sample.T
    all_squared = float(np.square(gram).sum()) / count**2
    diagonal_squared = float(np.square(squares.mean(axis=0)).sum())
    fourth = float(np.square(squares.sum(axis=1)).sum() - np.square(squares).sum()) / count
    off_diagonal = all_squared - diagonal_squared
    if off_diagonal <= 0:
        return 1.0
    variance = (fourth - off_diagonal) / (count - 1)
    return float(np.clip(variance / off_diagonal, _LEAST_SHRINKAGE, 1.0))

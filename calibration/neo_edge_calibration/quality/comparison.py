"""What came of one question, asked of a reference and of other variants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Answered:
    """What one variant made of a question."""

    right: bool
    surprise: float  # nats of the true answer's tokens, its end included


@dataclass(frozen=True, eq=False)
class Compared(Answered):
    """The same beside the reference; N tokens of the reference's answer, its end included."""

    kl: npt.NDArray[np.float64]  # [N] nats
    agreed: int  # of the N tokens: those whose likeliest next token is the same


@dataclass(frozen=True)
class Comparison:
    """A question that all were asked."""

    family: str
    digest: bytes  # sha256 of its words and pixels
    true_tokens: int  # tokens of the true answer, its end included
    reference_answer: tuple[int, ...]  # its tokens, the end included
    reference: Answered
    variants: tuple[Compared, ...]

"""The tables of `quantizers.py`, line by line, and what they say of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_ACCURACY = "| | bits | right | drop, points (95 %) | same token | KL mean | KL 99 % | graphs MB | making s |"
_SPEED = "| | decode ms | prefill ms |"


class Bits(NamedTuple):
    """Of the weights; 32 where they stay float."""

    body: int  # the decoder's products but the head
    head: int
    vision: int
    tokens: int = 32  # the token table, which no peer takes

    def __str__(self) -> str:
        return "/".join(map(str, self))


@dataclass(frozen=True)
class Row:
    """One variant; what is None could not be measured."""

    shown: str
    kind: str  # recipe of ours that it is, or that it is compared with
    bits: Bits
    ours: bool
    making_s: float  # calibrating and rounding
    accuracy: float | None = None  # a share
    drop: float | None = None  # of accuracy, a share
    interval: tuple[float, float] | None = None
    same_token: float | None = None  # share of tokens that are likeliest in float32, too
    kl_mean: float | None = None  # nats
    kl_p99: float | None = None
    graph_bytes: int | None = None  # graphs and weights, without the token table
    refused: str | None = None  # why it could not be measured


def accuracy_head() -> list[str]:
    """Of the Markdown table whose lines `accuracy_line` gives."""
    return _with_rule(_ACCURACY)


def accuracy_line(row: Row) -> str:
    """Markdown."""
    if row.refused is not None:
        return (
            f"| {row.shown} | {row.bits} | {row.refused.replace('|', '/')} | | | | | | {row.making_s:.0f} |"
        )
    assert row.accuracy is not None
    assert row.drop is not None
    assert row.interval is not None
    assert row.same_token is not None
    assert row.kl_p99 is not None
    assert row.graph_bytes is not None
    low, high = (100 * end for end in row.interval)
    return (
        f"| {row.shown} | {row.bits} | {row.accuracy:.2%} | {100 * row.drop:.2f} ({low:.2f} to {high:.2f}) | "
        f"{row.same_token:.2%} | {_kl(row):.2e} | {row.kl_p99:.2e} | {row.graph_bytes / 1e6:.2f} | "
        f"{row.making_s:.0f} |"
    )


def speed_head() -> list[str]:
    """Of the Markdown table whose lines `speed_line` gives."""
    return _with_rule(_SPEED)


def speed_line(shown: str, step_s: float, prompt_s: float) -> str:
    """Markdown."""
    return f"| {shown} | {1e3 * step_s:.2f} | {1e3 * prompt_s:.1f} |"


def verdicts(rows: Sequence[Row]) -> tuple[list[str], bool]:
    """A sentence for each recipe of ours, and whether any is less accurate than a peer that it is compared with."""
    found, behind = [], False
    for own in (row for row in rows if row.ours and row.kl_mean is not None):
        peers = [row for row in rows if not row.ours and row.kind == own.kind and row.kl_mean is not None]
        if not peers:
            continue
        best = min(peers, key=_kl)
        ratio = _kl(best) / max(_kl(own), 1e-12)
        better = _kl(own) <= _kl(best)
        behind |= not better
        name, peer = (f"{row.shown.strip('*')} ({row.bits} bits)" for row in (own, best))
        found.append(
            f"  {name}: the nearest peer, {peer}, has {ratio:.2f} times its KL divergence"
            if better
            else f"  {name} is LESS ACCURATE than {peer}, which has {ratio:.2f} times its KL divergence"
        )
    return found, behind


def _with_rule(head: str) -> list[str]:
    return [head, "|" + "---|" * (head.count("|") - 1)]


def _kl(row: Row) -> float:
    assert row.kl_mean is not None
    return row.kl_mean

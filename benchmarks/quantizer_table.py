"""The table of `quantizers.py`, and what it says of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_HEAD = "| | drop, points (95 %) | KL mean | KL 99 % | graphs MB | making s | decode ms | prefill ms |"


@dataclass(frozen=True)
class Row:
    """One variant; what is None could not be measured."""

    shown: str
    kind: str  # recipe of ours that it is, or that it is compared with
    ours: bool
    making_s: float  # calibrating and rounding
    drop: float | None = None  # of accuracy, a share
    interval: tuple[float, float] | None = None
    kl_mean: float | None = None  # nats
    kl_p99: float | None = None
    graph_bytes: int | None = None  # graphs and weights, without the token table
    decode_s: float | None = None
    prefill_s: float | None = None
    refused: str | None = None  # why it could not be measured


def lines(rows: Sequence[Row]) -> list[str]:
    """Markdown."""
    return [_HEAD, "|" + "---|" * (_HEAD.count("|") - 1), *map(_line, rows)]


def verdicts(rows: Sequence[Row]) -> tuple[list[str], bool]:
    """A sentence for each recipe of ours, and whether any is less accurate than a peer at equal bits."""
    found, behind = [], False
    for own in (row for row in rows if row.ours and row.kl_mean is not None):
        peers = [row for row in rows if not row.ours and row.kind == own.kind and row.kl_mean is not None]
        if not peers:
            continue
        best = min(peers, key=_kl)
        ratio = _kl(best) / max(_kl(own), 1e-12)
        better = _kl(own) <= _kl(best)
        behind |= not better
        name = own.shown.strip("*")
        found.append(
            f"  {name}: the nearest peer, {best.shown}, has {ratio:.2f} times its KL divergence"
            if better
            else f"  {name} is LESS ACCURATE than {best.shown}, which has {ratio:.2f} times its KL divergence"
        )
    return found, behind


def _kl(row: Row) -> float:
    assert row.kl_mean is not None
    return row.kl_mean


def _line(row: Row) -> str:
    if row.refused is not None:
        return f"| {row.shown} | {row.refused.replace('|', '/')} | | | | {row.making_s:.0f} | | |"
    assert row.drop is not None
    assert row.interval is not None
    assert row.kl_p99 is not None
    assert row.graph_bytes is not None
    assert row.decode_s is not None
    assert row.prefill_s is not None
    low, high = (100 * end for end in row.interval)
    return (
        f"| {row.shown} | {100 * row.drop:.2f} ({low:.2f} to {high:.2f}) | {_kl(row):.2e} | {row.kl_p99:.2e} | "
        f"{row.graph_bytes / 1e6:.2f} | {row.making_s:.0f} | {1e3 * row.decode_s:.2f} | {1e3 * row.prefill_s:.1f} |"
    )

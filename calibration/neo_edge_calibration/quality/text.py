"""The report as plain text, 80 columns wide."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from neo_edge.byte_size import show_bytes

if TYPE_CHECKING:
    from neo_edge_calibration.quality.report import FamilyQuality, QualityReport

_NAME_WIDTH = 23
_WORST_LAYERS = 8


def summary(report: QualityReport) -> str:
    """Verdict, families, tokens, bytes and the noisiest layers."""
    tokens = report.tokens
    lines = [
        f"{report.variant} beside {report.reference}, {report.whole.count} questions: {_short(report.data, 40)}",
        *textwrap.wrap(report.conclusion(), 80),
        "",
        f"{'family':{_NAME_WIDTH}} {'count':>6} {'before':>7} {'now':>7} {'drop':>6}  {'95 % interval':15}",
        *(_family_line(family, report.target_drop) for family in report.families),
        _family_line(report.whole, None),
        "",
        f"same likeliest token  {tokens.top1_agreement:.3%} of {tokens.count}",
        f"KL divergence         mean {tokens.kl_mean:.2e}, 99th percentile {tokens.kl_p99:.2e} nats a token",
        f"perplexity            {show_number(tokens.perplexity)}, "
        f"before {show_number(tokens.reference_perplexity)}",
        f"bytes                 {show_bytes(report.size.total)}, before {show_bytes(report.reference_size.total)} "
        f"({report.size.total / report.reference_size.total:.1%})",
    ]
    worst = sorted(report.layer_snr_db.items(), key=lambda item: item[1])[:_WORST_LAYERS]
    if worst:
        lines += ["", f"noisiest of {len(report.layer_snr_db)} weights, signal to noise"]
        lines += [f"  {_short(name, 60):60} {show_db(value):>8} dB" for name, value in worst]
    return "\n".join(lines)


def show_number(value: float) -> str:
    """Four digits; `beyond any float` for what is not finite."""
    return f"{value:.4f}" if math.isfinite(value) else "beyond any float"


def show_db(value: float) -> str:
    """`exact` for a weight without noise."""
    return "exact" if value == math.inf else f"{value:.1f}"


def _family_line(family: FamilyQuality, target: float | None) -> str:
    low, high = family.interval
    verdict = "" if target is None else family.verdict(target)
    mark = "" if verdict in ("", "met") else verdict.upper()
    return (
        f"{_short(family.name, _NAME_WIDTH):{_NAME_WIDTH}} {family.count:6d} {family.reference_accuracy:7.1%} "
        f"{family.accuracy:7.1%} {100 * family.drop:6.2f}  {f'{100 * low:.2f} .. {100 * high:.2f}':15} {mark}"
    ).rstrip()


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."

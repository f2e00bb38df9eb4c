"""The report as one HTML file that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from neo_edge.byte_size import show_bytes
from neo_edge.errors import InputError
from neo_edge_calibration.quality.plots import histogram_plot, interval_plot, size_plot, snr_plot
from neo_edge_calibration.quality.report import show_points
from neo_edge_calibration.quality.text import show_db, show_number

if TYPE_CHECKING:
    from pathlib import Path

    from neo_edge_calibration.quality.report import FamilyQuality, QualityReport, VariantBytes

_STYLE = """
:root { color-scheme: light dark; --text: #1c2126; --soft: #5b6670; --back: #fff; --card: #f4f6f8; --line: #d5dbe0;
  --blue: #2a6fbb; --good: #1d7f4d; --bad: #c0342b; --unsure: #a56a00; --part2: #8fb7e0; --part0: #17406d; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ec; --soft: #9aa6b1; --back: #14181c; --card: #1e242a;
  --line: #39424b; --blue: #6aa9e9; --good: #55c48a; --bad: #f0786d; --unsure: #e0a94a; --part2: #2f557e;
  --part0: #b9d7f5; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); margin: 0 auto;
  max-width: 900px; padding: 24px 20px 48px; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2em 0 .4em; } p { margin: .4em 0; }
.soft, figcaption { color: var(--soft); } figure { margin: 0; }
.verdict { border-left: 6px solid var(--unsure); background: var(--card); padding: 12px 16px; margin: 18px 0;
  font-size: 1.1rem; font-weight: 600; } .verdict.met { border-color: var(--good); }
.verdict.missed { border-color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; }
.tile { background: var(--card); padding: 10px 14px; } .tile b { display: block; font-size: 1.3rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; } .wide { overflow-x: auto; }
th, td { text-align: right; padding: 3px 8px; border-bottom: 1px solid var(--line); } th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
.rows td { text-align: left; overflow-wrap: anywhere; }
.rows td:first-child { white-space: nowrap; color: var(--soft); }
tr.sum td { font-weight: 600; border-top: 2px solid var(--line); }
td.met { color: var(--good); } td.missed { color: var(--bad); font-weight: 600; } td.notshown { color: var(--unsure); }
svg { width: 100%; height: auto; display: block; margin: 8px 0; } svg text { font: 12px system-ui, sans-serif; }
.name { fill: var(--text); text-anchor: end; } .tick { fill: var(--soft); text-anchor: middle; }
.axis { stroke: var(--soft); } .grid { stroke: var(--line); } .range { stroke-width: 3; stroke: var(--good); }
.mark { fill: var(--good); } .missed .range { stroke: var(--bad); } .missed .mark { fill: var(--bad); }
.notshown .range { stroke: var(--unsure); } .notshown .mark { fill: var(--unsure); }
.target { stroke: var(--bad); stroke-dasharray: 5 4; } .targetname { fill: var(--bad); } .bar { fill: var(--blue); }
.exact { opacity: .35; } .part0 { fill: var(--part0); } .part1 { fill: var(--blue); } .part2 { fill: var(--part2); }
@media print { body { max-width: none; } h2, tr, figure { break-inside: avoid; } }
"""


def write_page(report: QualityReport, path: Path) -> None:
    """Writes `page(report)`.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        path.write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error}): give a file in a folder that is there and yours"
        ) from error


def page(report: QualityReport) -> str:
    """The whole document."""
    title = f"{report.variant} beside {report.reference}"
    body = "\n".join(
        [
            f"<h1>Quality of {escape(title)}</h1>",
            f'<p class="soft">{report.whole.count} questions, each asked of both: {escape(report.data)}.</p>',
            f'<p class="verdict {_kind(report.verdict)}">{escape(report.conclusion())}</p>',
            _tiles(report),
            _accuracy(report),
            _tokens(report),
            _layers(report),
            _sizes(report),
            "<h2>Where this is from</h2>",
            _rows(
                [*report.provenance.items(), ("questions", report.data), ("their sha256", report.data_digest)]
            ),
        ]
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" '
        f'content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n'
        f"</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _tiles(report: QualityReport) -> str:
    whole, tokens = report.whole, report.tokens
    low, high = whole.interval
    tiles = [
        (f"{100 * whole.drop:.2f} points", f"accuracy lost, {100 * low:.2f} to {100 * high:.2f}"),
        (f"{tokens.top1_agreement:.2%}", "same likeliest token"),
        (f"{tokens.kl_mean:.1e}", f"nats of KL a token; 99 % below {tokens.kl_p99:.1e}"),
        (show_number(tokens.perplexity), f"perplexity; {show_number(tokens.reference_perplexity)} before"),
        (
            show_bytes(report.size.total),
            f"{report.size.total / report.reference_size.total:.0%} of {report.reference}",
        ),
    ]
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{escape(value)}</b>{escape(words)}</div>' for value, words in tiles)
        + "</div>"
    )


def _accuracy(report: QualityReport) -> str:
    target = report.target_drop
    head = [
        "family",
        "questions",
        report.reference,
        report.variant,
        "lost",
        "gained",
        "drop",
        "95 % interval",
        "",
    ]
    rows = [_family_cells(family) + _cell(family.verdict(target)) for family in report.families]
    table = _table(head, rows, last=_family_cells(report.whole) + "<td></td>")
    return (
        "<h2>Accuracy by family</h2>"
        f"<p>The drop in points, with the interval that holds the true drop in 95 of 100 such measurements. The target "
        f"is met where the whole interval lies under {show_points(target)}.</p>"
        f"<figure>{interval_plot(report.families, target)}</figure>{table}"
    )


def _tokens(report: QualityReport) -> str:
    tokens = report.tokens
    return (
        "<h2>Probabilities, token by token</h2>"
        f"<p>{escape(report.reference)}'s own answers were fed to both, {tokens.count} tokens. For each next token the "
        f"KL divergence says how far {escape(report.variant)}'s probabilities lie from those: mean "
        f"{tokens.kl_mean:.2e}, 99th percentile {tokens.kl_p99:.2e}, largest {tokens.kl_max:.2e} nats.</p>"
        f"<figure>{histogram_plot(tokens.kl_histogram, tokens.kl_mean, tokens.kl_p99)}</figure>"
    )


def _layers(report: QualityReport) -> str:
    layers = report.layer_snr_db
    if not layers:
        return "<h2>Signal to noise by layer</h2><p>Not measured for this variant.</p>"
    rows = [
        f"<td>{escape(name)}</td><td>{show_db(value)}</td>"
        for name, value in sorted(layers.items(), key=lambda item: item[1])
    ]
    return (
        "<h2>Signal to noise by layer</h2><p>What each quantized product gives, beside its error: 20 dB is an error of "
        "a tenth, 40 dB of a hundredth.</p>"
        f"<figure>{snr_plot(layers)}</figure><details{' open' if len(rows) <= 24 else ''}><summary>As a table, the "
        f"noisiest first</summary>{_table(['weight', 'dB'], rows)}</details>"
    )


def _sizes(report: QualityReport) -> str:
    both = {report.reference: report.reference_size, report.variant: report.size}
    parts = ("graphs", "weights", "token table")
    rows = [
        f"<td>{escape(name)}</td>"
        + "".join(_cell(show_bytes(count)) for count in (*_parts(size), size.total))
        for name, size in both.items()
    ]
    plot = size_plot({name: _parts(size) for name, size in both.items()}, parts)
    return f"<h2>Bytes</h2><figure>{plot}</figure>{_table(['variant', *parts, 'all'], rows)}"


def _parts(size: VariantBytes) -> tuple[int, int, int]:
    return size.graphs, size.weights, size.token_table


def _family_cells(family: FamilyQuality) -> str:
    low, high = family.interval
    return "".join(
        _cell(text)
        for text in (
            family.name,
            str(family.count),
            f"{family.reference_accuracy:.2%}",
            f"{family.accuracy:.2%}",
            str(family.lost),
            str(family.gained),
            f"{100 * family.drop:.2f}",
            f"{100 * low:.2f} to {100 * high:.2f}",
        )
    )


def _cell(text: str) -> str:
    kind = f' class="{_kind(text)}"' if text in ("met", "missed", "not shown") else ""
    return f"<td{kind}>{escape(text)}</td>"


def _kind(verdict: str) -> str:
    return verdict.replace(" ", "")


def _table(head: Sequence[str], rows: Iterable[str], last: str = "") -> str:
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{row}</tr>" for row in rows) + (f'<tr class="sum">{last}</tr>' if last else "")
    return f'<div class="wide"><table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="rows"><tbody>{body}</tbody></table>'

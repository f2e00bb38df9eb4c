"""Figures as a table for people and as JSON for scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.byte_size import show_bytes
from neo_edge_runtime.bench.timing import Seconds, mean_and_deviation

if TYPE_CHECKING:
    from neo_edge_runtime.bench.measuring import Figures, TextRow


@dataclass(frozen=True)
class BenchReport:
    """What was measured, on what."""

    bundle: str
    variant: str
    threads: int
    device: list[str]
    date: str  # YYYY-MM-DD
    load_seconds: float
    prepacked: bool  # the weights are mapped from the prepacked cache
    figures: Figures
    backend: str = "onnxruntime"
    kernels: str = ""  # what computes the decoder on a CPU; empty: another device

    def lines(self) -> Iterator[str]:
        """For people: facts, then two tables in Markdown; every figure is mean ± standard deviation."""
        figures = self.figures
        yield from self.device
        peak = figures.peak_memory_bytes
        yield (
            f"{self.bundle}, {self.variant}, {self.backend}, {self.threads} threads, {self.date}: "
            f"loaded in {self.load_seconds:.2f} s, peak memory {'unknown' if peak is None else show_bytes(peak)}, "
            f"decoder weights {show_bytes(figures.weight_bytes)}"
            f"{', mapped from the prepacked cache' if self.prepacked else ''}"
            f"{self._computed_by()}"
        )
        if figures.peak_device_bytes is not None:
            yield f"peak device memory {show_bytes(figures.peak_device_bytes)}, of all programs since the start"
        if figures.matrix_rate is not None:
            yield f"large matrix products: {figures.matrix_rate / 1e12:.1f} TFLOP/s"
        for name, rates in figures.bandwidth.items():
            yield f"read: {name}: {plus_minus(rates / 1e9, 1)} GB/s"
        yield ""
        yield from _text_table(figures)
        yield ""
        if figures.image:
            yield from _image_table(figures)
        else:
            yield "no image: this bundle knows no image tokens"

    def _computed_by(self) -> str:
        if self.kernels in ("", "ONNX Runtime"):
            return f", decoder computed by {self.kernels}" if self.kernels else ""
        return f", decoder computed by neo_edge's own kernels ({self.kernels})"

    def to_json(self) -> dict[str, object]:
        """For scripts: seconds and shares of every repetition, and their means."""
        figures = self.figures
        return {
            "bundle": self.bundle,
            "variant": self.variant,
            "backend": self.backend,
            "threads": self.threads,
            "device": self.device,
            "date": self.date,
            "load_seconds": self.load_seconds,
            "prepacked": self.prepacked,
            "decoder_kernels": self.kernels or None,
            "peak_memory_bytes": figures.peak_memory_bytes,
            "peak_device_memory_bytes": figures.peak_device_bytes,
            "matrix_operations_per_second": figures.matrix_rate,
            "decoder_weight_bytes": figures.weight_bytes,
            "read_bytes_per_second": {name: json_numbers(rates) for name, rates in figures.bandwidth.items()},
            "text": [
                {
                    "test": row.test.name,
                    "kind": row.test.kind,
                    "tokens": row.test.tokens,
                    "depth": row.test.depth,
                    "seconds": json_numbers(row.seconds),
                    "tokens_per_second": json_numbers(row.test.tokens / row.seconds),
                    "share_of_read_bandwidth": None if row.share is None else json_numbers(row.share),
                    "operations": row.operations,
                    "times_ours": {name: json_numbers(ratio) for name, ratio in row.others.items()},
                }
                for row in figures.rows
            ],
            "image": {
                "visual_tokens": figures.visual_tokens,
                "prompt_tokens": figures.image_prompt_tokens,
                "seconds": {stage: json_numbers(values) for stage, values in figures.image.items()},
            },
        }


def _text_table(figures: Figures) -> Iterator[str]:
    rows, rate = figures.rows, figures.matrix_rate
    others = list(dict.fromkeys(name for row in rows for name in row.others))
    table = [
        [
            "test",
            "tokens/s",
            "ms a token",
            "of the read bandwidth",
            *(["of the matrix rate"] if rate else []),
            *(f"{name} takes" for name in others),
        ]
    ]
    for row in rows:
        tokens = row.test.tokens
        table.append(
            [
                row.test.name,
                plus_minus(tokens / row.seconds, 1),
                plus_minus(row.seconds / tokens * 1e3, 2),
                "" if row.share is None else plus_minus(row.share, 3),
                *([_share_of_rate(row, rate)] if rate else []),
                *(f"{plus_minus(row.others[name], 2)} x" if name in row.others else "" for name in others),
            ]
        )
    yield from markdown(table)


def _share_of_rate(row: TextRow, rate: float) -> str:
    return "" if row.operations is None else plus_minus(row.operations / row.seconds / rate, 3)


def _image_table(figures: Figures) -> Iterator[str]:
    head = f"one image, {figures.visual_tokens} visual tokens in {figures.image_prompt_tokens}"
    table = [[head, "ms"], *([stage, plus_minus(values * 1e3, 2)] for stage, values in figures.image.items())]
    yield from markdown(table)


def markdown(table: list[list[str]]) -> Iterator[str]:
    """A table with its head; every column but the first stands to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for number, row in enumerate(table):
        first, *rest = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield f"| {' | '.join([first, *rest])} |"
        if not number:
            rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
            yield f"| {' | '.join(rules)} |"


def plus_minus(values: Seconds, digits: int) -> str:
    """Mean ± standard deviation."""
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def json_numbers(values: Seconds) -> Mapping[str, object]:
    """A figure for scripts: every repetition, and what sums them up."""
    mean, deviation = mean_and_deviation(values)
    return {
        "mean": mean,
        "deviation": deviation,
        "median": float(np.median(values)),
        "all": [float(value) for value in values],
    }

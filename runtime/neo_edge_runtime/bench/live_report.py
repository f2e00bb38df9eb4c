"""Figures of `bench --live` as a table, as JSON and as a drawing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neo_edge_runtime.bench.line_plot import Line, Panel, line_plot
from neo_edge_runtime.bench.live_speed import STAGES, LiveFigures
from neo_edge_runtime.bench.report import json_numbers, markdown, plus_minus


@dataclass(frozen=True)
class LiveReport:
    """What was measured, on what."""

    bundle: str
    variant: str
    backend: str
    device: list[str]
    date: str  # YYYY-MM-DD
    figures: LiveFigures

    @property
    def title(self) -> str:
        """What ran, in a line."""
        plan = self.figures.plan
        width, height = plan.image_size
        return (
            f"{Path(self.bundle).name}, {self.variant}, {self.backend}, {self.date}: watching a camera of "
            f"{width}x{height}, {self.figures.visual_tokens} visual tokens a frame, a window of {plan.max_frames}, "
            f"{plan.policy}"
        )

    def lines(self) -> Iterator[str]:
        """For people: facts, then a table in Markdown; every figure is mean ± standard deviation of the sessions."""
        figures, plan = self.figures, self.figures.plan
        yield from self.device
        yield self.title
        yield ""
        table = [["a frame", "ms", *(f"{stage}, %" for stage in STAGES)]]
        for frame in plan.frames:
            whole = figures.at(frame)
            shares = [100 * figures.at(frame, stage) / whole for stage in STAGES]
            table.append(
                [f"frame {frame}", plus_minus(1e3 * whole, 2), *(f"{share.mean():.1f}" for share in shares)]
            )
        yield from markdown(table)
        yield ""
        ratio = figures.cold / figures.watched
        yield from markdown(
            [
                [f"first token, {plan.question_frames} frames", "ms"],
                ["watched", plus_minus(1e3 * figures.watched, 2)],
                ["cold", plus_minus(1e3 * figures.cold, 2)],
                ["cold / watched", plus_minus(ratio, 1)],
            ]
        )
        yield ""
        yield (
            f"A frame's cost is the mean of it and of those before it, {plan.span} in all: from one cut of a full "
            "window to the next. Decoding is that of a JPEG."
        )

    def to_json(self) -> dict[str, object]:
        """For scripts: seconds of every repetition and their means, and every frame."""
        figures, plan = self.figures, self.figures.plan
        return {
            "bundle": self.bundle,
            "variant": self.variant,
            "backend": self.backend,
            "device": self.device,
            "date": self.date,
            "policy": plan.policy,
            "max_frames": plan.max_frames,
            "image_size": list(plan.image_size),
            "visual_tokens": figures.visual_tokens,
            "averaged_frames": plan.span,
            "frames": [
                {
                    "frame": frame,
                    "seconds": json_numbers(figures.at(frame)),
                    "stages": {stage: json_numbers(figures.at(frame, stage)) for stage in STAGES},
                }
                for frame in plan.frames
            ],
            "first_token": {
                "question_frames": plan.question_frames,
                "watched": json_numbers(figures.watched),
                "cold": json_numbers(figures.cold),
            },
            "frame_seconds": np.median(figures.frame_seconds, axis=0).tolist(),
            "resident_bytes": list(figures.resident_bytes),
        }

    def plot(self) -> str:
        """An SVG of its own: each frame's cost, and the memory behind it."""
        figures, plan = self.figures, self.figures.plan
        cost = 1e3 * np.median(figures.frame_seconds, axis=0)
        numbers = np.arange(1, len(cost) + 1)
        averaged = [1e3 * float(np.median(figures.at(int(number)))) for number in numbers]
        marks = {frame: f"{averaged[frame - 1]:.2f} ms" for frame in plan.frames}
        panels = [
            Panel(
                "ms a frame",
                (Line("each", tuple(cost), faint=True), Line(f"mean of {plan.span}", tuple(averaged))),
                marks,
            )
        ]
        memory = [size for size in figures.resident_bytes if size is not None]
        if len(memory) == len(figures.resident_bytes):
            panels.append(Panel("MiB resident", (Line("memory", tuple(size / 2**20 for size in memory)),)))
        return line_plot(self.title, "frames watched", panels)

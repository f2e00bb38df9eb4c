"""What watching costs: each frame of a live session by stage, and the first token of a question, watched and cold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from neo_edge.errors import InputError
from neo_edge.options import SamplingOptions
from neo_edge.progress import Progress, progress
from neo_edge.shown import shown
from neo_edge_runtime.bench.image_stages import random_jpeg
from neo_edge_runtime.bench.timing import Clock, Seconds, SystemClock
from neo_edge_runtime.image_input import load_image
from neo_edge_runtime.live.window import Policy
from neo_edge_runtime.memory import resident_memory_bytes
from neo_edge_runtime.video import Frame

if TYPE_CHECKING:
    import numpy.typing as npt

    from neo_edge_runtime.live.session import LiveSession
    from neo_edge_runtime.model import Model

Stage = Literal["decode", "preprocess", "vision", "prefill", "window"]
STAGES: tuple[Stage, ...] = get_args(Stage)
QUESTION = "What is there?"
_FIRST_TOKEN = SamplingOptions(max_new_tokens=1)
_APART_S = 0.5  # between two frames, as they are stamped; no time passes
_PICTURES = 8  # different ones, in turn
_QUESTIONS = 5  # asked where a session is asked; the median counts
_WARM_UP = 2  # frames of a session that does not count
_CUTS = {"drop": 8, "recompute": 2}  # a full window loses such a part at once


@dataclass(frozen=True)
class LivePlan:
    """What to measure."""

    frames: tuple[int, ...] = (
        10,
        64,
        100,
        500,
    )  # where a frame's cost is told; the last one ends the session
    question_frames: int = 64  # watched before the question
    max_frames: int = 64  # of the window
    policy: Policy = "drop"
    repetitions: int = 5  # sessions
    image_size: tuple[int, int] = (640, 480)  # of the camera: width and height in pixels

    def __post_init__(self) -> None:
        numbers = (*self.frames, self.question_frames, self.repetitions, *self.image_size)
        wrong = [number for number in numbers if number < 1]
        if wrong or not self.frames:
            raise InputError(
                f"frames, question frames, repetitions and the picture's size are 1 or above; found "
                f"{shown(wrong[0]) if wrong else 'no frames'}"
            )

    @property
    def span(self) -> int:
        """Frames from one cut of the full window to the next: over so many a frame's cost is averaged."""
        return max(1, self.max_frames // _CUTS[self.policy])


@dataclass(frozen=True)
class LiveFigures:
    """All that was measured."""

    plan: LivePlan
    visual_tokens: int  # of a frame
    seconds: Mapping[Stage, npt.NDArray[np.float64]]  # each [repetitions, frames]
    watched: Seconds  # to the first token of a question, with `question_frames` in the cache
    cold: Seconds  # the same of a request that brings those frames; both an entry a repetition
    resident_bytes: tuple[int | None, ...]  # behind each frame of the last session

    @property
    def frame_seconds(self) -> npt.NDArray[np.float64]:
        """[repetitions, frames] of all stages."""
        total: npt.NDArray[np.float64] = np.sum([self.seconds[stage] for stage in STAGES], axis=0)
        return total

    def at(self, frame: int, stage: Stage | None = None) -> Seconds:
        """Seconds of a frame there, or of one stage: the mean of the frames from the last `plan.span` to it."""
        values = self.frame_seconds if stage is None else self.seconds[stage]
        mean: Seconds = values[:, max(0, frame - self.plan.span) : frame].mean(axis=1)
        return mean


def measure_live(model: Model, plan: LivePlan, *, clock: Clock | None = None) -> LiveFigures:
    """Watches the same pictures in `plan.repetitions` sessions, one after another.

    Args:
        model: with a tokenizer, which timestamps are written with.
        plan: what to measure.
        clock: None: the machine's.

    Raises:
        TokenizerError: the bundle has no tokenizer.
        BackendError, ContextOverflowError, MemoryBudgetError: as `Model.watch` and `LiveSession.add`.
    """
    run = _Run(model, plan, clock or SystemClock())
    length = max(*plan.frames, plan.question_frames)
    seconds = np.zeros((len(STAGES), plan.repetitions, length))
    watched, cold = np.zeros(plan.repetitions), np.zeros(plan.repetitions)
    resident: tuple[int | None, ...] = ()
    with progress(_WARM_UP + plan.repetitions * (length + 1), "bench --live", "frames") as bar:
        run.watch(bar, _WARM_UP, np.zeros((len(STAGES), _WARM_UP)))
        for repetition in range(plan.repetitions):
            watched[repetition], resident = run.watch(bar, length, seconds[:, repetition])
            cold[repetition] = run.cold()
            bar.update()
    return LiveFigures(
        plan=plan,
        visual_tokens=run.visual_tokens,
        seconds=dict(zip(STAGES, seconds, strict=True)),
        watched=watched,
        cold=cold,
        resident_bytes=resident,
    )


class _Run:
    def __init__(self, model: Model, plan: LivePlan, clock: Clock) -> None:
        self._model, self._plan, self._clock = model, plan, clock
        self._jpegs = [random_jpeg(*plan.image_size, seed) for seed in range(_PICTURES)]
        self.visual_tokens = 0

    def watch(
        self, bar: Progress[int], length: int, seconds: npt.NDArray[np.float64]
    ) -> tuple[float, tuple[int | None, ...]]:
        """One session; fills `seconds` [stages, frames]. Seconds to a question's first token, and memory."""
        plan, watched, resident = self._plan, float("nan"), []
        with self._model.watch(max_frames=plan.max_frames, every=None, policy=plan.policy) as live:
            for number in range(length):
                self._frame(live, number, seconds[:, number])
                resident.append(resident_memory_bytes())
                if number + 1 == plan.question_frames:
                    watched = float(np.median([self._ask(live) for _ in range(_QUESTIONS)]))
                bar.update()
        return watched, tuple(resident)

    def cold(self) -> float:
        """A question that brings its frames."""
        frames = [
            Frame(self._jpegs[number % _PICTURES], number * _APART_S)
            for number in range(self._plan.question_frames)
        ]
        started = self._clock.now()
        answer = self._model.stream(QUESTION, frames=frames, options=_FIRST_TOKEN).finish()
        taken = self._clock.now() - started
        self.visual_tokens = answer.usage.visual_tokens // len(frames)
        return taken

    def _frame(self, live: LiveSession, number: int, seconds: npt.NDArray[np.float64]) -> None:
        started = self._clock.now()
        image = load_image(self._jpegs[number % _PICTURES])
        decoded = self._clock.now()
        live.add(image, number * _APART_S)
        stages = live.stats().last_frame
        in_session = (stages.preprocess_ms, stages.vision_ms, stages.prefill_ms, stages.window_ms)
        seconds[:] = (decoded - started, *(1e-3 * milliseconds for milliseconds in in_session))

    def _ask(self, live: LiveSession) -> float:
        started = self._clock.now()
        live.ask(QUESTION, options=_FIRST_TOKEN).finish()
        return self._clock.now() - started

"""What watching costs the nano checkpoint's frame families, and what `drop` costs beside `recompute`.

Watched at leisure, the frames of a question stand in the window as offline, without the sentence about the whole video
that half of the offline questions have. Then windows are smaller than what is shown: before a question's n frames come
n - 1 others, or twice as many, of another scene or of the question's first frame standing still. Windows are chosen so
that under both policies exactly the question's frames are left: n for `drop`, 2 (n - 1) for `recompute`. So both show
the same pictures at the same times, and the only difference is what the cache of `drop` still holds of the others.
Those all have the time 0, so that the question's own times are as in training; in the last rows times go on. What
times that do not begin at 0 cost by themselves is asked last, watched and offline.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal, get_args

from command_line import neo_edge as run_neo_edge
from PIL.Image import Image

import neo_edge
from neo_edge.prompt import timestamp
from neo_edge_calibration.evaluation import ask
from neo_edge_calibration.question import Question
from neo_edge_calibration.scenes import make_question
from neo_edge_calibration.scoring import is_right, seconds
from neo_edge_runtime import Model
from neo_edge_runtime.processors import usable_physical_cores

CHECKPOINT = "neo-ov-nano"
FAMILIES = ("motion", "order", "when")
LATER_S = (0.0, 2.0, 7.0, 30.0)
WITHIN_POINTS = 1.0  # of the offline accuracy, watched at leisure
Before = Literal["another scene", "a still scene", "another scene, times go on"]
Policy = Literal["drop", "recompute"]


@dataclass(frozen=True)
class Stream:
    """Frames before a question's own, and the question as it is then right."""

    lead_in: tuple[Image, ...]
    question: Question  # its times go on behind those of the frames before


def main() -> int:
    """Prints three tables; 1 when a family loses more than a point by being watched."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=400, help="questions a family (default 400)")
    parser.add_argument("--seed", default="live", help="of the scenes (default: live)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "nano.bundle"
        run_neo_edge("export", CHECKPOINT, "-o", bundle, "--precision", "fp32")
        with neo_edge.load(bundle, threads=1) as model:
            passed = _watched_at_leisure(model, args.seed, args.count)
            _smaller_windows(model, args.seed, args.count)
            _later_times(model, args.seed, args.count)
    return 0 if passed else 1


def _watched_at_leisure(model: Model, seed: str, count: int) -> bool:
    offline = _right(lambda question: ask(model, question), seed, count)
    watched = _right(lambda question: _watch(model, Stream((), question), 64, "drop"), seed, count)
    print(f"{CHECKPOINT}, fp32, {count} questions a family, seed {seed}; all frames in the window\n")
    print("| family | offline | watched | lost | gained |\n|---|---:|---:|---:|---:|")
    passed = True
    for name, before, now in _rows(offline, watched):
        held = name == "all" or 100 * (sum(before) - sum(now)) <= WITHIN_POINTS * len(before)
        print(
            f"| {name} | {_share(before)} | {_share(now)} | {_changes(before, now)} |{'' if held else ' MISSED'}"
        )
        passed &= held
    return passed


def _smaller_windows(model: Model, seed: str, count: int) -> None:
    print("\nWindows that hold the question's n frames of what was shown\n")
    print(
        "| before them | frames | family | `recompute` | `drop` | lost | gained |\n|---|---|---|---:|---:|---:|---:|"
    )
    for before, times in product(get_args(Before), (1, 2)):

        def answer(question: Question, policy: Policy, before: Before = before, times: int = times) -> str:
            stream = _stream(question, before, times, seed)
            size = len(question.images)
            return _watch(model, stream, size if policy == "drop" else 2 * (size - 1), policy)

        shown = {
            family: [
                _stream(question, before, times, seed).question
                for question in _questions(family, seed, count)
            ]
            for family in FAMILIES
        }
        exact = _right(lambda question: answer(question, "recompute"), seed, count, scored=shown)
        dropped = _right(lambda question: answer(question, "drop"), seed, count, scored=shown)
        for name, then, now in _rows(exact, dropped):
            frames = "n - 1" if times == 1 else f"{times} (n - 1)"
            print(
                f"| {before} | {frames} | {name} | {_share(then)} | {_share(now)} | {_changes(then, now)} |",
                flush=True,
            )


def _later_times(model: Model, seed: str, count: int) -> None:
    print(
        f"\n{count} questions `when`, all frames in the window, at other times; the same frames at once beside it\n"
    )
    print("| the first frame | offline | watched | same text |\n|---|---:|---:|---:|")
    with ThreadPoolExecutor(usable_physical_cores()) as pool:
        for later_s in LATER_S:
            moved = [_moved(question, later_s) for question in _questions("when", seed, count)]
            offline = list(pool.map(lambda question: ask(model, question), moved))
            watched = list(pool.map(lambda question: _watch(model, Stream((), question), 64, "drop"), moved))
            right = (list(map(is_right, moved, texts)) for texts in (offline, watched))
            same = sum(then == now for then, now in zip(offline, watched, strict=True))
            shares = " | ".join(map(_share, right))
            print(f"| {later_s:g} s | {shares} | {same} of {count} |", flush=True)


def _right(
    answer: Callable[[Question], str],
    seed: str,
    count: int,
    *,
    scored: dict[str, list[Question]] | None = None,
) -> dict[str, list[bool]]:
    """Whether each answer is right, by family; scored as the question itself, or as another one."""
    right: defaultdict[str, list[bool]] = defaultdict(list)
    with ThreadPoolExecutor(usable_physical_cores()) as pool:
        for family in FAMILIES:
            texts = pool.map(answer, _questions(family, seed, count))
            wanted = scored[family] if scored else _questions(family, seed, count)
            right[family] = [is_right(question, text) for question, text in zip(wanted, texts, strict=True)]
    return right


def _watch(model: Model, stream: Stream, max_frames: int, policy: Policy) -> str:
    question = stream.question
    assert question.times_s is not None
    step_s = question.times_s[0] / max(1, len(stream.lead_in))
    with model.watch(max_frames=max_frames, every=None, policy=policy) as live:
        for number, image in enumerate(stream.lead_in):
            live.add(image, step_s * number)
        for image, time_s in zip(question.images, question.times_s, strict=True):
            live.add(image, time_s)
        assert live.stats().frames_in_window == len(question.images)
        return live.ask(question.prompt).finish().text


def _stream(question: Question, before: Before, times: int, seed: str) -> Stream:
    assert question.times_s is not None
    count = times * (len(question.images) - 1)
    frames: tuple[Image, ...] = (question.images[0],)
    if before != "a still scene":
        frames = make_question(question.family, f"{seed} before", question.images[0].size[0] + count).images
    later_s = count * (question.times_s[1] - question.times_s[0]) if before.endswith("go on") else 0.0
    return Stream(tuple(frames[number % len(frames)] for number in range(count)), _moved(question, later_s))


def _moved(question: Question, later_s: float) -> Question:
    """The same frames later, without the sentence about the whole video, and the answer as it is then right."""
    assert question.times_s is not None
    answer = question.answer
    if question.kind == "time":
        answered_s = seconds(answer)
        assert answered_s is not None
        answer = timestamp(answered_s + later_s)
    times_s = tuple(time_s + later_s for time_s in question.times_s)
    return replace(question, times_s=times_s, answer=answer, duration_s=None, fps=None)


def _questions(family: str, seed: str, count: int) -> Iterator[Question]:
    return (make_question(family, seed, index) for index in range(count))


def _rows(
    before: dict[str, list[bool]], now: dict[str, list[bool]]
) -> Iterator[tuple[str, list[bool], list[bool]]]:
    for family in FAMILIES:
        yield family, before[family], now[family]
    yield (
        "all",
        [right for family in FAMILIES for right in before[family]],
        [right for family in FAMILIES for right in now[family]],
    )


def _share(right: list[bool]) -> str:
    return f"{sum(right) / len(right):.2%}"


def _changes(before: list[bool], now: list[bool]) -> str:
    pairs = list(zip(before, now, strict=True))
    return f"{sum(then and not later for then, later in pairs)} | {sum(later and not then for then, later in pairs)}"


if __name__ == "__main__":
    sys.exit(main())

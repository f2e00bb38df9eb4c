"""A session that watches: frames enter its cache once, and a question costs its own tokens only."""

from __future__ import annotations

import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from neo_edge.errors import InputError, SessionClosedError
from neo_edge.prompt import encode_watched_question
from neo_edge.real_number import is_real
from neo_edge.shown import shown
from neo_edge_runtime.constraints import one_constraint
from neo_edge_runtime.live.answer import LiveAnswer
from neo_edge_runtime.live.stats import LiveStats, StageTimes
from neo_edge_runtime.live.thinning import Thinning, parse_every
from neo_edge_runtime.live.window import WINDOWS
from neo_edge_runtime.live.window import Policy as Policy
from neo_edge_runtime.request import make_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from neo_edge.options import SamplingOptions
    from neo_edge_runtime.backend import Backend
    from neo_edge_runtime.constraints import Constraint
    from neo_edge_runtime.generation import Stream
    from neo_edge_runtime.image_input import ImageSource
    from neo_edge_runtime.preprocessing import SizedImage
    from neo_edge_runtime.prompt_assembly import PromptAssembly
    from neo_edge_runtime.session import Session

FrameFate = Literal["used", "waiting", "skipped", "dropped"]

MAX_FRAMES = 1 << 16  # of a window; far beyond any model's positions
_ENDLESS_S = 1e9  # as for the frames of a video
_POLL_S = 0.05  # for an answer that is being collected, which tells nobody


@dataclass(frozen=True, eq=False)
class _Arrived:
    """A frame that was read, and is not in the cache yet."""

    image: SizedImage
    time_s: float
    preprocess_ms: float


class LiveSession:
    """Frames in, answers out, over one cache of bounded size. Threads may share it.

        with model.watch(max_frames=64, every="0.5s") as live:
            live.add(picture, time_s=0.0)
            print(live.ask("Where is the red ball?").finish().text)

    One answer is decoded at a time: a new question ends the one before it, which then has `stop_reason` `cancelled`.
    A frame that comes meanwhile waits; a newer one takes its place. The one that waits enters with the next `add`, or
    before the next question.
    """

    def __init__(
        self,
        backend: Backend,
        session: Session,
        prompts: PromptAssembly,
        *,
        max_frames: int = 64,
        every: str | float | None = "0.5s",
        prompt: str | None = None,
        policy: Policy = "drop",
    ) -> None:
        """Takes the session over; `Model.watch` gives the first three.

        Args:
            backend: the session's.
            session: an empty one.
            prompts: the model's rules.
            max_frames: size of the window; what happens to older frames the policy says.
            every: least time between frames, `"0.5s"` or seconds; None: every frame is used.
            prompt: system prompt; None: the protocol's.
            policy: of a full window. `drop`: an eighth of it goes and the cache of the rest stays, which is cheap and
                approximate. `recompute`: half of it goes and the rest is prefilled again, which is exact.

        Raises:
            InputError: a value is out of range.
            TokenizerError: the bundle has no tokenizer.
            BackendError: `drop`, and the backend cannot do that.
            ContextOverflowError, MemoryBudgetError: the system prompt does not fit.
        """
        if isinstance(max_frames, bool) or not (
            isinstance(max_frames, int) and 1 <= max_frames <= MAX_FRAMES
        ):
            raise InputError(
                f"max_frames is {shown(max_frames)}; it must be a whole number from 1 to {MAX_FRAMES}"
            )
        if policy not in WINDOWS:
            raise InputError(f"policy is {shown(policy)}; it must be one of {', '.join(WINDOWS)}")
        self._backend, self._session, self._prompts = backend, session, prompts
        self._max_frames, self._thinning = max_frames, Thinning(parse_every(every))
        system = prompts.protocol.system_prompt if prompt is None else prompt
        self._window = WINDOWS[policy](backend, session, prompts, max_frames=max_frames, system=system)
        # Guards what follows; never held while the model runs, so that nobody waits for a camera's frame to be counted.
        # Who set `_busy` owns session and window.
        self._door = threading.Condition()
        self._busy: Literal["frame", "answer"] | None = None
        self._asking = 0  # threads that wait to ask: frames that come wait too, however quickly they come
        self._closed = False
        self._waiting: _Arrived | None = None
        self._answer: Callable[[], LiveAnswer | None] = lambda: None
        self._seen = self._skipped = self._used = self._dropped = self._questions = 0
        self._seen_s: float | None = None  # time of the newest frame seen
        self._taken_s = 0.0  # of the newest one that was not skipped
        self._entered_s: float | None = None  # of the newest one in the cache
        self._newest_s = 0.0  # of the newest one that is there, enters or waits: no older one follows it
        self._total, self._last = StageTimes(), StageTimes()

    def add(self, image: ImageSource, time_s: float) -> FrameFate:
        """Shows a frame.

        Args:
            image: what `load_image` takes; it may be overwritten afterwards. Not so an array on a GPU whose frame is
                `waiting`: it is read when it enters, so give each such frame memory of its own.
            time_s: when it was seen, in seconds; not before the frame that was taken last.

        Returns:
            `used`: it stands in the cache. `waiting`: a question waits or its answer is being decoded, and the frame
            enters afterwards unless a newer one comes. `skipped`: less than `every` has passed. `dropped`: another
            thread was quicker with a newer one.

        Raises:
            ImageError, InputError: no picture, or no time, or one before that of an earlier frame; nothing changed.
            MemoryBudgetError, ContextOverflowError, BackendError: this frame or the one that waited before it
                does not fit, or its run failed; this one was not taken.
            SessionClosedError: the session is closed.
        """
        time_s = _checked_time(time_s)
        with self._door:
            self._require_open()
            if time_s < self._taken_s:
                raise InputError(
                    f"a frame of {time_s:g} s comes after one of {self._taken_s:g} s: add frames in the order of "
                    "their times"
                )
            if not self._thinning.takes(time_s):
                return self._skip(time_s)
        began = time.perf_counter()
        sized = self._prompts.size_frame(image)
        arrived = _Arrived(sized, time_s, 1e3 * (time.perf_counter() - began))
        with self._door:
            self._require_open()
            if not self._thinning.takes(time_s):  # any more
                return self._skip(time_s)
            self._count_seen(time_s)
            self._thinning.take(max(time_s, self._taken_s))
            self._taken_s = max(time_s, self._taken_s)
            while self._busy == "frame" and not self._asking:
                self._door.wait()
            if self._closed or time_s < self._newest_s:
                self._dropped += 1
                self._require_open()
                return "dropped"
            self._newest_s = time_s
            if self._busy is not None or self._asking:
                self._dropped += self._waiting is not None
                self._waiting = arrived
                return "waiting"
            self._busy = "frame"
        try:
            self._enter(arrived)
        finally:
            self._free()
        return "used"

    def wants(self, time_s: float) -> bool:
        """Whether `add` would look at a frame of this time; one that comes too soon is counted as skipped by this.

        For who has frames that are dear to decode: what is not wanted need not be added.

        Raises:
            InputError: no time.
            SessionClosedError: the session is closed.
        """
        time_s = _checked_time(time_s)
        with self._door:
            self._require_open()
            wanted = time_s < self._taken_s or self._thinning.takes(time_s)  # `add` refuses what goes back
            if not wanted:
                self._skip(time_s)
            return wanted

    def ask(
        self,
        question: str,
        images: Sequence[ImageSource] = (),
        *,
        choices: Iterable[str] | None = None,
        schema: Mapping[str, object] | None = None,
        constraint: Constraint | None = None,
        options: SamplingOptions | None = None,
    ) -> Stream:
        """Asks about what was seen; the answer is made while the stream is iterated, and leaves no trace.

        A frame that is being added goes first, and so does the one that waits. Dropping the stream, or leaving its
        `with` block, ends the answer.

        Args:
            question: may hold `<image>` places for `images`.
            images: pictures of this question alone.
            choices: the answer is one of these; short for `constraint=Choices(choices)`.
            schema: the answer is JSON of this schema; short for `constraint=JsonSchema(schema)`.
            constraint: what the answer may be, as in `Model.stream`.
            options: sampling; None: the protocol's.

        Raises:
            ImageError, PromptError, InputError: the question is not well formed.
            ConstraintError, MissingExtraError: the answer cannot be bound so.
            ContextOverflowError, MemoryBudgetError: it does not fit behind what is watched, or the frame that waited
                does not; that frame is dropped then.
            BackendError: the frame that waited could not be run; it is dropped.
            SessionClosedError: the session is closed.
        """
        started = time.perf_counter()
        bound = one_constraint(constraint, choices, schema)
        prompts = self._prompts
        sized = prompts.size(images)
        ids = encode_watched_question(
            prompts.required_tokenizer(),
            question,
            [image.grid.visual_tokens for image in sized],
            style=prompts.protocol.multi_image_style,
        )
        with self._door:
            self._asking += 1
        try:
            self._settle(claim="answer")
        finally:
            with self._door:
                self._asking -= 1
                self._door.notify_all()
        try:
            self._enter()
            request = make_request(
                self._backend,
                self._session,
                prompts,
                ids=ids,
                images=sized,
                earlier_ids=self._window.ids,
                options=options,
                started=started,
                constraint=bound,
            )
            branch = self._session.checkpoint

            def on_end(_answer: Sequence[int], _prefilled: bool) -> None:
                with suppress(SessionClosedError):  # by a logit that is not finite: there is nothing to keep
                    self._session.rewind(branch)
                self._free()

            answer = LiveAnswer(request, on_end)
        except BaseException:
            self._free()
            raise
        with self._door:
            self._answer = weakref.ref(answer)
            self._questions += 1
        return answer

    def stats(self) -> LiveStats:
        """How things are now; may be asked at any time, also of a closed session."""
        session, window = self._session, self._window
        with self._door:
            return LiveStats(
                frames_seen=self._seen,
                frames_skipped=self._skipped,
                frames_used=self._used,
                frames_dropped=self._dropped,
                frames_waiting=int(self._waiting is not None),
                frames_in_window=len(window.frames),
                max_frames=self._max_frames,
                questions=self._questions,
                cache_tokens=session.length,
                cache_capacity_tokens=session.capacity,
                next_t=session.next_t,
                windows_cut=window.cuts,
                tokens_recomputed=window.recomputed,
                positions_shifted=window.shifts,
                lag_s=_difference(self._seen_s, self._entered_s),
                mean_frame=self._total.over(self._used),
                last_frame=self._last,
            )

    def close(self) -> None:
        """Ends an answer that is being decoded and gives the cache's memory back; may be called twice.

        Waits for the step or the frame that another thread is running.
        """
        with self._door:
            if self._closed:
                return
            self._closed = True
        self._settle(claim=None)
        self._session.close()

    def __enter__(self) -> LiveSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _skip(self, time_s: float) -> FrameFate:
        self._count_seen(time_s)
        self._skipped += 1
        return "skipped"

    def _count_seen(self, time_s: float) -> None:
        self._seen += 1
        self._seen_s = max(time_s, self._seen_s or 0.0)

    def _enter(self, *arrived: _Arrived) -> None:
        """Takes the frame that waits into the cache, and then these; only for who set `_busy`."""
        with self._door:
            frames = [*([self._waiting] if self._waiting is not None else []), *arrived]
            self._waiting = None
        for index, frame in enumerate(frames):
            try:
                times = self._window.add(frame.image, frame.time_s)
            except BaseException:
                with self._door:
                    self._dropped += len(frames) - index
                raise
            with self._door:
                self._used += 1
                self._entered_s = frame.time_s
                self._last = replace(times, preprocess_ms=frame.preprocess_ms)
                self._total += self._last

    def _settle(self, *, claim: Literal["answer"] | None) -> None:
        """Ends the answer that is being decoded, waits for the frame that is entering, and takes their place."""
        while True:
            with self._door:
                if claim is not None:
                    self._require_open()
                if self._busy is None:
                    self._busy = claim
                    return
                answer = self._answer()
                if answer is None:
                    self._door.wait(_POLL_S)
            if answer is not None:
                answer.close()  # not within the door: its end needs it

    def _free(self) -> None:
        with self._door:
            self._busy, self._answer = None, lambda: None
            self._door.notify_all()

    def _require_open(self) -> None:
        if self._closed:
            raise SessionClosedError("the live session is closed: watch again")


def _checked_time(time_s: object) -> float:
    if is_real(time_s) and 0 <= time_s < _ENDLESS_S:
        return float(time_s)
    raise InputError(f"time_s is {shown(time_s)}; a frame needs its time in seconds, from 0 on")


def _difference(newer_s: float | None, older_s: float | None) -> float | None:
    return None if newer_s is None or older_s is None else newer_s - older_s

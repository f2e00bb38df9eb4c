"""What a live session watches: the start of the prompt and the newest frames, in one cache of bounded size."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from neo_edge.positions import layout
from neo_edge.prompt import encode_watch_start, encode_watched_frame
from neo_edge_runtime.live.sliding import keep_tokens, rerun_start, shift_positions, sliding_state
from neo_edge_runtime.live.stats import StageTimes
from neo_edge_runtime.session import Checkpoint
from neo_edge_runtime.vision_encoder import encode_images, encoding_need

if TYPE_CHECKING:
    import numpy.typing as npt

    from neo_edge.patch_grid import PatchGrid
    from neo_edge_runtime.backend import Backend
    from neo_edge_runtime.preprocessing import SizedImage
    from neo_edge_runtime.prompt_assembly import PromptAssembly
    from neo_edge_runtime.session import Session

Policy = Literal["drop", "recompute"]

_ANSWER_ROOM = 512  # tokens and positions that frames leave to a question and its answer
_DROPPED_SHARE = 8  # of the window goes at once: the start is then run again once in so many frames
_START = np.iinfo(np.int64).max  # owner of the tokens before the first frame: younger than any frame


@dataclass(frozen=True, eq=False)
class WatchedFrame:
    """A frame in the cache."""

    number: int  # frames since the session began
    time_s: float
    ids: npt.NDArray[np.int64]  # its timestamp and its image's tokens
    grid: PatchGrid
    start_t: int  # of its first token
    visual_tokens: npt.NDArray[np.generic] | None  # kept only where it may have to be prefilled again


class Window(ABC):
    """Frames in a session's cache; subclasses say how a full one makes room."""

    def __init__(
        self, backend: Backend, session: Session, prompts: PromptAssembly, *, max_frames: int, system: str
    ) -> None:
        """Prefills what stands before the first frame."""
        self._backend, self._session, self._tokens = backend, session, prompts.tokens
        self._tokenizer = prompts.required_tokenizer()
        self._max_frames = max_frames
        self._start = np.array(encode_watch_start(self._tokenizer, system=system), np.int64)
        self.frames: list[WatchedFrame] = []
        self._added = 0
        self.cuts, self.recomputed, self.shifts = 0, 0, 0
        session.prefill(self._start, layout(self._start, [], self._tokens))

    @property
    def ids(self) -> list[int]:
        """All tokens in the cache, in the order in which they were seen."""
        return [
            token for ids in (self._start, *(frame.ids for frame in self.frames)) for token in ids.tolist()
        ]

    def add(self, image: SizedImage, time_s: float) -> StageTimes:
        """Takes a frame in, older ones out where there is no room.

        Raises:
            ContextOverflowError: it does not fit, even where all others are gone.
            MemoryBudgetError: there is no memory for it now.
            SessionClosedError, BackendError: as `Session.prefill`.
        """
        session = self._session
        ids = np.array(encode_watched_frame(self._tokenizer, time_s, image.grid.visual_tokens), np.int64)
        began = time.perf_counter()
        self._make_room(len(ids), steps=len(ids) - image.grid.visual_tokens + 1)
        piece = layout(ids, [image.grid], self._tokens, start_length=session.length, start_t=session.next_t)
        start_t, roomy = session.next_t, time.perf_counter()
        with session.reserve(piece, beside=encoding_need(self._backend, [image])):
            visual_tokens = encode_images(self._backend, [image])
            encoded = time.perf_counter()
            session.prefill(ids, piece, visual_tokens)
        ended = time.perf_counter()
        self._added += 1
        self._enter(WatchedFrame(self._added, time_s, ids, image.grid, start_t, visual_tokens))
        return StageTimes(
            vision_ms=1e3 * (encoded - roomy),
            prefill_ms=1e3 * (ended - encoded),
            window_ms=1e3 * (roomy - began),
        )

    def _enter(self, frame: WatchedFrame) -> None:
        self.frames.append(frame)

    @abstractmethod
    def _cut(self) -> None:
        """Drops some frames."""

    def _move_back(self) -> bool:
        """Makes room in positions, with all frames as they are; whether it could."""
        return False

    def _make_room(self, new_tokens: int, *, steps: int) -> None:
        session = self._session
        positions = self._backend.traits.config.decoder.max_positions
        while self.frames:
            roomy = _leaves_room(session.length + new_tokens, session.max_tokens)
            full = len(self.frames) >= self._max_frames or not roomy
            if not full and _leaves_room(session.next_t + steps, positions):
                return
            if full or not self._move_back():
                self._cut()


class RecomputingWindow(Window):
    """Drops the older half and prefills the rest again: the cache is what one prefill of its frames would give."""

    def _cut(self) -> None:
        kept, self.frames = self.frames[(len(self.frames) + 1) // 2 :], []
        self.cuts += 1
        session = self._session
        session.rewind(session.checkpoint_at(len(self._start)))  # which has seen nothing behind it
        if not kept:
            return
        ids = np.concatenate([frame.ids for frame in kept])
        visual_tokens = [frame.visual_tokens for frame in kept if frame.visual_tokens is not None]
        piece = layout(
            ids,
            [frame.grid for frame in kept],
            self._tokens,
            start_length=session.length,
            start_t=session.next_t,
        )
        session.prefill(ids, piece, np.concatenate(visual_tokens))
        self.recomputed += len(ids)
        self.frames = kept


class DroppingWindow(Window):
    """Drops the oldest frames from the cache and keeps what was computed of the others.

    Those still hold what they saw of the dropped frames, so this is approximate. The start of the prompt moves up in t
    until it touches the oldest frame again. t goes on growing; before the model's last position all keys are turned
    back at once, which costs no run of the decoder.
    """

    def __init__(
        self, backend: Backend, session: Session, prompts: PromptAssembly, *, max_frames: int, system: str
    ) -> None:
        super().__init__(backend, session, prompts, max_frames=max_frames, system=system)
        # By nothing: a backend that cannot turn keys says so now, and not when positions end.
        sliding_state(session).shift_t(0, length=session.length)
        self._owners = np.full(session.length, _START)  # [length]: the frame that each token is of
        self._start_t = 0  # t of the first token in the cache

    def _enter(self, frame: WatchedFrame) -> None:
        super()._enter(replace(frame, visual_tokens=None))
        self._owners = np.concatenate([self._owners, np.full(len(frame.ids), frame.number)])

    def _cut(self) -> None:
        start = len(self._start)
        kept = self.frames[max(1, len(self.frames) // _DROPPED_SHARE) :]
        oldest = kept[0].number if kept else _START
        self._owners = self._owners[keep_tokens(self._session, self._owners >= oldest)]
        self.frames = kept
        self.cuts += 1
        start_t = kept[0].start_t - start if kept else 0
        if not kept:
            self._session.stand_at(Checkpoint(start, start))
        if start_t != self._start_t:
            rerun_start(self._backend, self._session, self._start, self._tokens, start_t)
            self._start_t = start_t
            self.recomputed += start

    def _move_back(self) -> bool:
        if not self._start_t:
            return False
        shift_positions(self._session, -self._start_t)
        self.frames = [replace(frame, start_t=frame.start_t - self._start_t) for frame in self.frames]
        self._start_t = 0
        self.shifts += 1
        return True


WINDOWS: dict[Policy, type[Window]] = {"drop": DroppingWindow, "recompute": RecomputingWindow}


def _leaves_room(wanted: int, limit: int | None) -> bool:
    return limit is None or wanted + min(_ANSWER_ROOM, limit // 4) <= limit

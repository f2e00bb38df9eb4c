"""A conversation whose cache stays: a later question costs its own tokens only."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neo_edge.errors import InputError, SessionClosedError
from neo_edge_runtime.generation import Stream
from neo_edge_runtime.prompt_assembly import AskedVideos
from neo_edge_runtime.request import make_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neo_edge.frame_sampling import FrameSampling
    from neo_edge.options import SamplingOptions
    from neo_edge_runtime.backend import Backend
    from neo_edge_runtime.completion import Completion
    from neo_edge_runtime.constraints import Constraint
    from neo_edge_runtime.image_input import ImageSource
    from neo_edge_runtime.prompt_assembly import PromptAssembly
    from neo_edge_runtime.session import Checkpoint, Session
    from neo_edge_runtime.video import Frame, VideoSource
    from neo_edge_runtime.video_limits import VideoLimits


@dataclass(frozen=True)
class _Turn:
    """Where the conversation stood before a question."""

    checkpoint: Checkpoint
    ids: int  # tokens of the conversation, the answer's last one included, which the cache lacks


class Chat:
    """Questions and answers over one session. Not for two threads at once."""

    def __init__(
        self, backend: Backend, session: Session, prompts: PromptAssembly, *, system: str | None
    ) -> None:
        """Takes the session over; `system` None is the protocol's system prompt."""
        self._backend, self._session, self._prompts, self._system = backend, session, prompts, system
        self._ids: list[int] = []  # all tokens so far; the cache holds all but, after an answer, the last
        self._turns: list[_Turn] = []
        self._stream: Stream | None = None

    @property
    def session(self) -> Session:
        """The session underneath."""
        return self._session

    @property
    def turns(self) -> int:
        """Questions asked so far."""
        return len(self._turns)

    def send(
        self,
        text: str,
        images: Sequence[ImageSource] = (),
        frames: Sequence[Frame] | None = None,
        *,
        video_duration_s: float | None = None,
        fps: float | None = None,
        videos: Sequence[VideoSource] = (),
        frame_sampling: FrameSampling | None = None,
        video_limits: VideoLimits | None = None,
        options: SamplingOptions | None = None,
        constraint: Constraint | None = None,
    ) -> Completion:
        """Asks, waits and gives the answer; arguments and errors as `Model.stream`."""
        return self.stream(
            text,
            images,
            frames,
            video_duration_s=video_duration_s,
            fps=fps,
            videos=videos,
            frame_sampling=frame_sampling,
            video_limits=video_limits,
            options=options,
            constraint=constraint,
        ).finish()

    def stream(
        self,
        text: str,
        images: Sequence[ImageSource] = (),
        frames: Sequence[Frame] | None = None,
        *,
        video_duration_s: float | None = None,
        fps: float | None = None,
        videos: Sequence[VideoSource] = (),
        frame_sampling: FrameSampling | None = None,
        video_limits: VideoLimits | None = None,
        options: SamplingOptions | None = None,
        constraint: Constraint | None = None,
    ) -> Stream:
        """Asks and gives the answer as it is made; an answer before it that is still open is cancelled.

        An answer that a stop string, the token limit or `cancel` cut short stays in the conversation as it was
        generated. Arguments and errors as `Model.stream`; after an error, also one that ends the iteration, the
        conversation is as before.
        """
        started = time.perf_counter()
        self._settle()
        pictures = self._prompts.pictures(
            text,
            images,
            frames,
            video_duration_s,
            fps,
            AskedVideos(videos, frame_sampling, video_limits),
        )
        sized, shown = pictures.sized, pictures.text
        new_ids = (
            self._prompts.followup(shown, sized)
            if self._turns
            else self._prompts.first(shown, sized, self._system)
        )
        self._feed_stray_image_token()
        turn = _Turn(self._session.checkpoint, len(self._ids))
        request = make_request(
            self._backend,
            self._session,
            self._prompts,
            ids=[*self._ids[self._session.length :], *new_ids],
            images=sized,
            earlier_ids=self._ids[: self._session.length],
            options=options,
            started=started,
            warnings=pictures.warnings,
            constraint=constraint,
        )

        def on_end(answer: Sequence[int], took_place: bool) -> None:
            self._stream = None
            if took_place:
                self._turns.append(turn)
                self._ids += [*new_ids, *answer]
            else:
                with suppress(SessionClosedError):  # by a logit that is not finite: there is nothing to keep
                    self._session.rewind(turn.checkpoint)

        self._stream = Stream(request, on_end)
        return self._stream

    def rewind(self, turns: int = 1) -> None:
        """Takes the last question and its answer back, or several; they can then be asked differently.

        Raises:
            InputError: there are not as many.
        """
        self._settle()
        if not 1 <= turns <= len(self._turns):
            raise InputError(f"{turns} turns cannot be taken back: the conversation has {len(self._turns)}")
        turn = self._turns[-turns]
        self._session.rewind(turn.checkpoint)
        del self._turns[-turns:], self._ids[turn.ids :]

    def fork(self) -> Chat:
        """A second conversation with the same past; costs a copy of the cache, and raises as `Session.fork`."""
        self._settle()
        other = Chat(self._backend, self._session.fork(), self._prompts, system=self._system)
        other._ids, other._turns = list(self._ids), list(self._turns)
        return other

    def close(self) -> None:
        """Gives the cache's memory back."""
        self._session.close()

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _feed_stray_image_token(self) -> None:
        """An answer may end in a token that means a picture where a prompt holds it; as an answer it is text."""
        tokens = self._prompts.tokens
        for token in self._ids[self._session.length :]:
            if token in (tokens.img_context, tokens.img_start):
                self._session.decode(token)

    def _settle(self) -> None:
        if self._stream is not None:
            self._stream.close()

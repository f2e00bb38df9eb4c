"""What calibration feeds a model: questions with their pictures, and the answers to them where there are any."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neo_edge.errors import CalibrationDataError
from neo_edge_calibration.question import Question
from neo_edge_runtime.batch_request import Request
from neo_edge_runtime.image_input import ImageSource
from neo_edge_runtime.video import Frame, VideoSource


@dataclass(frozen=True, eq=False)
class Turn:
    """One question and its answer."""

    # `<image>` says where a picture stands; without it the pictures come first. Or token ids, taken as they are but
    # for lone image context tokens; then this is the only turn, and what answers there are stand in it.
    question: str | Sequence[int] | npt.NDArray[np.integer]
    answer: str | None = None  # what the model shall have said; None only in the last turn
    images: Sequence[ImageSource] = ()
    videos: Sequence[VideoSource] = ()  # `<video>` says where one stands; a few frames of each are shown
    frames: Sequence[Frame] | None = None  # of a video, instead of images and videos
    video_duration_s: float | None = None  # seconds; with fps
    fps: float | None = None  # frames per second at which the frames were taken


@dataclass(frozen=True, eq=False)
class Conversation:
    """One sample: the whole of it goes through the model at once, its answers included."""

    turns: Sequence[Turn]
    name: str  # what messages call it
    system: str | None = None  # None: the protocol's


Prompt = Conversation | Request | Question
"""What any iterable may hold: a conversation, a request without an answer, or a question with one."""


class PromptSource:
    """Conversations in a fixed order; one that cannot be made, since its picture is broken, is made alone."""

    def __init__(
        self, description: str, makers: Iterable[Callable[[], Conversation]], size: int | None
    ) -> None:
        """Takes what makes the conversations.

        Args:
            description: in words, for the manifest: `pictures in shelf/`.
            makers: one call for each conversation.
            size: how many there are; None: unknown until they have been read.
        """
        self.description, self.size = description, size
        self._makers = makers

    def __iter__(self) -> Iterator[Callable[[], Conversation]]:
        return iter(self._makers)


def source_of(prompts: Iterable[Prompt], description: str = "prompts of a program") -> PromptSource:
    """A source over any iterable, read once."""
    size = len(prompts) if isinstance(prompts, Sequence) else None
    makers = (
        (lambda prompt=prompt, number=number: conversation_of(prompt, f"prompt {number}"))
        for number, prompt in enumerate(prompts)
    )
    return PromptSource(description, makers, size)


def conversation_of(prompt: Prompt, name: str) -> Conversation:
    """Any prompt as a conversation; raises `CalibrationDataError` for what is none."""
    if isinstance(prompt, Conversation):
        return prompt
    if isinstance(prompt, Question):
        return _of_question(prompt, name)
    if isinstance(prompt, Request):
        turn = Turn(
            prompt.prompt,
            images=prompt.images,
            videos=prompt.videos,
            frames=prompt.frames,
            video_duration_s=prompt.video_duration_s,
            fps=prompt.fps,
        )
        return Conversation((turn,), prompt.name or name, prompt.system)
    raise CalibrationDataError(
        f"{name} is of type {type(prompt).__name__}: give a Conversation, a Question or a Request"
    )


def _of_question(question: Question, name: str) -> Conversation:
    answer = question.response or question.answer
    if question.times_s is None:
        return Conversation((Turn(question.prompt, answer, question.images),), name)
    frames = [Frame(image, time_s) for image, time_s in zip(question.images, question.times_s, strict=True)]
    turn = Turn(
        question.prompt,
        answer,
        frames=frames,
        video_duration_s=question.duration_s,
        fps=question.fps,
    )
    return Conversation((turn,), name)

"""From chat messages to token ids: the template `neo1_0`, images in their places, frames with timestamps.

    [<|im_start|>system\\n{system}<|im_end|>\\n]<|im_start|>user\\n{text}<|im_end|>\\n<|im_start|>assistant\\n

An `<image>` in a message becomes `<img>`, one `<IMG_CONTEXT>` per visual token, `</img>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from neo_edge.errors import PromptError
from neo_edge.protocols import MultiImageStyle, VideoStyle
from neo_edge.real_number import is_real
from neo_edge.shown import shown
from neo_edge.tokens import IM_END, IM_START, IMG_CONTEXT, IMG_END, IMG_START
from neo_edge.unicode_text import require_text

if TYPE_CHECKING:
    from neo_edge.tokenizer import Tokenizer

_ENDLESS_S = 1e9  # 30 years; no video is longer, and its minutes still fit a timestamp
IMAGE_PLACE = "<image>"
"""Where an image stands in the text of a message that brings images; plain text in one that brings none."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    text: str
    images: int = 0  # pictures or frames that this message brings

    def __post_init__(self) -> None:
        require_text(self.text, "a message's text")
        if self.images < 0 or (self.images and self.role != "user"):
            raise PromptError(
                f"a message of the {self.role} brings {self.images} images; only the user brings any"
            )


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    image_tokens: Sequence[int] = (),
    *,
    system: str = "",
    style: MultiImageStyle = "inline",
) -> list[int]:
    """Token ids of a conversation, up to where the assistant's next answer begins.

    Args:
        tokenizer: the checkpoint's.
        messages: user and assistant in turns, from user to user.
        image_tokens: number of visual tokens of each image, over all messages.
        system: empty leaves the system block out.
        style: how images that the text has no place for are put before it.

    Raises:
        PromptError: turns out of order, or places, images and `image_tokens` that do not fit each other.
    """
    roles = [message.role for message in messages]
    if roles != (["user", "assistant"] * len(roles))[: len(roles)] or len(roles) % 2 == 0:
        raise PromptError(f"the messages are by {roles or 'nobody'}; they must go user, assistant, ..., user")
    require_text(system, "the system prompt")
    pieces = _Pieces(tokenizer, image_tokens)
    if system:
        pieces.block("system", system)
    for message in messages:
        pieces.message(message, style)
    pieces.open("assistant")
    return pieces.finish()


def encode_followup(
    tokenizer: Tokenizer,
    message: Message,
    image_tokens: Sequence[int] = (),
    *,
    answer_closed: bool,
    style: MultiImageStyle = "inline",
) -> list[int]:
    """Only the ids that a later turn appends behind the assistant's answer.

    Args:
        tokenizer: the checkpoint's.
        message: the user's next message.
        image_tokens: number of visual tokens of each image of this message.
        answer_closed: whether the answer's own `<|im_end|>` already stands in the cache.
        style: as in `encode_chat`.

    Raises:
        PromptError: as `encode_chat`.
    """
    if message.role != "user":
        raise PromptError("a follow-up is a message of the user, not of the assistant")
    pieces = _Pieces(tokenizer, image_tokens)
    if not answer_closed:
        pieces.special(IM_END)
    pieces.text("\n")
    pieces.message(message, style)
    pieces.open("assistant")
    return pieces.finish()


def encode_watch_start(tokenizer: Tokenizer, *, system: str = "") -> list[int]:
    """Ids before the first frame of a message that frames are added to while they come.

    Followed by `encode_watched_frame` for each and `encode_watched_question`, they are `encode_chat` of one message
    by the user, its frames written as `place_frames` does without a sentence about the whole video. Each piece begins
    with the new line that ends the one before: what is behind it is then tokenized as in the whole text.

    Raises:
        PromptError: the system prompt is no text.
    """
    require_text(system, "the system prompt")
    pieces = _Pieces(tokenizer, ())
    if system:
        pieces.block("system", system)
    pieces.special(IM_START)
    pieces.text("user")
    return pieces.finish()


def encode_watched_frame(tokenizer: Tokenizer, time_s: float, image_tokens: int) -> list[int]:
    """Ids of a frame behind a watched prompt: a new line, `[MM:SS.ss]:` and the picture.

    Raises:
        PromptError: `time_s` is no time.
    """
    line = place_frames("", [time_s])
    pieces = _Pieces(tokenizer, [image_tokens])
    pieces.text("\n")
    pieces.with_images(line.removesuffix("\n"))
    return pieces.finish()


def encode_watched_question(
    tokenizer: Tokenizer,
    question: str,
    image_tokens: Sequence[int] = (),
    *,
    style: MultiImageStyle = "inline",
) -> list[int]:
    """Ids of a question behind a watched prompt, up to where the answer begins.

    Raises:
        PromptError: as `encode_chat`.
    """
    message = Message("user", question, len(image_tokens))
    pieces = _Pieces(tokenizer, image_tokens)
    pieces.text("\n")
    if message.images:
        pieces.with_images(place_images(message.text, message.images, style))
    else:
        pieces.text(message.text)
    pieces.close()
    pieces.open("assistant")
    return pieces.finish()


def place_images(text: str, images: int, style: MultiImageStyle = "inline") -> str:
    """The text with one `<image>` per image; when it has none, they are put before it.

    Raises:
        PromptError: it has some, but not one per image.
    """
    places = text.count(IMAGE_PLACE)
    if places == images or images == 0:
        return text
    if places:
        raise PromptError(
            f"the text has {places} {IMAGE_PLACE} places for {images} images: write one per image, "
            "or none to put them all before the text"
        )
    if style == "numbered" and images > 1:
        return "".join(f"Image-{index}: {IMAGE_PLACE}\n" for index in range(1, images + 1)) + text
    return f"{IMAGE_PLACE}\n" * images + text


def place_frames(
    text: str,
    times_s: Sequence[float | None],
    *,
    duration_s: float | None = None,
    fps: float | None = None,
    style: VideoStyle = "inline",
) -> str:
    """The text behind one `<image>` per video frame, each with its timestamp.

    Args:
        text: the question.
        times_s: when each frame was seen, in seconds; None for a frame whose time is unknown.
        duration_s: length of the video; with `fps` it gives the sentence about the whole video.
        fps: frames per second at which the frames were sampled.
        style: the protocol's.

    Raises:
        PromptError: no frames, times that are negative or not in order, or only one of duration and fps.
    """
    _check_times(times_s)
    prefix = ""
    if (duration_s is None) != (fps is None):
        raise PromptError(
            "the sentence about the whole video needs both its duration_s and its fps: give both or none"
        )
    if duration_s is not None and fps is not None:
        if not (_seconds(duration_s) and _seconds(fps) and fps > 0):
            raise PromptError(
                f"duration_s {shown(duration_s)} and fps {shown(fps)} must be positive and finite numbers"
            )
        minutes, seconds = divmod(int(duration_s), 60)
        prefix = (
            f"The time range of this video is [00:00-{minutes:02d}:{seconds:02d}], and the following is "
            f"a series of {len(times_s)} frames sampled at {round(float(fps), 1)} FPS.\n"
        )
    frames = [_frame(index, time_s, style) for index, time_s in enumerate(times_s, start=1)]
    return f"{prefix}{''.join(frames)}{text}"


def timestamp(time_s: float) -> str:
    """`MM:SS.ss`, minutes going on beyond 59, as upstream writes it: 59.996 seconds are `00:60.00` there."""
    return f"{int(time_s // 60):02d}:{time_s % 60:05.2f}"


def _frame(index: int, time_s: float | None, style: VideoStyle) -> str:
    if style == "numbered":
        name = f"Frame-{index}: " if time_s is None else f"Frame{index} is at [{timestamp(time_s)}]:"
    else:
        name = "" if time_s is None else f"[{timestamp(time_s)}]:"
    return f"{name}{IMAGE_PLACE}\n"


def _check_times(times_s: Sequence[float | None]) -> None:
    if not times_s:
        raise PromptError("a video needs at least one frame")
    known = [time_s for time_s in times_s if time_s is not None]
    if not all(map(_seconds, known)) or known != sorted(known):
        raise PromptError(f"frame times {shown(known)} must be seconds from 0 on, in order")


def _seconds(value: object) -> bool:
    return is_real(value) and 0 <= value < _ENDLESS_S


class _Pieces:
    """Collects text, control tokens and images; neighbouring text is encoded together."""

    def __init__(self, tokenizer: Tokenizer, image_tokens: Sequence[int]) -> None:
        if any(count < 1 for count in image_tokens):
            raise PromptError(
                f"image_tokens is {list(image_tokens)}; each image has at least one visual token"
            )
        self._tokenizer = tokenizer
        self._image_tokens = image_tokens
        self._images = 0
        self._pending = ""
        self._ids: list[int] = []

    def text(self, text: str) -> None:
        self._pending += text

    def special(self, token: str, count: int = 1) -> None:
        self._flush()
        self._ids += [self._tokenizer.special_id(token)] * count

    def open(self, role: str) -> None:
        self.special(IM_START)
        self.text(f"{role}\n")

    def close(self) -> None:
        self.special(IM_END)
        self.text("\n")

    def block(self, role: str, text: str) -> None:
        self.open(role)
        self.text(text)
        self.close()

    def message(self, message: Message, style: MultiImageStyle) -> None:
        if message.images == 0:
            self.block(message.role, message.text)
            return
        self.open(message.role)
        self.with_images(place_images(message.text, message.images, style))
        self.close()

    def with_images(self, text: str) -> None:
        """Text whose places all are of images."""
        first, *rest = text.split(IMAGE_PLACE)
        self.text(first)
        for segment in rest:
            self._image()
            self.text(segment)

    def finish(self) -> list[int]:
        self._flush()
        if self._images != len(self._image_tokens):
            raise PromptError(
                f"the messages bring {self._images} images and image_tokens has {len(self._image_tokens)}: "
                "give one count per image"
            )
        return self._ids

    def _image(self) -> None:
        if self._images < len(self._image_tokens):
            self.special(IMG_START)
            self.special(IMG_CONTEXT, self._image_tokens[self._images])
            self.special(IMG_END)
        self._images += 1

    def _flush(self) -> None:
        if self._pending:
            self._ids += self._tokenizer.encode(self._pending)
            self._pending = ""

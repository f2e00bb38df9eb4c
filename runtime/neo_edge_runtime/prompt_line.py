"""One line of a file of prompts: its JSON object, read field by field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import cast

from neo_edge.errors import ImageError, InputError, PromptError
from neo_edge.frame_sampling import FrameSampling
from neo_edge.json_file import parse_line
from neo_edge.media_places import FrameTimes, place_media
from neo_edge.options import SamplingOptions
from neo_edge.prompt import place_frames
from neo_edge.shown import shown
from neo_edge_runtime.batch_request import Request
from neo_edge_runtime.image_input import check_head
from neo_edge_runtime.video import Frame

_FIELDS = (
    "prompt",
    "id",
    "images",
    "times_s",
    "duration_s",
    "fps",
    "system",
    "options",
    "videos",
    "frame_sampling",
)
_ENDLESS = 1e38  # what is beyond is no number of seconds
_CHOICES = tuple(field.name for field in fields(FrameSampling))
_OPTIONS = tuple(field.name for field in fields(SamplingOptions))


class PromptLine:
    """One line's object; everything that asking would refuse without a model is refused here."""

    def __init__(self, where: str, text: str) -> None:
        self._where = where
        try:
            found = parse_line(text)
        except ValueError as error:
            raise self._wrong(f"not JSON ({error}): write one object a line") from error
        if not isinstance(found, dict) or "prompt" not in found or not found.keys() <= set(_FIELDS):
            what = shown(sorted(found)) if isinstance(found, dict) else type(found).__name__
            raise self._wrong(
                f"found {what}; an object with a prompt is needed, and may have {', '.join(_FIELDS[1:])}"
            )
        self._fields = cast("dict[str, object]", found)

    @property
    def id(self) -> str | int | None:
        """What the user calls it."""
        found = self._fields.get("id")
        if found is None or (isinstance(found, str | int) and not isinstance(found, bool)):
            return found
        raise self._wrong(f"id is {shown(found)}; write a text or a whole number")

    def request(
        self, folder: Path, system: str | None, options: SamplingOptions, vocab_size: int | None
    ) -> Request:
        """What is asked; arguments as of `PromptFile`, and errors as of its `check`."""
        images = [folder / name for name in self._names("images")]
        videos = self._videos(folder)
        for image in images:
            try:
                check_head(image)
            except ImageError as error:
                raise ImageError(f"{self._where}: {error}") from error
        times = self._times(len(images))
        duration_s, fps = self._number("duration_s"), self._number("fps")
        own_system = self._fields.get("system")
        if not (own_system is None or isinstance(own_system, str)):
            raise self._wrong(f"system is {shown(own_system)}; write it as text")
        prompt = self._prompt()
        if isinstance(prompt, str):
            if videos and times is not None:
                raise self._wrong("times_s makes the images frames, and frames cannot stand beside videos")
            check_places(
                prompt,
                len(images),
                times_s=times,
                duration_s=duration_s,
                fps=fps,
                where=self._where,
                videos=len(videos),
            )
        else:
            self._check_ids(prompt, vocab_size)
            system = None  # token ids hold theirs
        return Request(
            prompt,
            images if times is None else (),
            None if times is None else [Frame(*frame) for frame in zip(images, times, strict=True)],
            duration_s,
            fps,
            system if own_system is None else own_system,
            self._options(options),
            self._where,
            videos,
            self._frame_sampling(),
        )

    def _check_ids(self, prompt: list[int], vocab_size: int | None) -> None:
        adding = ("system", "times_s", "duration_s", "fps", "videos")
        beside = [field for field in adding if field in self._fields]
        if beside:
            raise self._wrong(
                f"a prompt of token ids already holds what {', '.join(beside)} would add: leave them out"
            )
        beyond = [token for token in prompt if token < 0 or (vocab_size is not None and token >= vocab_size)]
        if beyond:
            raise self._wrong(
                f"token id {shown(beyond[0])} is outside the vocabulary 0..{(vocab_size or 0) - 1}: use this model's "
                "tokenizer"
            )

    def _prompt(self) -> str | list[int]:
        prompt = self._fields["prompt"]
        if isinstance(prompt, str):
            return prompt
        if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
            return cast("list[int]", prompt)
        raise self._wrong(f"prompt is {shown(prompt)}; write a text, or a list of token ids")

    def _names(self, field: str) -> list[str]:
        names = self._fields.get(field, [])
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return cast("list[str]", names)
        raise self._wrong(f"{field} is {shown(names)}; write a list of file names")

    def _videos(self, folder: Path) -> list[Path]:
        videos = [folder / name for name in self._names("videos")]
        missing = [video for video in videos if not video.is_file()]
        if missing:
            raise self._wrong(f"{missing[0]} is no file: give the path of a video file")
        return videos

    def _frame_sampling(self) -> FrameSampling | None:
        own = self._fields.get("frame_sampling")
        if own is None:
            return None
        if not isinstance(own, dict) or not own.keys() <= set(_CHOICES):
            found = shown(sorted(own) if isinstance(own, dict) else own)
            raise self._wrong(
                f"frame_sampling has {found}; write an object with some of {', '.join(_CHOICES)}"
            )
        try:
            return FrameSampling(**own)
        except (InputError, TypeError) as error:
            raise self._wrong(f"frame_sampling: {error}") from error

    def _times(self, images: int) -> list[float] | None:
        times = self._fields.get("times_s")
        if times is None:
            return None
        if isinstance(times, list) and len(times) == images and all(map(_is_number, times)):
            return [float(one) for one in times]
        raise self._wrong(
            f"times_s is {shown(times)}; write a number of seconds for each of the {images} images"
        )

    def _number(self, field: str) -> float | None:
        value = self._fields.get(field)
        if value is None:
            return None
        if _is_number(value):
            return float(cast("float", value))
        raise self._wrong(f"{field} is {shown(value)}; write a number")

    def _options(self, options: SamplingOptions) -> SamplingOptions:
        own = self._fields.get("options", {})
        if not isinstance(own, dict) or not own.keys() <= set(_OPTIONS):
            found = shown(sorted(own) if isinstance(own, dict) else own)
            raise self._wrong(f"options has {found}; write an object with some of {', '.join(_OPTIONS)}")
        try:
            return replace(options, **own)
        except (InputError, TypeError) as error:
            raise self._wrong(f"options: {error}") from error

    def _wrong(self, what: str) -> InputError:
        return InputError(f"{self._where}: {what}")


def check_places(
    prompt: str,
    images: int,
    *,
    times_s: Sequence[float] | None,
    duration_s: float | None,
    fps: float | None,
    where: str,
    videos: int = 0,
) -> None:
    """Raises what asking would raise, hours later, about a question and its pictures.

    Args:
        prompt: the question.
        images: how many pictures it has.
        times_s: their times, when they are frames of a video.
        duration_s: length of that video in seconds.
        fps: frames per second at which the frames were taken.
        where: what the message begins with.
        videos: how many video files it has.

    Raises:
        PromptError: they do not fit each other.
    """
    try:
        if times_s is not None:
            prompt = place_frames(prompt, times_s, duration_s=duration_s, fps=fps)
        elif duration_s is not None or fps is not None:
            raise PromptError(
                "duration_s and fps describe a video, and times_s is missing: give each image its time"
            )
        place_media(prompt, images, [FrameTimes([None])] * videos)
    except PromptError as error:
        raise PromptError(f"{where}: {error}") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _ENDLESS

"""What an answer says, as data: boxes, points, a choice, a number.

Where a text has an `Answer:`, only what stands behind the last one counts, unless that holds nothing of the kind.
Half-written brackets are passed over, so a text may be read while it is made.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from neo_edge.errors import AnswerError
from neo_edge.shown import shown
from neo_edge_runtime.constraints import Choices
from neo_edge_runtime.coordinates import THOUSANDTHS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from neo_edge_runtime.coordinates import Box, CoordinateScale, Picture, Point

_NUMBER = r"[-+]?\d{1,15}(?:\.\d{0,15})?"
_ALONE = re.compile(
    r"(?<![\w.,+-])(?<!\d:)[-+]?(?:\d{1,3}(?:,\d{3})+|\d{1,300})(?:\.\d{1,300})?(?!\w|[.,:-]\d)"
)
_ANSWER = re.compile(r"answer\s*:\s*(.*)", re.IGNORECASE)
_LETTER = re.compile(r"\(?([A-Za-z])(?:[).:]|$)")
_EMPTY = re.compile(r"(?:<box>\s*)?\[\s*\](?:\s*</box>)?")
_BETWEEN = re.compile(r"[\s,;]*")  # two brackets of one list
_REF = re.compile(r"<ref>([^<]*)</ref>\s*(?:<box>)?[\s\[(]*$")
# A tokenizer that calls <ref> and <box> special leaves them out of the text: `red ball[[10, 20, 30, 40]]`.
_BARE = re.compile(r"([^\[\](){}<>\"'\n]*[^\[\](){}<>\"'\n\s:=])\[$")
_LABEL_REACH = 300  # characters before a box in which its label is looked for
_Found = TypeVar("_Found")


def final_answer(text: str) -> str:
    """The words behind the last `Answer:`, on its line; all of the text when there is none."""
    found = _ANSWER.findall(text)
    return str(found[-1] if found else text).strip()


def number_lists(text: str, count: int) -> list[tuple[float, ...]]:
    """Every `[a, b, ...]` or `(a, b, ...)` of so many numbers in a text, as written."""
    return [numbers for numbers, _ in _lists(text, count)]


def parse_boxes(text: str, picture: Picture, *, scale: CoordinateScale = THOUSANDTHS) -> tuple[Box, ...]:
    """The boxes of an answer, `[x1, y1, x2, y2]`, one or several, in pixels of the picture.

        answer = model.generate("Where is the red ball?", images=[photo])
        for box in parse_boxes(answer.text, photo):
            print(box.label, box.centre)

    A box has the label that `<ref>...</ref>` in front of its list gives. `<box>[]</box>` is an answer without boxes.

    Args:
        text: the answer.
        picture: that the model was shown, at its own size (a PIL image or an array), or its (width, height).
        scale: what the model's numbers mean.

    Raises:
        AnswerError: there is no box.
        InputError: `picture` is none.
    """

    def boxes(part: str) -> tuple[Box, ...] | None:
        found = tuple(scale.box(numbers, picture, label) for numbers, label in _lists(part, 4))
        return found if found or _says_none(part) else None

    return _read(text, boxes, "box such as [[x1, y1, x2, y2]]")


def parse_points(text: str, picture: Picture, *, scale: CoordinateScale = THOUSANDTHS) -> tuple[Point, ...]:
    """The points of an answer, `[x, y]` or `(x, y)`, in pixels of the picture; all else as `parse_boxes`."""

    def points(part: str) -> tuple[Point, ...] | None:
        found = tuple(scale.point(numbers, picture, label) for numbers, label in _lists(part, 2))
        return found if found or _says_none(part) else None

    return _read(text, points, "point such as [[x, y]]")


def parse_number(text: str) -> float:
    """The one number of an answer; thousands may have commas, and brackets of coordinates do not count.

    Raises:
        AnswerError: there is none, or several that differ.
    """

    def number(part: str) -> float | None:
        found = {float(each.replace(",", "")) for each in _ALONE.findall(_without_lists(part))}
        if len(found) > 1:
            raise AnswerError(f"the answer {shown(text)} has {len(found)} numbers, and one was looked for")
        return found.pop() if found else None

    return _read(text, number, "number", on_one_line=True)


def parse_choice(text: str, choices: Choices | Iterable[str]) -> str:
    """Which of the choices an answer names, as it was given: alone, by its letter (`B`, `(b)`), or among other words.

    Case, a full stop and repeated spaces do not count.

    Raises:
        AnswerError: it names none, or several.
        ConstraintError: there are no choices, or two are the same.
    """
    options = (choices if isinstance(choices, Choices) else Choices(choices)).options
    plain = [_plain(option) for option in options]

    def choice(part: str) -> str | None:
        if part.strip() in options:
            return part.strip()
        said = _plain(part)
        if said in plain:
            return options[plain.index(said)]
        letter = _LETTER.match(part.strip())
        index = ord(letter[1].upper()) - ord("A") if letter else len(options)
        if index < len(options):
            return options[index]
        named = _named(said, plain)
        if len(named) > 1:
            raise AnswerError(
                f"the answer {shown(text)} names {len(named)} of the choices: bind it with Choices"
            )
        return options[named[0]] if named else None

    return _read(text, choice, f"choice of {shown(list(options))}", on_one_line=True)


def _read(text: str, find: Callable[[str], _Found | None], what: str, *, on_one_line: bool = False) -> _Found:
    """What the last answer in the text says, else what the whole text says."""
    answers = list(_ANSWER.finditer(text))
    if answers:
        found = find(final_answer(text) if on_one_line else text[answers[-1].start(1) :])
        if found is not None:
            return found
    found = find(text)
    if found is None:
        raise AnswerError(f"the answer {shown(text)} holds no {what}")
    return found


def _lists(text: str, count: int) -> Iterator[tuple[tuple[float, ...], str | None]]:
    """Brackets of so many numbers, each with its label."""
    end, label = 0, None
    for match in _brackets(count).finditer(text):
        gap = text[end : match.start()]
        if not (end and _BETWEEN.fullmatch(gap)):
            label = _label(gap)
        end = match.end()
        yield tuple(float(number) for number in match[1].split(",")), label


def _brackets(count: int) -> re.Pattern[str]:
    numbers = r"\s*,\s*".join([_NUMBER] * count)
    return re.compile(rf"[\[(]\s*({numbers})\s*[\])]")


def _label(before: str) -> str | None:
    near = before[-_LABEL_REACH:]
    found = _REF.search(near) or _BARE.search(near)
    return found[1].strip() or None if found else None


def _says_none(part: str) -> bool:
    return "<box>[]</box>" in part or _EMPTY.fullmatch(part.strip()) is not None


def _without_lists(text: str) -> str:
    for count in (2, 4):
        text = _brackets(count).sub(" ", text)
    return text


def _named(said: str, plain: Sequence[str]) -> list[int]:
    """Places of the options that stand in a text as whole words; one within a longer one does not count."""
    found: list[int] = []
    for place in sorted(range(len(plain)), key=lambda place: -len(plain[place])):
        words = re.compile(rf"(?<!\w){re.escape(plain[place])}(?!\w)")
        if words.search(said):
            found.append(place)
            said = words.sub("\n", said)
    return found


def _plain(text: str) -> str:
    words = " ".join(text.casefold().split())
    return words.rstrip(". ") or words

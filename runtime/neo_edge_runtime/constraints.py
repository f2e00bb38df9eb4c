"""What an answer may be: one of a few choices, JSON of a schema, or text of a pattern."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from neo_edge.errors import ConstraintError
from neo_edge.shown import shown


@dataclass(frozen=True)
class Choices:
    """The answer is one of these, letter for letter; one may begin another.

        Choices(["turn left", "turn right"], after="Answer: ")

    With `after` the model first writes what it likes, up to these words, and then a choice: for models that find
    their answer by writing. `parse_choice` reads such an answer.
    """

    options: tuple[str, ...]
    after: str | None  # None: the choice alone is the answer

    def __init__(self, options: Iterable[str], *, after: str | None = None) -> None:
        """Takes a list or tuple of distinct texts.

        Raises:
            ConstraintError: there is none, one is empty or no Unicode text, or two are the same.
        """
        if isinstance(options, str) or not isinstance(options, Iterable):
            raise ConstraintError(
                f'choices are {shown(options)}; pass a list of texts, such as Choices(["left", "right"])'
            )
        found = tuple(options)
        if not found:
            raise ConstraintError("there are no choices: pass at least one")
        for option in found:
            if not isinstance(option, str) or not option or not _is_unicode(option):
                raise ConstraintError(
                    f"a choice is {shown(option)}; it must be Unicode text that is not empty"
                )
        twice = next((option for option, times in Counter(found).items() if times > 1), None)
        if twice is not None:
            raise ConstraintError(f"the choice {shown(twice)} is there twice: leave one out")
        if after is not None and not (isinstance(after, str) and after and _is_unicode(after)):
            raise ConstraintError(
                f"after is {shown(after)}; it must be Unicode text that is not empty, or None"
            )
        object.__setattr__(self, "after", after)
        object.__setattr__(self, "options", found)


@dataclass(frozen=True)
class JsonSchema:
    """The answer is JSON of this schema, written as `json.dumps` does; `Completion.json()` reads it.

    Keys stand in the schema's order. Keywords that cannot be held to are refused when the question is asked, and
    unknown ones are notes, as the standard has it.
    """

    schema: Mapping[str, object]

    def __post_init__(self) -> None:
        if not isinstance(self.schema, Mapping):
            raise ConstraintError(
                f'a schema is {shown(self.schema)}; pass an object, such as JsonSchema({{"type": "integer"}})'
            )
        _ = self.text

    @property
    def text(self) -> str:
        """The schema as JSON text; raises `ConstraintError` when it is none."""
        try:
            text = json.dumps(dict(self.schema), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConstraintError(f"a schema must be JSON values only ({error}): correct it") from error
        if not _is_unicode(text):
            raise ConstraintError("a schema holds half of a surrogate pair: pass Unicode text")
        return text


@dataclass(frozen=True)
class Regex:
    """The whole answer matches this pattern, as of Rust's `regex`: no look-around, no back-references."""

    pattern: str

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str) or not _is_unicode(self.pattern):
            raise ConstraintError(f"a pattern is {shown(self.pattern)}; it must be Unicode text")


Constraint = Choices | JsonSchema | Regex
"""What `constraint` takes."""


def one_constraint(
    constraint: Constraint | None, choices: Iterable[str] | None, schema: Mapping[str, object] | None
) -> Constraint | None:
    """The one of three that was given; None when none was.

    Raises:
        ConstraintError: two were given, or the one is none.
    """
    if sum(each is not None for each in (constraint, choices, schema)) > 1:
        raise ConstraintError("choices, schema and constraint bind the same answer: pass one of them")
    if choices is not None:
        return Choices(choices)
    return constraint if schema is None else JsonSchema(schema)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)

"""Arguments of verbs whose answers can be bound."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from neo_edge.errors import ConstraintError, InputError
from neo_edge.json_file import read_json_object

if TYPE_CHECKING:
    from neo_edge_runtime.constraints import Constraint


def add_constraint_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `constraint` reads."""
    group = parser.add_argument_group(
        "constraint", "the answer can be nothing else; needs the extra constrain; one of"
    )
    group.add_argument("--choices", metavar="A,B,...", help="one of these")
    group.add_argument("--schema", type=Path, metavar="FILE", help="JSON of the JSON schema in this file")
    group.add_argument("--pattern", metavar="REGEX", help="text that matches this as a whole")
    group.add_argument(
        "--after",
        metavar="TEXT",
        help="with --choices: the model first writes what it likes, up to this, such as 'Answer: '",
    )


def constraint(args: argparse.Namespace) -> Constraint | None:
    """What the arguments say.

    Raises:
        InputError: they say two things, or the file cannot be read.
        ConstraintError: what they say is no constraint.
    """
    given = [name for name in ("choices", "schema", "pattern") if getattr(args, name) is not None]
    if len(given) > 1:
        raise InputError(
            "--choices, --schema and --pattern are three ways to bind an answer: pass one of them"
        )
    if args.after is not None and given != ["choices"]:
        raise InputError("--after says where a choice stands: pass it with --choices")
    if not given:
        return None
    from neo_edge_runtime.constraints import Choices, JsonSchema, Regex

    if args.choices is not None:
        return Choices([choice.strip() for choice in args.choices.split(",")], after=args.after)
    if args.pattern is not None:
        return Regex(args.pattern)
    return JsonSchema(read_json_object(args.schema, ConstraintError, "give a file that holds a JSON schema"))

"""Random schemas that end by themselves, and whether a value is of one: as little of JSON Schema as they need."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

Schema = dict[str, object]
WORDS = ("left", "right", "größer", "红色的球", "a b", 'with "quotes"', "back\\slash", "🤖")


def random_schemas(count: int) -> Iterator[Schema]:
    rng = random.Random(6)
    return (_object(rng, depth=2) for _ in range(count))


def is_of(schema: Schema, value: object) -> bool:
    """Knows the keywords that `random_schemas` writes."""
    if "enum" in schema:
        options = schema["enum"]
        assert isinstance(options, list)
        return any(value == option and type(value) is type(option) for option in options)
    kind = schema["type"]
    if kind == "object":
        properties, required = schema["properties"], schema["required"]
        assert isinstance(properties, dict)
        assert isinstance(required, list)
        return (
            isinstance(value, dict)
            and set(required) <= set(value) <= set(properties)
            and list(value) == [name for name in properties if name in value]
            and all(is_of(properties[name], inner) for name, inner in value.items())
        )
    if kind == "array":
        items = schema["items"]
        assert isinstance(items, dict)
        return (
            isinstance(value, list)
            and _between(schema, "minItems", len(value), "maxItems")
            and all(is_of(items, inner) for inner in value)
        )
    if kind == "string":
        if not isinstance(value, str):
            return False
        pattern = schema.get("pattern")
        return (pattern is None or re.fullmatch(str(pattern), value) is not None) and (
            "maxLength" not in schema or _between(schema, "minLength", len(value), "maxLength")
        )
    if kind == "integer":
        return type(value) is int and _between(schema, "minimum", value, "maximum")
    return {"boolean": type(value) is bool, "null": value is None}[str(kind)]


def _between(schema: Schema, least: str, value: int, most: str) -> bool:
    low, high = schema[least], schema[most]
    assert isinstance(low, int)
    assert isinstance(high, int)
    return low <= value <= high


def _object(rng: random.Random, depth: int) -> Schema:
    names = rng.sample(["label", "box", "turn", "höhe", "n", "sure"], rng.randint(1, 3))
    return {
        "type": "object",
        "properties": {name: _value(rng, depth - 1) for name in names},
        "required": rng.sample(names, rng.randint(0, len(names))),
        "additionalProperties": False,
    }


def _value(rng: random.Random, depth: int) -> Schema:
    kind = rng.choice(["integer", "string", "pattern", "enum", "boolean", "null", "array", "object"])
    if kind == "object" and depth > 0:
        return _object(rng, depth)
    if kind == "array" and depth > 0:
        low = rng.randint(0, 2)
        return {
            "type": "array",
            "items": _value(rng, depth - 1),
            "minItems": low,
            "maxItems": low + rng.randint(0, 2),
        }
    if kind == "string":
        low = rng.randint(0, 2)
        return {"type": "string", "minLength": low, "maxLength": low + rng.randint(0, 4)}
    if kind == "pattern":
        return {"type": "string", "pattern": "^[a-c]{1,3}-[0-9]$"}
    if kind == "enum":
        return {"enum": rng.sample([*WORDS, 3, None, True], rng.randint(1, 4))}
    if kind in ("boolean", "null"):
        return {"type": kind}
    low = rng.randint(-50, 900)
    return {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 100)}

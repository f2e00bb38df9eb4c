"""JSON that comes with a checkpoint or from the user: read whole, or refused with the caller's own error."""

from __future__ import annotations

import json
from pathlib import Path

from neo_edge.errors import NeoEdgeError

_MAX_BYTES = 256 << 20  # twenty times Qwen's tokenizer.json, the largest of them


def read_json_object(
    path: Path, refusal: type[NeoEdgeError], cure: str = "fetch it again"
) -> dict[str, object]:
    """The object in a JSON file.

    Args:
        path: a file in UTF-8.
        refusal: what is raised when the file cannot be read, is larger than any such file, is not JSON, or holds
            something else than an object.
        cure: what the message tells to do then.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise refusal(f"{path} is larger than {_MAX_BYTES >> 20} MiB, which no such file is: {cure}")
        found = json.loads(data.decode("utf-8-sig"))
    except (
        OSError,
        ValueError,
        RecursionError,
    ) as error:  # bad UTF-8 and endless numbers are a ValueError, too
        raise refusal(f"{path} cannot be read as JSON ({error}): {cure}") from error
    if not isinstance(found, dict):
        raise refusal(f"{path} holds {type(found).__name__}, not an object: {cure}")
    return found


def read_lines(path: Path, refusal: type[NeoEdgeError]) -> list[tuple[int, str]]:
    """Number, from 1 on, and text of each line that is not blank; raises `refusal` when the file cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise refusal(
            f"{path} cannot be read ({error}): give a UTF-8 file with one JSON object a line"
        ) from error
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def parse_line(text: str) -> object:
    """What a line of JSON holds; raises `ValueError` where it is none, or spells half of a surrogate pair."""
    try:
        found: object = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError(str(error)) from error
    return found

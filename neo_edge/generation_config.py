"""`generation_config.json`, of which only the end tokens matter here."""

from __future__ import annotations

from pathlib import Path

from neo_edge.errors import ConfigError
from neo_edge.json_file import read_json_object
from neo_edge.shown import shown

GENERATION_CONFIG_FILE = "generation_config.json"


def token_ids(value: object, field: str) -> tuple[int, ...]:
    """The ids in a field that may hold one, a list of several, or nothing; raises `ConfigError` for others."""
    ids: dict[int, None] = {}  # each once, in the order of the file
    for index in value if isinstance(value, list | tuple) else [] if value is None else [value]:
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 1 << 31:
            raise ConfigError(
                f"{field} is {shown(value)}; a token id, a list of token ids, or null is needed: fetch the file again"
            )
        ids[index] = None
    return tuple(ids)


def read_end_tokens(directory: Path) -> tuple[int, ...]:
    """Every id that ends an answer, as `eos_token_id` of a checkpoint's `generation_config.json` says.

    Returns:
        Empty when there is no such file, or it says nothing.

    Raises:
        ConfigError: the file is broken.
    """
    path = directory / GENERATION_CONFIG_FILE
    if not path.is_file():
        return ()
    return token_ids(read_json_object(path, ConfigError).get("eos_token_id"), f"{path}: eos_token_id")

"""Typed access to the JSON objects of a manifest, with errors that name the field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TypeAlias, TypeVar, cast

from neo_edge.errors import BundleCorruptError
from neo_edge.shown import shown

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
"""Whatever JSON can hold."""

_Choice = TypeVar("_Choice", bound=str)
_MAX_NAME_BYTES, _MAX_PATH_BYTES = 255, 1024  # what file systems take


def check_relative_path(path: str) -> str:
    """The path itself, when it is relative, canonical, with forward slashes, and stays inside its folder.

    Raises:
        BundleCorruptError: it could lead out of the bundle, on this or another system.
    """
    pure = PurePosixPath(path)
    if (
        not path
        or pure.is_absolute()
        or str(pure) != path
        or ".." in pure.parts
        or any(character in path for character in "\\:\0")
        or path == "."
    ):
        raise BundleCorruptError(
            f"the manifest names the path {shown(path)}, which leads out of the bundle: do not use it"
        )
    size = len(path.encode(errors="surrogatepass"))
    if (
        size > _MAX_PATH_BYTES
        or max(len(part.encode(errors="surrogatepass")) for part in pure.parts) > _MAX_NAME_BYTES
        or not path.isprintable()
    ):
        raise BundleCorruptError(
            f"the manifest names the path {shown(path)} ({size} bytes), which no file system is sure to take: export "
            "again"
        )
    return path


class Fields:
    """One JSON object; every getter raises `BundleCorruptError` when the field is missing or of a wrong type."""

    def __init__(self, raw: object, name: str) -> None:
        if not isinstance(raw, dict):
            raise BundleCorruptError(
                f"bundle.json: {name} is {shown(raw)}; an object is needed: export again"
            )
        self._raw: dict[str, object] = raw
        self._prefix = f"{name}." if name else ""
        self._used: set[str] = set()

    def has(self, field: str) -> bool:
        """Whether an optional field is there."""
        return field in self._raw

    def string(self, field: str) -> str:
        value = self._get(field)
        if not isinstance(value, str) or not value:
            raise self._wrong(field, "text")
        return value

    def optional_string(self, field: str) -> str | None:
        return None if self._get(field) is None else self.string(field)

    def path(self, field: str) -> str:
        return check_relative_path(self.string(field))

    def choice(self, field: str, *allowed: _Choice) -> _Choice:
        value = self._get(field)
        for option in allowed:
            if value == option:
                return option
        raise self._wrong(field, " or ".join(allowed))

    def boolean(self, field: str) -> bool:
        value = self._get(field)
        if not isinstance(value, bool):
            raise self._wrong(field, "true or false")
        return value

    def integer(self, field: str) -> int:
        return self._count(field, self._get(field))

    def optional_integer(self, field: str) -> int | None:
        """None where it is null or missing."""
        self._used.add(field)
        return None if self._raw.get(field) is None else self.integer(field)

    def integers(self, field: str, *, count: int | None = None) -> tuple[int, ...]:
        value = self._get(field)
        if not isinstance(value, list) or count not in (None, len(value)):
            raise self._wrong(field, f"a list of {count or ''} whole numbers".replace("  ", " "))
        return tuple(self._count(field, item) for item in value)

    def section(self, field: str) -> Fields:
        return Fields(self._get(field), f"{self._prefix}{field}")

    def optional_section(self, field: str) -> Fields | None:
        return None if self._get(field) is None else self.section(field)

    def sections(self) -> dict[str, Fields]:
        """All fields of this object, each an object."""
        return {name: self.section(name) for name in self._raw}

    def free(self, field: str) -> Mapping[str, JsonValue]:
        """An object whose contents are not ours to check."""
        self.section(field)
        return cast("dict[str, JsonValue]", self._raw[field])

    def malformed(self, field: str, why: str) -> BundleCorruptError:
        """The error for a field whose parts do not fit together."""
        return BundleCorruptError(
            f"bundle.json: {self._prefix}{field} is impossible: {why}; copy the bundle again"
        )

    def no_others(self) -> None:
        """Raises when the object has fields that nobody asked for."""
        others = sorted(self._raw.keys() - self._used)
        if others:
            raise BundleCorruptError(
                f"bundle.json has unknown fields {', '.join(self._prefix + name for name in others)}: "
                "install the release that wrote the bundle, or export again"
            )

    def _get(self, field: str) -> object:
        if field not in self._raw:
            raise BundleCorruptError(f"bundle.json lacks {self._prefix}{field}: copy or export again")
        self._used.add(field)
        return self._raw[field]

    def _count(self, field: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self._wrong(field, "a whole number, 0 or above")
        return value

    def _wrong(self, field: str, wanted: str) -> BundleCorruptError:
        found = shown(self._raw[field])
        return BundleCorruptError(
            f"bundle.json: {self._prefix}{field} is {found}; {wanted} is needed: export again"
        )

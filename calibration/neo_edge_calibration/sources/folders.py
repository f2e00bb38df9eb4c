"""Folders of pictures and of videos, asked about in the words of `PROMPTS`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Literal

from neo_edge.errors import CalibrationDataError
from neo_edge_calibration.sources.conversation import Conversation, PromptSource, Turn

PICTURES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
VIDEOS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"})

_Kind = Literal["pictures", "videos"]
_KINDS: tuple[tuple[_Kind, frozenset[str]], ...] = (("pictures", PICTURES), ("videos", VIDEOS))

# Describing and locating: what most questions about pictures come down to, in the forms that NEO-ov was trained on.
PROMPTS = (
    "Describe this picture.",
    "What is in this picture? Name every object.",
    "Where is the largest object? Answer with its bounding box.",
    "List each object with its bounding box, as <ref>name</ref><box>[[x1, y1, x2, y2]]</box>.",
    "How many objects are there, and what colours do they have?",
    "What is to the left, and what is to the right?",
    "Is anything here that was moved, spilt or broken? Answer yes or no, then explain.",
    "Read all the text in this picture.",
)
VIDEO_PROMPTS = (
    "Describe what happens.",
    "When does something move first? Answer with the time.",
    "What changes between the first frame and the last?",
    "Which object moves, and in which direction?",
)


def folder_source(folder: Path, seed: int) -> PromptSource:
    """The pictures, or else the videos, of a folder and the folders in it, in an order that the seed decides.

    Raises:
        CalibrationDataError: the folder holds neither, or cannot be read.
    """
    try:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path, folder))
    except OSError as error:
        raise CalibrationDataError(f"{folder} cannot be read ({error}): give another folder") from error
    for kind, suffixes in _KINDS:
        found = [path for path in files if path.suffix.lower() in suffixes]
        if found:
            Random(f"{seed}/{kind}").shuffle(found)
            return _source(folder, found, kind)
    held = f"{len(files)} files of other kinds" if files else "nothing"
    raise CalibrationDataError(
        f"{folder} holds {held}, no pictures ({_shown(PICTURES)}) and no videos ({_shown(VIDEOS)}): give a folder of "
        "either, or a .jsonl file of conversations"
    )


def _source(folder: Path, files: Sequence[Path], kind: _Kind) -> PromptSource:
    make = _picture if kind == "pictures" else _video
    makers = [
        partial(make, path, path.relative_to(folder).as_posix(), number) for number, path in enumerate(files)
    ]
    return PromptSource(f"{kind} in {folder.name}", makers, len(makers))


def _picture(path: Path, name: str, number: int) -> Conversation:
    return Conversation((Turn(PROMPTS[number % len(PROMPTS)], images=(path,)),), name)


def _video(path: Path, name: str, number: int) -> Conversation:
    return Conversation((Turn(VIDEO_PROMPTS[number % len(VIDEO_PROMPTS)], videos=(path,)),), name)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _shown(suffixes: frozenset[str]) -> str:
    return " ".join(sorted(suffixes))

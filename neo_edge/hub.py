"""Checkpoints by their Hugging Face id; the only place that uses the network, and only when asked for such an id.

Needs huggingface_hub (the extra `hub`). Weights, configs, templates and texts are fetched, never code or pickles.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from neo_edge.errors import HubError, MissingExtraError
from neo_edge.extras import require

FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt")

# Owner and name as the Hub allows them, and perhaps a branch, tag or commit.
_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?", re.ASCII)


@dataclass(frozen=True)
class HubId:
    """One published checkpoint."""

    repo: str  # owner/name
    revision: str | None = None  # branch, tag or commit; None: the default branch

    @property
    def download_line(self) -> str:
        """The shell command that fetches the same files into a folder named like the checkpoint."""
        revision = f" --revision {self.revision}" if self.revision else ""
        patterns = " ".join(f'--include "{pattern}"' for pattern in FILES)
        return f"hf download {self.repo}{revision} {patterns} --local-dir {self.repo.partition('/')[2]}"


Download = Callable[[HubId], str]  # gives the folder that holds the files


def parse_hub_id(text: str) -> HubId | None:
    """`owner/name` or `owner/name@revision`; None when the text is nothing of the kind."""
    found = _ID.fullmatch(text)
    return None if found is None else HubId(found["repo"], found["revision"])


def fetch_checkpoint(wanted: HubId, download: Download | None = None) -> Path:
    """The folder of a checkpoint's files, fetched unless huggingface_hub's cache holds them.

    Args:
        wanted: which one.
        download: None: huggingface_hub's `snapshot_download`.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        HubError: there is no network, no such checkpoint, or no permission.
        In both cases the message holds the command that gets the files.
    """
    cure = f"on a machine with a network run  {wanted.download_line}  and give that folder instead"
    errors: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError)
    if download is None:
        try:
            hub = require("huggingface_hub", extra="hub")
        except MissingExtraError as error:
            raise MissingExtraError(error.package, error.extra, otherwise=cure) from error
        download, errors = _snapshot(hub), (*errors, *_http_errors())
    try:
        return Path(download(wanted))
    except errors as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        raise HubError(
            f"{wanted.repo!r} is no local folder, and fetching it from Hugging Face failed ({reason}): "
            f"check the name and the network, or {cure}"
        ) from error


def _snapshot(hub: ModuleType) -> Download:
    def download(wanted: HubId) -> str:
        folder: str = hub.snapshot_download(wanted.repo, revision=wanted.revision, allow_patterns=list(FILES))
        return folder

    return download


def _http_errors() -> tuple[type[Exception], ...]:
    """The bases of huggingface_hub's own error, the one of its HTTP library among them (which changed over time)."""
    error = require("huggingface_hub.errors", extra="hub").HfHubHTTPError
    return tuple(
        base for base in error.__mro__ if issubclass(base, Exception) and base not in (Exception, OSError)
    )

"""Bundles whose files were changed by a test, and whose manifest shall know of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from neo_edge.bundle import read_bundle
from neo_edge.file_digest import digest_file
from neo_edge.manifest import FileEntry


def seal(root: Path, *paths: str) -> None:
    """Writes sizes and digests of these files as they are now."""
    manifest = read_bundle(root).manifest
    entries = {path: FileEntry((root / path).stat().st_size, digest_file(root / path)) for path in paths}
    text = replace(manifest, files={**manifest.files, **entries}).to_json()
    (root / "bundle.json").unlink()  # it may be a hard link
    (root / "bundle.json").write_text(text)

"""What a killed program leaves in a bundle."""

from __future__ import annotations

from pathlib import Path

from neo_edge.bundle import verify_bundle


def leftovers(bundle: Path) -> list[str]:
    """Files of a bundle that its manifest does not name, and hidden entries; the bundle is verified."""
    there = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    named = {"bundle.json", *verify_bundle(bundle).manifest.files}
    return sorted(there - named | {path.name for path in bundle.glob(".*")})

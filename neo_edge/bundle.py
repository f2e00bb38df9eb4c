"""A bundle on disk: opened and checked here, written whole by `BundleWriter` in `bundle_writer.py`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from neo_edge.bundle_writer import BundleWriter, is_partial
from neo_edge.engines import ENGINES_FOLDER
from neo_edge.errors import BundleCorruptError, BundleError
from neo_edge.file_digest import digest_file
from neo_edge.manifest import MANIFEST_FILE, FileEntry, Manifest, Variant, parse_manifest

__all__ = [
    "Bundle",
    "BundleWriter",
    "find_faults",
    "open_bundle",
    "read_bundle",
    "require_sound_variant",
    "verify_bundle",
]

_MAX_MANIFEST_BYTES = 64 << 20


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest is sound and whose files are there."""

    root: Path  # its directory, as it was given
    manifest: Manifest

    def path(self, relative: str) -> Path:
        """Where a file of the bundle stands; raises `BundleError` for one that the manifest does not list."""
        if relative not in self.manifest.files:
            raise BundleError(f"the bundle {self.root} has no file {relative!r}")
        return self.root / relative

    def variant(self, name: str) -> Variant:
        """The variant of that name; raises `BundleError` with the names there are."""
        try:
            return self.manifest.variants[name]
        except KeyError:
            names = ", ".join(self.manifest.variants) or "none"
            raise BundleError(f"the bundle {self.root} has no variant {name!r}: it has {names}") from None


def open_bundle(path: str | Path, *, verify: Literal["size", "sha256"] = "size") -> Bundle:
    """Opens the bundle in a directory.

    Args:
        path: the directory that holds `bundle.json`.
        verify: `size` compares the size of each file, which is quick and finds truncated copies;
            `sha256` reads every byte as well.

    Raises:
        BundleError: there is no bundle there.
        BundleVersionError: it was written with another schema.
        BundleCorruptError: its manifest is malformed, or files are missing, truncated or altered, or lead out
            of the bundle; the message lists them.
    """
    bundle = read_bundle(path)
    faults = find_faults(bundle, sha256=verify == "sha256")
    if faults:
        only_engines = all(fault.startswith(f"{ENGINES_FOLDER}/") for fault in faults)
        cure = (
            "Run neo-edge build on it, which makes them anew" if only_engines else "Copy or export it again"
        )
        raise BundleCorruptError(f"the bundle {bundle.root} is damaged: {'; '.join(faults)}. {cure}")
    return bundle


def verify_bundle(path: str | Path) -> Bundle:
    """Opens a bundle and compares the digest of every file; raises as `open_bundle` does."""
    return open_bundle(path, verify="sha256")


def find_faults(
    bundle: Bundle, *, sha256: bool, on_bytes: Callable[[int], object] | None = None
) -> list[str]:
    """What is wrong with the files of a bundle, one line each; empty when nothing is.

    Args:
        bundle: a bundle whose manifest was read.
        sha256: whether to read every file whose size is right.
        on_bytes: called with the number of bytes just read.
    """
    root = Path(os.path.realpath(bundle.root))
    faults = []
    for relative, entry in bundle.manifest.files.items():
        try:
            fault = _fault(root, root / relative, entry, on_bytes, sha256=sha256)
        except OSError as error:
            fault = f"cannot be read ({error})"
        if fault:
            faults.append(f"{relative} {fault}")
    return faults


def require_sound_variant(bundle: Bundle, name: str, *, token_table: bool = True) -> None:
    """Compares all files of a variant with their digests, for what is made from it.

    Args:
        bundle: a bundle whose manifest was read.
        name: of the variant.
        token_table: whether its table is needed, too.

    Raises:
        BundleError: there is no such variant.
        BundleCorruptError: a file is missing, truncated or altered.
    """
    variant = bundle.variant(name)
    folders = {PurePosixPath(graph).parent for graph in (variant.vision, variant.decoder)}
    tables = variant.token_embedding.files
    files = {
        path: entry
        for path, entry in bundle.manifest.files.items()
        if (token_table if path in tables else PurePosixPath(path).parent in folders)
    }
    faults = find_faults(Bundle(bundle.root, replace(bundle.manifest, files=files)), sha256=True)
    if faults:
        raise BundleCorruptError(
            f"the bundle {bundle.root} is damaged: {'; '.join(faults)}. Copy or export it again"
        )


def _fault(
    root: Path, path: Path, entry: FileEntry, on_bytes: Callable[[int], object] | None, *, sha256: bool
) -> str:
    if not Path(os.path.realpath(path)).is_relative_to(root):
        return (
            "is a link that leads out of the bundle (a Hugging Face cache is made of links: fetch the bundle with a "
            "local folder as target, or copy it with cp -rL)"
        )
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != entry.size_bytes:
        return f"has {size} bytes, the manifest says {entry.size_bytes}"
    if sha256 and digest_file(path, on_bytes) != entry.sha256:
        return "was altered: its sha256 differs from the manifest's"
    return ""


def read_bundle(path: str | Path) -> Bundle:
    """Reads a bundle's manifest without looking at its files; raises `BundleError` as `open_bundle` does."""
    root = Path(path)
    manifest = root / MANIFEST_FILE
    if is_partial(root):
        raise BundleError(f"{root} was left by an export that did not finish: delete it and export again")
    try:
        with manifest.open("rb") as file:
            data = file.read(_MAX_MANIFEST_BYTES + 1)
        if len(data) > _MAX_MANIFEST_BYTES:
            raise BundleCorruptError(f"{manifest} is larger than any manifest: copy or export again")
        return Bundle(root, parse_manifest(data.decode("utf-8")))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        found = "does not exist" if not root.exists() else f"holds no {MANIFEST_FILE}"
        raise BundleError(f"{root} {found}: give the directory that neo-edge export wrote") from error
    except UnicodeDecodeError as error:
        raise BundleCorruptError(f"{manifest} is not UTF-8 text: copy or export again") from error
    except OSError as error:
        raise BundleError(f"{manifest} cannot be read ({error}): check its owner and permissions") from error
    except ValueError as error:  # of a path that no file can have
        raise BundleError(
            f"{os.fspath(path)!r} cannot be a path ({error}): give the directory that neo-edge export wrote"
        ) from error

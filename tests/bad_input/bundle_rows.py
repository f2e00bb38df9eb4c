"""Broken bundles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bad_row import Action, Place, Row

import neo_edge
from neo_edge.bundle import Bundle, open_bundle, verify_bundle
from neo_edge.errors import (
    BackendError,
    BundleCorruptError,
    BundleError,
    BundleVersionError,
    TokenizerError,
)
from neo_edge.file_digest import digest_file

Damage = Callable[[Path], object]
Change = Callable[[dict[str, Any]], object]
DECODER, WEIGHTS, TABLE = "fp32/decoder.onnx", "fp32/decoder.onnx.data", "fp32/token_embedding.bin"
COPY = "Copy or export it again"


def damaged(
    broken: str, damage: Damage, error: type[Exception], *words: str, use: Damage = open_bundle
) -> Row:
    """A copy of the whole bundle, damaged, then opened."""

    def prepare(place: Place) -> Action:
        copy = place.folder / "copy.bundle"
        shutil.copytree(place.bundle, copy)
        damage(copy)
        return lambda: use(copy)

    return Row(broken, prepare, error, words)


def manifest(change: Change) -> Damage:
    def damage(bundle: Path) -> None:
        path = bundle / "bundle.json"
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    return damage


def manifest_text(change: Callable[[str], str]) -> Damage:
    return lambda bundle: (bundle / "bundle.json").write_text(change((bundle / "bundle.json").read_text()))


def truncated(relative: str, share: float) -> Damage:
    def damage(bundle: Path) -> None:
        data = (bundle / relative).read_bytes()
        (bundle / relative).write_bytes(data[: int(len(data) * share)])

    return damage


def flipped(relative: str, place: int) -> Damage:
    def damage(bundle: Path) -> None:
        data = bytearray((bundle / relative).read_bytes())
        data[place] ^= 0x10
        (bundle / relative).write_bytes(data)

    return damage


def linked_out(relative: str) -> Damage:
    """As a Hugging Face cache has it."""

    def damage(bundle: Path) -> None:
        blob = bundle.parent / "blob"
        (bundle / relative).rename(blob)
        (bundle / relative).symlink_to(Path("../../blob" if "/" in relative else "../blob"))

    return damage


def replaced(relative: str, content: bytes) -> Damage:
    """Other content, and a manifest that fits it."""

    def damage(bundle: Path) -> None:
        (bundle / relative).write_bytes(content)
        entry = {"size_bytes": len(content), "sha256": digest_file(bundle / relative)}
        manifest(lambda data: data["files"].update({relative: entry}))(bundle)

    return damage


def load(bundle: Path) -> object:
    with neo_edge.load(bundle, threads=1) as model:
        return model.config


def load_verified(bundle: Path) -> object:
    return neo_edge.load(bundle, threads=1, verify="sha256")


def variant(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = data["variants"]["fp32"]
    return found


def opens(found: object) -> bool:
    return isinstance(found, Bundle)


def _flipped_but_opened(place: Place) -> Action:
    copy = place.folder / "copy.bundle"
    shutil.copytree(place.bundle, copy)
    flipped(WEIGHTS, 5000)(copy)
    return lambda: open_bundle(copy)


def _no_path(name: str) -> Callable[[Place], Action]:
    return lambda place: lambda: open_bundle(f"{place.folder}/{name}")


def _leftover(place: Place) -> Action:
    left = place.folder / ".robot.bundle.partial-abcd"
    shutil.copytree(place.bundle, left)
    return lambda: open_bundle(left)


def _a_file(place: Place) -> Action:
    path = place.folder / "robot.bundle"
    path.write_text("?")
    return lambda: open_bundle(path)


def _huge_manifest(bundle: Path) -> None:
    with (bundle / "bundle.json").open("wb") as file:
        file.truncate((64 << 20) + 1)


def _folder_for_manifest(bundle: Path) -> None:
    (bundle / "bundle.json").unlink()
    (bundle / "bundle.json").mkdir()


CORRUPT = BundleCorruptError
BUNDLE_ROWS = (
    Row("no such folder", _no_path("absent"), BundleError, ("does not exist", "give the directory")),
    Row("NUL in the path", _no_path("a\0b"), BundleError, ("cannot be a path", "give the directory")),
    Row("half a surrogate pair in the path", _no_path("a\ud800b"), BundleError, ("cannot be a path",)),
    Row(
        "a name of 300 letters in the path", _no_path("x" * 300), BundleError, ("too long", "check its owner")
    ),
    Row("a file in its place", _a_file, BundleError, ("holds no bundle.json", "give the directory")),
    Row("left by a killed export", _leftover, BundleError, ("did not finish", "delete it and export again")),
    damaged("no manifest", lambda b: (b / "bundle.json").unlink(), BundleError, "holds no bundle.json"),
    damaged("a folder as manifest", _folder_for_manifest, BundleError, "holds no bundle.json"),
    damaged("an empty manifest", truncated("bundle.json", 0), CORRUPT, "not readable JSON", "export again"),
    damaged("half a manifest", truncated("bundle.json", 0.5), CORRUPT, "not readable JSON", "copy or export"),
    damaged(
        "a manifest of zeros", lambda b: (b / "bundle.json").write_bytes(bytes(99)), CORRUPT, "not readable"
    ),
    damaged(
        "a manifest in Latin-1",
        lambda b: (b / "bundle.json").write_bytes(b'{"\xe4": 1}'),
        CORRUPT,
        "not UTF-8",
    ),
    damaged("a manifest that is a list", manifest_text(lambda _: "[]"), CORRUPT, "no schema_version"),
    damaged("an endless manifest", _huge_manifest, CORRUPT, "larger than any manifest", "export again"),
    damaged(
        "a manifest nested 100,000 deep", manifest_text(lambda _: "[" * 100_000), CORRUPT, "not readable JSON"
    ),
    damaged(
        "a number of 5,000 digits",
        manifest_text(lambda t: t.replace("320", "3" * 5000, 1)),
        CORRUPT,
        "readable",
    ),
    damaged(
        "NaN in the manifest",
        manifest_text(lambda t: t.replace("1000000.0", "NaN")),
        CORRUPT,
        "no JSON number",
    ),
    damaged(
        "an infinite rope_theta",
        manifest_text(lambda t: t.replace("1000000.0", "1e999")),
        CORRUPT,
        "rope_theta",
    ),
    damaged(
        "a newer schema",
        manifest(lambda d: d.update(schema_version=2)),
        BundleVersionError,
        "version 2",
        "install",
    ),
    damaged(
        "a schema in words",
        manifest(lambda d: d.update(schema_version="1")),
        BundleVersionError,
        "reads version 1",
    ),
    damaged(
        "an unknown field", manifest(lambda d: d.update(extra=1)), CORRUPT, "unknown fields extra", "install"
    ),
    damaged(
        "a missing field", manifest(lambda d: d.pop("variants")), CORRUPT, "lacks variants", "export again"
    ),
    damaged(
        "a model without heads",
        manifest(lambda d: d["model"]["decoder"].pop("num_heads")),
        CORRUPT,
        "num_heads",
    ),
    damaged(
        "a model of 10^12 layers",
        manifest(lambda d: d["model"]["decoder"].update(num_layers=10**12)),
        CORRUPT,
        "num_hidden_layers",
        "at most 1024",
    ),
    damaged(
        "a path out of the bundle",
        manifest(lambda d: variant(d).update(decoder="../x")),
        CORRUPT,
        "leads out",
    ),
    damaged(
        "an absolute path", manifest(lambda d: variant(d).update(vision="/etc/passwd")), CORRUPT, "leads out"
    ),
    damaged(
        "a Windows path", manifest(lambda d: variant(d).update(vision="..\\x.onnx")), CORRUPT, "leads out"
    ),
    damaged(
        "a name of 300 letters", manifest(lambda d: variant(d).update(vision="x" * 300)), CORRUPT, "300 bytes"
    ),
    damaged(
        "half a surrogate pair in a name",
        manifest(lambda d: variant(d).update(vision="\ud800")),
        CORRUPT,
        "path",
    ),
    damaged(
        "a file without a digest", manifest(lambda d: d["files"].pop(DECODER)), CORRUPT, "no digest", "export"
    ),
    damaged(
        "a token id beyond the vocabulary",
        manifest(lambda d: d["special_tokens"].update(img_end=320)),
        CORRUPT,
        "ends at 319",
        "export again",
    ),
    damaged(
        "an embedding turned on its side",
        manifest(lambda d: variant(d)["token_embedding"].update(shape=[64, 320])),
        CORRUPT,
        "the model needs [320, 64]",
        "export again",
    ),
    damaged("truncated weights", truncated(WEIGHTS, 0.9), CORRUPT, "the manifest says", COPY),
    damaged("missing weights", lambda b: (b / WEIGHTS).unlink(), CORRUPT, f"{WEIGHTS} is missing", COPY),
    damaged(
        "longer weights",
        lambda b: (b / WEIGHTS).write_bytes(bytes(10**6)),
        CORRUPT,
        "the manifest says",
        COPY,
    ),
    damaged("a missing folder", lambda b: shutil.rmtree(b / "fp32"), CORRUPT, "vision.onnx is missing", COPY),
    damaged("weights that are a link out", linked_out(WEIGHTS), CORRUPT, "leads out", "cp -rL"),
    damaged("a folder that is a link out", linked_out("fp32"), CORRUPT, "leads out", "cp -rL"),
    damaged(
        "a flipped bit, verified", flipped(WEIGHTS, 5000), CORRUPT, "was altered", COPY, use=verify_bundle
    ),
    damaged(
        "a flipped bit, verified by load", flipped(TABLE, 7), CORRUPT, "was altered", COPY, use=load_verified
    ),
    Row("a flipped bit, not verified: opens", _flipped_but_opened, None, gives=opens),
    damaged(
        "a graph that is none", flipped(DECODER, 0), BackendError, "cannot load", "neo-edge verify", use=load
    ),
    damaged("a graph of zeros", replaced(DECODER, bytes(500)), BackendError, "neo-edge verify", use=load),
    damaged(
        "the vision graph as decoder",
        manifest(lambda d: variant(d).update(decoder=variant(d)["vision"])),
        CORRUPT,
        "is not the graph that bundle.json describes",
        "export again",
        use=load,
    ),
    damaged(
        "a layer too many in the manifest",
        manifest(lambda d: d["model"]["decoder"].update(num_layers=4)),
        CORRUPT,
        "key_cache.3 is missing",
        "export again",
        use=load,
    ),
    damaged(
        "a cache type that is not the graph's",
        manifest(lambda d: variant(d).update(cache_dtype="float16")),
        CORRUPT,
        "tensor(float16) is wanted",
        use=load,
    ),
    damaged(
        "half a tokenizer", replaced("tokenizer.json", b'{"mod'), TokenizerError, "fetch it again", use=load
    ),
    damaged(
        "no variants", manifest(lambda d: d.update(variants={})), BackendError, "none", "export", use=load
    ),
    damaged(
        "a variant it does not have",
        lambda _: None,
        BundleError,
        "no variant 'int4'",
        "it has fp32",
        use=lambda b: neo_edge.load(b, variant="int4"),
    ),
)

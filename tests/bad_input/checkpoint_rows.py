"""Broken weight files of a checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bad_row import Action, Place, Row
from safetensors.numpy import load_file
from safetensors_writer import write_safetensors

from neo_edge.checkpoint import LM_HEAD, Checkpoint, open_checkpoint, resolve_checkpoint
from neo_edge.errors import CheckpointError, UnsupportedArchitectureError, WeightsError

Tensors = dict[str, np.ndarray]
NORM = "language_model.model.norm.weight"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
AGAIN = "fetch"


def folder_with(place: Place) -> Path:
    shutil.copy(place.checkpoint / "config.json", place.folder)
    return place.folder


def file(broken: str, change: Callable[[bytes], bytes], *words: str) -> Row:
    """The weight file with other bytes."""

    def prepare(place: Place) -> Action:
        folder = folder_with(place)
        (folder / WEIGHTS).write_bytes(change((place.checkpoint / WEIGHTS).read_bytes()))
        return lambda: open_checkpoint(folder)

    return Row(broken, prepare, WeightsError, words)


def header(broken: str, change: Callable[[dict[str, Any]], object], *words: str) -> Row:
    """The weight file with another header."""

    def changed(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        entries = json.loads(data[8 : 8 + length])
        change(entries)
        text = json.dumps(entries).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + length :]

    return file(broken, changed, *words)


def tensors(
    broken: str, change: Callable[[Tensors], object], *words: str, error: type[Exception] = WeightsError
) -> Row:
    """A well-formed file of other tensors."""

    def prepare(place: Place) -> Action:
        arrays = load_file(place.checkpoint / WEIGHTS)
        change(arrays)
        write_safetensors(folder_with(place) / WEIGHTS, arrays)
        return lambda: open_checkpoint(place.folder)

    return Row(broken, prepare, error, words)


def index(broken: str, text: str, *words: str) -> Row:
    """Shards, of which there is one, under another index."""

    def prepare(place: Place) -> Action:
        folder = folder_with(place)
        shutil.copy(place.checkpoint / WEIGHTS, folder / "a.safetensors")
        (folder / INDEX).write_text(text)
        return lambda: open_checkpoint(folder)

    return Row(broken, prepare, WeightsError, words)


def map_of(**files: str) -> str:
    return json.dumps({"weight_map": files})


def text_header(text: bytes) -> Callable[[bytes], bytes]:
    return lambda _: len(text).to_bytes(8, "little") + text


def _twice(place: Place) -> Action:
    folder = folder_with(place)
    for name in ("a", "b"):
        shutil.copy(place.checkpoint / WEIGHTS, folder / f"{name}.safetensors")
    (folder / INDEX).write_text(map_of(x="a.safetensors", y="b.safetensors"))
    entry = load_file(place.checkpoint / WEIGHTS)
    (folder / INDEX).write_text(
        map_of(**{name: f"{'ab'[i % 2]}.safetensors" for i, name in enumerate(entry)})
    )
    return lambda: open_checkpoint(folder)


def _no_weights(place: Place) -> Action:
    folder = folder_with(place)
    return lambda: open_checkpoint(folder)


def _dangling(place: Place) -> Action:
    folder = folder_with(place)
    (folder / WEIGHTS).symlink_to("../../blobs/4567")
    return lambda: open_checkpoint(folder)


def _hugging_face_cache(place: Place) -> Action:
    """As snapshot_download leaves it: links into blobs."""
    blobs, snapshot = place.folder / "blobs", place.folder / "snapshots" / "abc123"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(place.checkpoint.iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    return lambda: open_checkpoint(snapshot)


def _reads(found: object) -> bool:
    return isinstance(found, Checkpoint) and found.read(NORM).shape == (64,)


def _quantized(arrays: Tensors) -> None:
    arrays[NORM] = arrays[NORM].astype(np.int64)


def _without_hw(arrays: Tensors) -> None:
    for name in [name for name in arrays if "q_proj_hw" in name]:
        del arrays[name]


def _overlap(entries: dict[str, Any]) -> None:
    entries["language_model.model.layers.0.self_attn.q_norm.weight"]["data_offsets"] = entries[
        "language_model.model.layers.0.self_attn.k_norm.weight"
    ]["data_offsets"]


CHECKPOINT_ROWS = (
    Row(
        "no weights at all", _no_weights, WeightsError, ("neither model.safetensors", "fetch the safetensors")
    ),
    Row(
        "weights that are a link to nothing", _dangling, WeightsError, ("blobs/4567", "is not there", "cp -L")
    ),
    Row("a Hugging Face cache of links: opens", _hugging_face_cache, None, gives=_reads),
    Row("a tensor in two shards", _twice, WeightsError, ("more than one file",)),
    Row(
        "no directory and no shipped name",
        lambda _: lambda: resolve_checkpoint("no-such-model"),
        CheckpointError,
        ("no-such-model", "neo-ov-nano", "config.json"),
    ),
    file("an empty weight file", lambda _: b"", "truncated", AGAIN),
    file("seven bytes", lambda d: d[:7], "truncated", AGAIN),
    file("half a header", lambda d: d[:500], "truncated", AGAIN),
    file("a header alone", lambda d: d[: 8 + int.from_bytes(d[:8], "little")], "truncated", AGAIN),
    file("a tensor cut off", lambda d: d[:-100], "truncated", AGAIN),
    file("bytes behind the last tensor", lambda d: d + b"more", "goes on to byte", AGAIN),
    file(
        "an overlong header",
        lambda d: (2**63).to_bytes(8, "little") + d[8:],
        "truncated or no safetensors",
        AGAIN,
    ),
    file(
        "a header of 99 MB that is not there",
        lambda d: (99 << 20).to_bytes(8, "little") + d[8:],
        "truncated",
        AGAIN,
    ),
    file(
        "HTML of a failed download",
        lambda _: b"<!DOCTYPE html><html>" * 99,
        "truncated or no safetensors",
        AGAIN,
    ),
    file("a pickle under its name", lambda _: b"\x80\x04\x95" + bytes(500), "no safetensors file", AGAIN),
    file("a header that is a list", text_header(b"[]"), "no object", AGAIN),
    file("a header nested 100,000 deep", text_header(b"[" * 100_000), "no readable header", AGAIN),
    file(
        "a header with a number of 5,000 digits",
        text_header(b'{"a": ' + b"9" * 5000 + b"}"),
        "readable",
        AGAIN,
    ),
    file("a header that is no UTF-8", text_header(b'{"\xff": 1}'), "no readable header", AGAIN),
    file("a name twice in a header", text_header(b'{"a": {}, "a": {}}'), "'a' twice", AGAIN),
    header("an entry without a shape", lambda h: h[NORM].pop("shape"), "malformed", NORM, AGAIN),
    header("a shape below zero", lambda h: h[NORM].update(shape=[-64]), "malformed", NORM, AGAIN),
    header(
        "a shape of 100,000 dimensions", lambda h: h[NORM].update(shape=[9] * 10**5), "malformed", NORM, AGAIN
    ),
    header("a shape of 10^30", lambda h: h[NORM].update(shape=[10**30]), "malformed", NORM, AGAIN),
    header(
        "no numbers of endless breadth", lambda h: h[NORM].update(shape=[0, 2**63]), "malformed", NORM, AGAIN
    ),
    header(
        "offsets the wrong way round", lambda h: h[NORM]["data_offsets"].reverse(), "malformed", NORM, AGAIN
    ),
    header("three offsets", lambda h: h[NORM]["data_offsets"].append(9), "malformed", NORM, AGAIN),
    header(
        "offsets beyond the file",
        lambda h: h[NORM].update(data_offsets=[2**40, 2**40 + 256]),
        "truncated",
        AGAIN,
    ),
    header("two tensors in the same bytes", _overlap, "overlaps", AGAIN),
    header("a hole between tensors", lambda h: h.pop(NORM), "does not follow", AGAIN),
    header(
        "a quantized type", lambda h: h[NORM].update(dtype="F8_E4M3"), "F8_E4M3", "fetch the unquantized one"
    ),
    tensors("a type that is no float", _quantized, "I64", "unquantized"),
    tensors("a missing tensor", lambda t: t.pop(NORM), f"1 missing: {NORM}", "one and the same release"),
    tensors(
        "an extra tensor", lambda t: t.update(x=np.ones(1, np.float32)), "1 unexpected: x", "same release"
    ),
    tensors(
        "a wrong shape", lambda t: t.update({NORM: t[NORM][:9]}), "misshapen", "wants [64]", "same release"
    ),
    tensors(
        "a scalar for a matrix",
        lambda t: t.update({LM_HEAD: np.float32(1).reshape(())}),
        "misshapen",
        LM_HEAD,
    ),
    tensors("NEO-unify, a cousin", _without_hw, "NEO-unify", "NEO-ov", error=UnsupportedArchitectureError),
    index("an empty index", "", "cannot be read as JSON", AGAIN),
    index("an index without a map", "{}", "no weight_map", AGAIN),
    index("an index of numbers", '{"weight_map": {"a": 3}}', "no weight_map from tensors to files", AGAIN),
    index("an index that names nothing", '{"weight_map": {}}', "no files", AGAIN),
    index(
        "an index that points nowhere",
        map_of(a="absent.safetensors"),
        "do not exist: absent.safetensors",
        AGAIN,
    ),
    index("an index that points out", map_of(a="../a.safetensors"), "shards must stand beside it", AGAIN),
    index("an index with an absolute path", map_of(a="/etc/passwd"), "shards must stand beside it", AGAIN),
    index("an index that names .", map_of(a="."), "shards must stand beside it", AGAIN),
    index("an index with NUL in a name", map_of(a="a\0b"), "do not exist", AGAIN),
    index("an index that misplaces a tensor", map_of(lost="a.safetensors"), "not there: lost"),
    index("an index of pickles", map_of(a="pytorch_model.bin"), "pickles", "convert it to safetensors"),
)

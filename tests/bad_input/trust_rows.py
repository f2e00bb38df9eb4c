"""Nothing that comes with a checkpoint, a bundle or a picture is ever run, and nobody calls home."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import socket
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NoReturn

import numpy as np
from bad_row import Action, Place, Row

import neo_edge
from neo_edge.bundle import verify_bundle
from neo_edge.checkpoint import open_checkpoint
from neo_edge.config import load_config
from neo_edge.errors import BundleError, ImageError, InputError, WeightsError
from neo_edge.options import SamplingOptions
from neo_edge_export.bundle_export import ExportOptions, export_bundle
from neo_edge_runtime.golden import read_golden
from neo_edge_runtime.image_input import load_image

CONVERT = "convert it to safetensors"


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._folder / "trapped"),)


def pickled(place: Place) -> bytes:
    return pickle.dumps(Trap(place.folder))


def only_pickles(name: str) -> Row:
    def prepare(place: Place) -> Action:
        shutil.copy(place.checkpoint / "config.json", place.folder)
        (place.folder / name).write_bytes(pickled(place))
        return lambda: open_checkpoint(place.folder)

    return Row(f"weights in {name} alone", prepare, WeightsError, (name, "pickles", CONVERT))


def _torch_archive(place: Place) -> Action:
    """What torch.save writes, under the name of a safetensors file."""
    shutil.copy(place.checkpoint / "config.json", place.folder)
    with zipfile.ZipFile(place.folder / "model.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", pickled(place))
    return lambda: open_checkpoint(place.folder)


def _golden_of_pickles(place: Place) -> Action:
    np.savez(place.folder / "x.npz", input_ids=np.array([Trap(place.folder)], dtype=object))
    config = load_config(place.checkpoint)
    return lambda: read_golden(place.folder / "x.npz", config)


def _remote_code(place: Place) -> Action:
    """A checkpoint as its publisher means it to be loaded: with code of its own, which would write a file."""
    checkpoint = place.folder / "checkpoint"
    shutil.copytree(place.checkpoint, checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "modeling_neo.NEOChatModel"}, "trust_remote_code": True}
    (checkpoint / "config.json").write_text(json.dumps(config))
    for name in ("modeling_neo", "tokenization_neo", "processing_neo"):
        (checkpoint / f"{name}.py").write_text(f"import os; os.mkdir({str(place.folder / name)!r})\n")
    (checkpoint / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": "tokenization_neo.T"}}')
    return lambda: _export(checkpoint)


def _export(checkpoint: Path) -> bool:
    """Whether a bundle came out that holds no code and no links."""
    with tempfile.TemporaryDirectory() as folder:
        export_bundle(checkpoint, Path(folder) / "out", ExportOptions())
        verify_bundle(Path(folder) / "out")
        files = [path for path in (Path(folder) / "out").rglob("*") if not path.is_dir()]
        return not any(path.suffix == ".py" or path.is_symlink() for path in files) and not any(
            name.endswith("_neo") for name in sys.modules
        )


def _links(place: Place) -> Action:
    snapshot = place.folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for path in place.checkpoint.iterdir():
        shutil.copy(path, place.folder / f"blob {path.name}")
        (snapshot / path.name).symlink_to(f"../../blob {path.name}")
    return lambda: _export(snapshot)


def _template_with_code(place: Place) -> Action:
    copy = place.folder / "copy.bundle"
    shutil.copytree(place.bundle, copy)
    size = (copy / "chat_template.jinja").stat().st_size
    code = "{{ cycler.__init__.__globals__.os.mkdir('" + str(place.folder / "trapped") + "') }}"
    (copy / "chat_template.jinja").write_text(code[:size].ljust(size))
    return lambda: _answers(copy)


def _answers(bundle: Path) -> bool:
    with neo_edge.load(bundle, threads=1) as model:
        picture = np.zeros((64, 64, 3), np.uint8)
        return bool(model.generate("a", [picture], options=SamplingOptions(max_new_tokens=2)).token_ids)


def _refuse_connection(*_: object, **__: object) -> NoReturn:
    raise AssertionError("something wants the network")


def _without_network(place: Place) -> None:
    for name in ("socket", "create_connection", "getaddrinfo", "gethostbyname"):
        place.patch.setattr(socket, name, _refuse_connection)


def _offline_answer(place: Place) -> Action:
    _without_network(place)
    return lambda: _answers(place.bundle)


def _offline_export(place: Place) -> Action:
    _without_network(place)
    return lambda: _export(place.checkpoint)


def _address(address: str, use: str) -> Row:
    def prepare(place: Place) -> Action:
        _without_network(place)
        return lambda: load_image(address) if use == "picture" else neo_edge.load(address)

    if use == "picture":
        return Row("an address for a picture", prepare, ImageError, ("give the path of a picture file",))
    return Row("an address for a bundle", prepare, BundleError, ("give the directory",))


def _bytes_io_of_pickle(_: Place) -> Action:
    return lambda: load_image(io.BytesIO(pickle.dumps({"a": 1})))


TRUST_ROWS = (
    *map(only_pickles, ("pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt", "model.pkl")),
    Row(
        "a torch archive under a good name",
        _torch_archive,
        WeightsError,
        ("no safetensors file", "fetch it again"),
    ),
    Row("a golden file of pickles", _golden_of_pickles, InputError, ("plain arrays", "copy it again")),
    Row("a pickle for a picture", _bytes_io_of_pickle, ImageError, ("save it again",)),
    Row("code beside the weights: not run", _remote_code, None, gives=lambda found: found is True),
    Row("a cache of links: exported as files", _links, None, gives=lambda found: found is True),
    Row("code in a chat template: not run", _template_with_code, None, gives=lambda found: found is True),
    Row("no network: answers", _offline_answer, None, gives=lambda found: found is True),
    Row("no network: exports", _offline_export, None, gives=lambda found: found is True),
    *[_address("https://example.com/x", use) for use in ("picture", "bundle")],
)

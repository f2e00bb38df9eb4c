"""The calibration prompts as arrays for a decoder graph, for peers that run the float graph themselves.

They are the prompts that `neo-edge calibrate` shows. Each goes through the decoder twice: its question into an empty
cache, and its answer behind that, so that peers see filled caches too.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from neo_edge.bundle import Bundle
from neo_edge.patch_grid import packed_patch_xy
from neo_edge_calibration.observation.encoding import EncodedSample, Encoder
from neo_edge_calibration.sources.scenes import scene_source
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.preprocessing import pack_pixels
from neo_edge_runtime.vision_encoder import encode_images

Feed = dict[str, npt.NDArray[Any]]
PROTOCOL = "edge"


def samples(bundle: Bundle, count: int, seed: int = 0) -> Iterator[EncodedSample]:
    """The same as `neo-edge calibrate --data nano` with these numbers."""
    encoder = Encoder(bundle, PROTOCOL)
    for make in islice(scene_source(seed), count):
        yield encoder.encode(make())


def write_feeds(bundle: Bundle, variant: str, count: int, folder: Path) -> None:
    """One npz a run of each graph: `vision-000.npz`, `decoder-000.npz`, ..."""
    folder.mkdir(parents=True)
    backend = OrtBackend(bundle, variant, threads=1)
    try:
        for number, (vision, decoder) in enumerate(_feeds(bundle, variant, backend, count)):
            np.savez(folder / f"vision-{number:03d}.npz", **cast("dict[str, Any]", vision))
            for part, feed in enumerate(decoder):
                np.savez(folder / f"decoder-{number:03d}-{part}.npz", **cast("dict[str, Any]", feed))
    finally:
        backend.close()


def read_feeds(folder: Path, part: str) -> Iterator[Feed]:
    """Those of `vision` or `decoder`, in order."""
    for path in sorted(folder.glob(f"{part}-*.npz")):
        with np.load(path) as arrays:
            yield dict(arrays)


def _feeds(
    bundle: Bundle, variant: str, backend: OrtBackend, count: int
) -> Iterator[tuple[Feed, list[Feed]]]:
    import onnxruntime

    graph = str(bundle.path(bundle.variant(variant).decoder))
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    encoder, config = Encoder(bundle, PROTOCOL), bundle.manifest.model
    for sample in samples(bundle, count):
        grids = [image.grid for image in sample.images]
        patches = np.empty((sum(grid.patches for grid in grids), config.vision.patch_dim), np.float32)
        start = 0
        for image in sample.images:
            pack_pixels(image.pixels, config.vision, out=patches[start : start + image.grid.patches])
            start += image.grid.patches
        placed = encoder.layout(sample)
        embeds = np.asarray(backend.token_embedding[sample.input_ids])
        embeds[placed.is_visual] = encode_images(backend, sample.images)
        length, capacity = len(embeds), len(embeds)
        split = int(sample.head_rows[0]) + 1 if len(sample.head_rows) else length
        caches: Feed = {}
        for layer in range(config.decoder.num_layers):
            for name, width in (
                ("key_cache", config.decoder.key_dim),
                ("value_cache", config.decoder.head_dim),
            ):
                shape = (1, config.decoder.num_kv_heads, capacity, width)
                caches[f"{name}.{layer}"] = np.zeros(shape, np.float32)
        feeds: list[Feed] = []
        for begin, end in ((0, split), (split, length)):
            if begin == end:
                continue
            feed = {
                "inputs_embeds": embeds[None, begin:end],
                "position_ids": np.ascontiguousarray(placed.position_ids[None, :, begin:end], np.int32),
                "visible_length": np.ascontiguousarray(placed.visible_length[None, begin:end], np.int32),
                "write_index": np.array([begin], np.int32),
                "logits_index": np.arange(end - begin, dtype=np.int32)[None],
                **{name: cache.copy() for name, cache in caches.items()},
            }
            feeds.append(feed)
            _append(session, feed, caches, begin, end)
        yield {"patches": patches, "patch_xy": packed_patch_xy(grids)}, feeds


def _append(session: Any, feed: Feed, caches: Feed, begin: int, end: int) -> None:
    """Puts a run's keys and values into the caches: new rows of the portable graph, whole caches of the modern one."""
    names = [output.name for output in session.get_outputs() if output.name != "logits"]
    for name, value in zip(names, session.run(names, feed), strict=True):
        kind, _, layer = name.rpartition(".")
        if kind.endswith("_out"):
            caches[f"{kind.removesuffix('_out')}.{layer}"] = value
        else:
            caches[f"{'key' if 'key' in kind else 'value'}_cache.{layer}"][:, :, begin:end] = value

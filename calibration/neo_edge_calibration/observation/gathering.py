"""Runs all samples through one block after the other, and keeps statistics; a killed run is taken up again.

Between two blocks the hidden states of all samples lie in a file, [tokens, hidden] float32; a block reads one and
writes the next. A block's statistics are written when its last sample is through, and that file says that it is
done. So memory holds one layer and the activations of one sample, and the disk twice the hidden states.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from neo_edge.bundle import Bundle
from neo_edge.bundle_writer import flush
from neo_edge.patch_grid import packed_patch_xy
from neo_edge_calibration.observation.accumulator import Accumulator
from neo_edge_calibration.observation.block_runner import BlockRunner
from neo_edge_calibration.observation.blocks import Block, DecoderGraph, vision_block
from neo_edge_calibration.observation.encoding import EncodedSample, Encoder
from neo_edge_calibration.observation.spool import Spool
from neo_edge_calibration.statistics import (
    MAX_ROWS,
    CalibrationStatistics,
    GroupStatistics,
    read_statistics,
    save_statistics,
)
from neo_edge_runtime.preprocessing import pack_pixels
from neo_edge_runtime.token_table import map_token_table

_Array = npt.NDArray[np.generic]
_Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class _Place:
    """One sample in the files of hidden states."""

    sample: EncodedSample
    start: int  # its first token
    size: int  # its tokens


class Gathering:
    """All steps of one calibration, over a directory that outlives the process."""

    def __init__(
        self,
        bundle: Bundle,
        variant: str,
        encoder: Encoder,
        directory: Path,
        *,
        threads: int,
        seed: int,
    ) -> None:
        """Reads the graphs; nothing has run.

        Args:
            bundle: whose variant runs.
            variant: one that was exported in a float precision.
            encoder: which made the samples.
            directory: with the samples; steps that were done there are not done again.
            threads: of each operator.
            seed: draws the rows that are kept.
        """
        found = bundle.variant(variant)
        self._bundle, self._variant, self._encoder = bundle, variant, encoder
        self._directory, self._threads, self._seed = directory, threads, seed
        self._on_sample: Callable[[int], object] = _nobody
        self._samples = list(Spool(directory))
        self._graph = DecoderGraph(bundle.path(found.decoder))
        self._vision = vision_block(bundle.path(found.vision))
        self._portable = found.ops == "portable"
        self._table = map_token_table(bundle, found)
        self._tokens = sum(len(sample.input_ids) for sample in self._samples)

    @property
    def steps(self) -> int:
        """How often `on_sample` will count each sample."""
        return self._graph.num_layers + 2

    @property
    def scratch_bytes(self) -> int:
        """What the hidden states take on the disk."""
        return 2 * 4 * self._tokens * self._bundle.manifest.model.decoder.hidden_size

    def run(self, on_sample: Callable[[int], object]) -> dict[str, GroupStatistics]:
        """All groups, in the order of the model.

        Args:
            on_sample: called with the number of samples that a block is through with.

        Raises:
            StatisticsError: a group has NaN, infinity, or never changes.
            BackendError: onnxruntime failed.
            OSError: the directory cannot be written.
        """
        self._on_sample = on_sample
        groups = dict(self._step("vision", self._embed))
        for index in range(self._graph.num_layers):
            groups.update(self._step(f"layer {index}", partial(self._layer, index)))
            (self._directory / f"hidden.{index}").unlink(missing_ok=True)
        groups.update(self._step("head", self._head))
        return groups

    def _step(
        self, name: str, run: Callable[[], dict[str, GroupStatistics]]
    ) -> Mapping[str, GroupStatistics]:
        done = self._directory / f"{name}.safetensors"
        if done.exists():
            self._on_sample(len(self._samples))
            return read_statistics(done).groups
        groups = run()
        new = self._directory / "statistics.new"
        save_statistics(_part(groups), new)
        flush(new)
        new.replace(done)
        # As they are read back, so that a run that was taken up gives the same bytes.
        return read_statistics(done).groups

    def _embed(self) -> dict[str, GroupStatistics]:
        """Token embeddings with the visual tokens in their places: what goes into the first layer."""
        images = [image for sample in self._samples for image in sample.images]
        patches = sum(image.grid.patches for image in images)
        kept = {
            "vision.patches": self._kept("vision.patches", patches),
            "vision.merged": self._kept("vision.merged", patches // 4),
        }
        accumulators = _accumulators(self._vision)
        runner = BlockRunner(self._vision, threads=self._threads) if images else None
        seen = dict.fromkeys(kept, 0)
        with self._new_hidden(0) as file:
            for sample in self._samples:
                rows = np.array(self._table[sample.input_ids], np.float32)
                visual = []
                for image in sample.images:
                    assert runner is not None
                    values, tokens = runner.run(
                        {
                            "patches": pack_pixels(image.pixels, self._bundle.manifest.model.vision),
                            "patch_xy": packed_patch_xy([image.grid]),
                        }
                    )
                    assert tokens is not None
                    visual.append(tokens.astype(np.float32))
                    for group, value in values.items():
                        here = _local(kept[group], seen[group], len(value))
                        accumulators[group].update(value, here, sample.name)
                        seen[group] += len(value)
                if visual:
                    rows[self._encoder.layout(sample).is_visual] = np.concatenate(visual)
                file.write(rows.data)
                self._on_sample(1)
        self._keep_hidden(0)
        return (
            {name: accumulator.finish("max") for name, accumulator in accumulators.items()} if images else {}
        )

    def _layer(self, index: int) -> dict[str, GroupStatistics]:
        block = self._graph.layer(index)
        runner = BlockRunner(block, threads=self._threads)
        accumulators = _accumulators(block)
        kept = self._kept("tokens", self._tokens)
        with self._new_hidden(index + 1) as file:
            for place, hidden in self._hidden(index):
                values, output = runner.run(self._feeds(block, index, place, hidden))
                assert output is not None
                for group, value in values.items():
                    accumulators[group].update(
                        value, _local(kept, place.start, place.size), place.sample.name
                    )
                file.write(np.ascontiguousarray(output, np.float32).data)
                self._on_sample(1)
        self._keep_hidden(index + 1)
        return {name: accumulator.finish("max") for name, accumulator in accumulators.items()}

    def _head(self) -> dict[str, GroupStatistics]:
        block = self._graph.head()
        runner = BlockRunner(block, threads=self._threads)
        accumulators = _accumulators(block)
        kept = self._kept("head", sum(len(sample.head_rows) for sample in self._samples))
        seen = 0
        for place, hidden in self._hidden(self._graph.num_layers):
            feeds = {
                str(block.hidden_input): hidden[None],
                "logits_index": place.sample.head_rows[None],
            }
            rows = len(place.sample.head_rows)
            for group, value in runner.run(feeds)[0].items():
                accumulators[group].update(value, _local(kept, seen, rows), place.sample.name)
            seen += rows
            self._on_sample(1)
        return {name: accumulator.finish("max") for name, accumulator in accumulators.items()}

    def _feeds(self, block: Block, index: int, place: _Place, hidden: _Floats) -> dict[str, _Array]:
        """A whole conversation as one prefill over empty caches.

        The modern profile writes into its caches, so they hold the conversation; the portable one only reads what was
        before, so one position suffices, which nobody sees.
        """
        decoder = self._bundle.manifest.model.decoder
        seats = self._encoder.layout(place.sample)
        cache = (1, decoder.num_kv_heads, 1 if self._portable else place.size)
        return {
            str(block.hidden_input): hidden[None],
            "position_ids": seats.position_ids[None],
            "visible_length": seats.visible_length[None],
            "write_index": np.zeros(1, np.int32),
            f"key_cache.{index}": np.zeros((*cache, decoder.key_dim), np.float32),
            f"value_cache.{index}": np.zeros((*cache, decoder.head_dim), np.float32),
        }

    def _hidden(self, index: int) -> Iterator[tuple[_Place, npt.NDArray[np.float32]]]:
        """Each sample with its hidden states [S, hidden] below layer `index`."""
        width = self._bundle.manifest.model.decoder.hidden_size
        start = 0
        with (self._directory / f"hidden.{index}").open("rb") as file:
            for sample in self._samples:
                size = len(sample.input_ids)
                rows = np.frombuffer(file.read(4 * size * width), np.float32).reshape(size, width)
                yield _Place(sample, start, size), rows
                start += size

    def _new_hidden(self, index: int) -> BinaryIO:
        return (self._directory / f"hidden.{index}.new").open("wb")

    def _keep_hidden(self, index: int) -> None:
        path = self._directory / f"hidden.{index}.new"
        flush(path)
        path.replace(path.with_suffix(""))

    def _kept(self, name: str, total: int) -> npt.NDArray[np.int64]:
        """Which of all rows are kept as they are; the same for every layer."""
        rng = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        return np.sort(rng.choice(total, min(MAX_ROWS, total), replace=False))


def _nobody(_done: int) -> None:
    """Hears of progress before there is any."""


def _accumulators(block: Block) -> dict[str, Accumulator]:
    return {item.group: Accumulator(item.group, item.weights) for item in block.observed}


def _local(kept: npt.NDArray[np.int64], start: int, size: int) -> npt.NDArray[np.int64]:
    first, last = np.searchsorted(kept, (start, start + size))
    return kept[first:last] - start


def _part(groups: dict[str, GroupStatistics]) -> CalibrationStatistics:
    """Some groups in the form that can be written; what they were gathered from, the directory's name says."""
    return CalibrationStatistics(
        groups=groups,
        method="max",
        samples=0,
        variant="",
        source="",
        data_digest="",
        checkpoint_digest="",
        graph_digest="",
    )

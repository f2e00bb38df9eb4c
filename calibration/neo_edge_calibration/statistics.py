"""What calibration keeps of the activations that feed the matrix products, and its file in the bundle.

Names of groups: `layers.{i}.attention_input` (q_proj, q_proj_hw, k_proj, k_proj_hw, v_proj),
`layers.{i}.attention_output` (o_proj), `layers.{i}.mlp_input` (gate_proj, up_proj), `layers.{i}.mlp_output`
(down_proj), `head_input` (lm_head), `vision.patches` and `vision.merged` (the two products of the vision graph).
K is the number of channels of a group, R of its sampled rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neo_edge.bundle import Bundle
from neo_edge.errors import BundleError, StaleCalibrationError, StatisticsError
from neo_edge.extras import require
from neo_edge_calibration.clipping import BINS, METHODS, Method, clipping_range

MAX_ROWS = 128  # sampled rows of a group
_SCHEMA = 1
_METADATA_KEY = "neo_edge_calibration"
_ARRAYS = ("channel_amax", "channel_mean_abs", "channel_mean_square", "histogram", "rows")


@dataclass(frozen=True, eq=False)
class GroupStatistics:
    """One activation tensor that feeds one or several products, over all rows (tokens or patches) seen."""

    weights: tuple[str, ...]  # initializers of the graph that it is multiplied with
    rows_seen: int
    channel_amax: npt.NDArray[np.float32]  # [K] largest magnitude
    channel_mean_abs: npt.NDArray[np.float32]  # [K]
    channel_mean_square: npt.NDArray[np.float32]  # [K]
    histogram: npt.NDArray[np.int64]  # [2048] of magnitudes over [0, histogram_max], all channels together
    histogram_max: float  # a power of two above every magnitude
    rows: npt.NDArray[np.float16] | npt.NDArray[np.float32]  # [R <= 128, K], drawn by the seed; for searches
    method: Method = "max"  # what the calibration was made for; `range` takes another as well

    def range(self, method: Method | None = None, *, levels: int = 127) -> float:
        """The magnitude at which the whole tensor is to be clipped, above zero.

        Args:
            method: None: the calibration's own.
            levels: positive integers of the type that it is rounded to.
        """
        return clipping_range(
            self.histogram,
            self.histogram_max,
            float(self.channel_amax.max()),
            method or self.method,
            levels=levels,
        )

    def smoothed(
        self, scales: npt.NDArray[np.floating], method: Method | None = None, *, levels: int = 127
    ) -> float:
        """The range after each channel was divided by its scale.

        A histogram of all channels cannot be rescaled, so `max` is exact, from the channels' maxima, and the other
        two are of the sampled rows alone, never above that maximum.

        Args:
            scales: [K], above zero.
            method: None: the calibration's own.
            levels: as in `range`.
        """
        maximum = float((self.channel_amax / scales).max())
        if (method or self.method) == "max" or maximum == 0:
            return maximum
        magnitudes = np.abs(self.rows.astype(np.float32) / scales)
        counts, _ = np.histogram(np.minimum(magnitudes, maximum), BINS, (0.0, maximum))
        return clipping_range(counts.astype(np.int64), maximum, maximum, method or self.method, levels=levels)


@dataclass(frozen=True, eq=False)
class CalibrationStatistics:
    """All groups of one variant, and what they were gathered from."""

    groups: Mapping[str, GroupStatistics]
    method: Method
    samples: int  # prompts that went through the model
    variant: str  # that ran
    source: str  # of the prompts, in words
    data_digest: str  # of the token ids and pixels that the model was fed, and of the seed
    checkpoint_digest: str  # of the checkpoint that the bundle was exported from
    graph_digest: str  # of the variant's graphs and weights


def save_statistics(statistics: CalibrationStatistics, path: Path) -> None:
    """Writes a safetensors file; equal statistics give equal bytes.

    Raises:
        StatisticsError: a number is NaN or infinite.
        MissingExtraError: safetensors is not installed.
        OSError: the file cannot be written.
    """
    tensors: dict[str, npt.NDArray[Any]] = {}
    groups = {}
    for name, group in statistics.groups.items():
        check_group(name, group)
        tensors.update({f"{name}.{array}": np.ascontiguousarray(getattr(group, array)) for array in _ARRAYS})
        groups[name] = {
            "weights": list(group.weights),
            "rows_seen": group.rows_seen,
            "histogram_max": group.histogram_max,
        }
    values = {name: value for name, value in vars(statistics).items() if name != "groups"}
    text = json.dumps({"schema": _SCHEMA, **values, "groups": groups}, sort_keys=True)
    path.write_bytes(require("safetensors.numpy", extra="calibrate").save(tensors, {_METADATA_KEY: text}))


def load_statistics(bundle: Bundle, name: str = "default") -> CalibrationStatistics:
    """The statistics that `neo-edge calibrate` wrote into a bundle.

    Raises:
        BundleError: the bundle has no calibration of that name.
        StaleCalibrationError: they are of another checkpoint, or of graphs that have changed since.
        StatisticsError: the file is damaged.
        MissingExtraError: safetensors is not installed.
    """
    try:
        calibration = bundle.manifest.calibrations[name]
    except KeyError:
        names = ", ".join(bundle.manifest.calibrations) or "none"
        raise BundleError(
            f"the bundle {bundle.root} has no calibration {name!r}: it has {names}; neo-edge calibrate makes one"
        ) from None
    statistics = read_statistics(bundle.path(calibration.file))
    require_same_bundle(bundle, statistics, name)
    return statistics


def read_statistics(path: Path) -> CalibrationStatistics:
    """Reads the file alone, whatever bundle it is of; raises as `load_statistics`."""
    safetensors = require("safetensors", extra="calibrate")
    damaged = StatisticsError(
        f"{path} is no file of activation statistics, or a damaged one: calibrate again"
    )
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            raw = json.loads((file.metadata() or {})[_METADATA_KEY])
            if raw["schema"] != _SCHEMA:
                raise StatisticsError(
                    f"{path} has schema {raw['schema']!r}; this release reads {_SCHEMA}: calibrate again"
                )
            if raw["method"] not in METHODS:
                raise damaged
            groups = {
                name: GroupStatistics(
                    weights=tuple(group["weights"]),
                    rows_seen=int(group["rows_seen"]),
                    histogram_max=float(group["histogram_max"]),
                    method=raw["method"],
                    **{array: file.get_tensor(f"{name}.{array}") for array in _ARRAYS},
                )
                for name, group in raw["groups"].items()
            }
            texts = {
                field: str(raw[field])
                for field in ("variant", "source", "data_digest", "checkpoint_digest", "graph_digest")
            }
            statistics = CalibrationStatistics(
                groups=groups, method=raw["method"], samples=int(raw["samples"]), **texts
            )
    except (safetensors.SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise damaged from error
    for name, group in groups.items():
        check_group(name, group)
    return statistics


def require_same_bundle(bundle: Bundle, statistics: CalibrationStatistics, name: str) -> None:
    """Raises `StaleCalibrationError` when the statistics are not of this bundle as it is."""
    if statistics.checkpoint_digest != checkpoint_digest(bundle):
        raise StaleCalibrationError(
            f"calibration {name!r} is of checkpoint {statistics.checkpoint_digest[:12]} and the bundle {bundle.root} "
            f"of {checkpoint_digest(bundle)[:12]}: calibrate this bundle"
        )
    variant = statistics.variant
    if variant not in bundle.manifest.variants or statistics.graph_digest != graph_digest(bundle, variant):
        raise StaleCalibrationError(
            f"calibration {name!r} was made with the variant {variant!r}, which the bundle {bundle.root} "
            f"{'has in another form' if variant in bundle.manifest.variants else 'lacks'}: calibrate again"
        )


def checkpoint_digest(bundle: Bundle) -> str:
    """The digest of the checkpoint that the bundle was exported from."""
    return str(bundle.manifest.provenance.get("checkpoint_sha256", "unknown"))


def graph_digest(bundle: Bundle, variant: str) -> str:
    """A digest of the files in the folders of a variant's graphs: graphs, weights and embedding."""
    found = bundle.variant(variant)
    folders = {path.rpartition("/")[0] for path in found.referenced_files}
    lines = [
        f"{path} {entry.sha256}\n"
        for path, entry in sorted(bundle.manifest.files.items())
        if path.rpartition("/")[0] in folders
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_group(name: str, group: GroupStatistics) -> None:
    """Raises `StatisticsError` when the arrays of a group do not fit each other or hold NaN or infinity."""
    channels = group.channel_amax.shape
    fits = (
        len(channels) == 1
        and group.channel_mean_abs.shape == group.channel_mean_square.shape == channels
        and group.histogram.shape == (BINS,)
        and group.rows.ndim == 2
        and group.rows.shape[1:] == channels
        and 1 <= len(group.rows) <= MAX_ROWS
        and group.histogram.dtype == np.int64
        and int(group.histogram.sum()) == group.rows_seen * channels[0]
    )
    if not fits:
        raise StatisticsError(f"the statistics of {name} do not fit each other: calibrate again")
    floats = (group.channel_amax, group.channel_mean_abs, group.channel_mean_square, group.rows)
    if not (np.isfinite(group.histogram_max) and all(np.isfinite(array).all() for array in floats)):
        raise StatisticsError(f"the statistics of {name} hold NaN or infinity: calibrate again")

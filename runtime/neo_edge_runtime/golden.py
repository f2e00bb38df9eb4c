"""Golden files: what upstream's code computed for one prompt, as an `.npz` of plain arrays (docs/parity.md)."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.errors import InputError
from neo_edge.patch_grid import PatchGrid, pack_order

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

    from neo_edge.config import ModelConfig

# Name: (number of dimensions, kind of number: i whole, f real). decode_indexes and image_i may be missing.
_REQUIRED = {
    "input_ids": (1, "i"),
    "grid_hw": (2, "i"),
    "pixel_values": (2, "f"),
    "indexes": (2, "i"),
    "vit_embeds": (2, "f"),
    "prefill_logits": (2, "f"),
    "decode_tokens": (1, "i"),
    "decode_logits": (2, "f"),
}
_ZIP, _NPY = b"PK\x03\x04", b"\x93NUM"  # how an archive and a single array begin
_READING_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    zipfile.BadZipFile,
    zlib.error,
    MemoryError,
    NotImplementedError,
)


@dataclass(frozen=True)
class GoldenCase:
    """One prompt, teacher-forced; S prompt tokens, P patches, V vocabulary."""

    name: str
    input_ids: npt.NDArray[np.int64]  # [S], image context tokens expanded
    grids: list[PatchGrid]  # of the pictures
    packed_patches: npt.NDArray[np.float32]  # [P, 768], in packed order
    images: list[npt.NDArray[np.uint8]]  # [H, W, 3] each, at the size of its grid; empty when not stored
    positions: npt.NDArray[np.int32]  # [3, S]: t, h, w
    visual_tokens: npt.NDArray[np.float32]  # [P/4, hidden]
    prefill_logits: npt.NDArray[np.float32]  # [S, V]
    decode_tokens: npt.NDArray[np.int64]  # [n]: token i is fed after row i of decode_logits
    decode_logits: npt.NDArray[np.float32]  # [n, V]: row 0 is the prompt's last
    decode_positions: npt.NDArray[np.int32]  # [n - 1, 3]: t, h, w of the tokens that are fed


def read_golden(path: str | os.PathLike[str], config: ModelConfig) -> GoldenCase:
    """Reads a golden file and checks it against the model's sizes.

    Raises:
        InputError: the file cannot be read, lacks an array, or its arrays do not fit each other or the model.
    """
    arrays = _load(Path(path))
    grids = [PatchGrid(int(rows), int(cols)) for rows, cols in arrays["grid_hw"]]
    size, patches = len(arrays["input_ids"]), sum(grid.patches for grid in grids)
    steps, vocab = len(arrays["decode_tokens"]), config.decoder.vocab_size
    arrays.setdefault("decode_indexes", _following(arrays["indexes"], steps))
    shapes = {
        "pixel_values": (patches, config.vision.patch_dim),
        "indexes": (3, size),
        "vit_embeds": (patches // 4, config.decoder.hidden_size),
        "prefill_logits": (size, vocab),
        "decode_logits": (steps, vocab),
        "decode_indexes": (steps - 1, 3),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise InputError(
                f"{path}: {name} has shape {list(arrays[name].shape)}; {size} prompt tokens and {patches} patches "
                f"need {list(shape)} for this bundle's model: is the file of another checkpoint?"
            )
    if not size or not steps:
        raise InputError(f"{path} holds no prompt, or no decode step: make it again (docs/parity.md)")
    return GoldenCase(
        name=Path(path).stem,
        input_ids=arrays["input_ids"].astype(np.int64),
        grids=grids,
        packed_patches=_packed(arrays["pixel_values"].astype(np.float32), grids),
        images=_images(arrays, grids, config.vision.patch_size),
        positions=arrays["indexes"].astype(np.int32),
        visual_tokens=arrays["vit_embeds"].astype(np.float32),
        prefill_logits=arrays["prefill_logits"].astype(np.float32),
        decode_tokens=arrays["decode_tokens"].astype(np.int64),
        decode_logits=arrays["decode_logits"].astype(np.float32),
        decode_positions=arrays["decode_indexes"].astype(np.int32),
    )


def _load(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    try:
        with path.open("rb") as file:
            if not file.read(len(_ZIP)).startswith((_ZIP, _NPY)):
                raise InputError(
                    f"{path} is no .npz archive: give a golden file; docs/parity.md says how one is made"
                )
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(
                    f"{path} is a single array, not an .npz archive: make it again (docs/parity.md)"
                )
            with archive:
                arrays = {name: archive[name] for name in archive.files}
    except _READING_ERRORS as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} cannot be read as an .npz of plain arrays ({error}): copy it again"
        ) from error
    for name, (dimensions, kind) in _REQUIRED.items():
        if name not in arrays:
            raise InputError(f"{path} has no array {name!r}: make it again (docs/parity.md)")
        found = arrays[name]
        kinds = "iu" if kind == "i" else "f"
        if found.ndim != dimensions or found.dtype.kind not in kinds:
            raise InputError(
                f"{path}: {name} is {found.dtype} of {found.ndim} dimensions; it must be "
                f"{'whole' if kind == 'i' else 'real'} numbers of {dimensions}"
            )
    if arrays["grid_hw"].shape[1:] != (2,):
        raise InputError(
            f"{path}: grid_hw has shape {list(arrays['grid_hw'].shape)}; it must be [pictures, 2]"
        )
    return arrays


def _following(indexes: npt.NDArray[np.generic], steps: int) -> npt.NDArray[np.generic]:
    """Positions of decoded tokens where the file does not say: t goes on by one, h and w are 0."""
    following = np.zeros((max(steps - 1, 0), 3), np.int32)
    if indexes.size:
        following[:, 0] = int(indexes.astype(np.int64)[0].max()) + 1 + np.arange(len(following))
    return following


def _packed(pixel_values: npt.NDArray[np.float32], grids: list[PatchGrid]) -> npt.NDArray[np.float32]:
    start, rows = 0, []
    for grid in grids:
        rows.append(pixel_values[start : start + grid.patches][pack_order(grid)])
        start += grid.patches
    return np.concatenate(rows) if rows else pixel_values


def _images(
    arrays: dict[str, npt.NDArray[np.generic]], grids: list[PatchGrid], patch_size: int
) -> list[npt.NDArray[np.uint8]]:
    """The pictures themselves, when all are stored at the sizes of their grids."""
    images = []
    for index, grid in enumerate(grids):
        image = arrays.get(f"image_{index}")
        if image is None or image.shape != (grid.rows * patch_size, grid.cols * patch_size, 3):
            return []
        images.append(image.astype(np.uint8))
    return images

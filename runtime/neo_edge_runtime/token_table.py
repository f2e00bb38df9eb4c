"""Token embeddings on the host, mapped from the bundle: plain rows, or int8 rows with a scale each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from neo_edge.errors import BundleCorruptError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from neo_edge.bundle import Bundle
    from neo_edge.manifest import Variant


class TokenTable(Protocol):
    """[V, hidden]; a plain array is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[V, hidden]."""
        ...

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the rows that come out, and of the graph's `inputs_embeds`."""
        ...

    def __len__(self) -> int:
        """V."""
        ...

    def __getitem__(self, ids: int | list[int] | npt.NDArray[np.integer], /) -> npt.NDArray[np.generic]:
        """[hidden] for one id, [..., hidden] for an array of them."""
        ...


class Int8TokenTable:
    """Rows of int8 that become float when they are looked up: a quarter of the bytes of float32."""

    def __init__(
        self, values: npt.NDArray[np.int8], scale: npt.NDArray[np.float32], dtype: np.dtype[np.generic]
    ) -> None:
        """Takes what lies in the files.

        Args:
            values: [V, hidden].
            scale: [V]; a row is its values times its scale.
            dtype: of the rows that come out.
        """
        self._values, self._scale, self.dtype = values, scale, dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """[V, hidden]."""
        return self._values.shape

    def __len__(self) -> int:
        """V."""
        return len(self._values)

    def __getitem__(self, ids: int | list[int] | npt.NDArray[np.integer], /) -> npt.NDArray[np.generic]:
        """The rows of some ids, fresh arrays."""
        scale = np.asarray(self._scale[ids])
        return (self._values[ids] * scale[..., None]).astype(self.dtype, copy=False)


def map_token_table(bundle: Bundle, variant: Variant) -> TokenTable:
    """A variant's table, mapped; raises `BundleCorruptError` when a file cannot be."""
    stored = variant.token_embedding
    path, dtype = bundle.path(stored.file), np.dtype(stored.dtype)
    rows = _mapped(path, dtype, stored.shape)
    if stored.scale_file is None:
        return rows
    scale = _mapped(bundle.path(stored.scale_file), np.dtype(np.float32), stored.shape[:1])
    return Int8TokenTable(rows.view(np.int8), scale.view(np.float32), np.dtype(variant.embedding_dtype))


def _mapped(path: Path, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    try:
        # A plain array over the map: indexing a np.memmap costs microseconds a token.
        return np.asarray(np.memmap(path, dtype.newbyteorder("<"), mode="r", shape=shape))
    except (OSError, ValueError) as error:
        raise BundleCorruptError(
            f"{path} cannot be mapped ({error}): copy or export the bundle again"
        ) from error

"""The vision engine: packed patches to visual tokens, from the host or from where they are on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.errors import BackendError, ImageError, InputError
from neo_edge.patch_grid import packed_patch_xy
from neo_edge_runtime.bicubic import bicubic_table
from neo_edge_runtime.preprocessing import OFFSET, SCALE
from neo_edge_runtime.tensorrt.buffers import Buffers, PackedArrays
from neo_edge_runtime.tensorrt.engine import Port, bind, require_ports

if TYPE_CHECKING:
    import numpy.typing as npt

    from neo_edge.config import ModelConfig
    from neo_edge.patch_grid import PatchGrid
    from neo_edge_runtime.device_frame import DeviceFrame
    from neo_edge_runtime.tensorrt.device import Device, Tensor
    from neo_edge_runtime.tensorrt.engine import Context, Engine

_PROFILE = 0  # the only one
_BYTES = np.dtype(np.uint8)


class TrtVision:
    """A loaded vision engine; the backend lets one call in at a time."""

    def __init__(
        self,
        device: Device,
        engine: Engine,
        config: ModelConfig,
        *,
        max_patches: int,
        embedding_dtype: np.dtype[np.generic],
        file: str,
    ) -> None:
        """Checks the engine against the model, and takes its scratch.

        Raises:
            EngineError: it is another model's.
            MemoryBudgetError: the device has no room for the scratch.
        """
        require_ports(engine, _ports(config, embedding_dtype), 1, file)
        self._device, self._engine, self._config = device, engine, config
        self._dtype, self._merged = embedding_dtype, config.vision.merge_size**2
        self._most = max_patches // self._merged * self._merged
        self.buffers = Buffers(device)
        self._kept = Buffers(device)
        self._scratch = self._kept.tensor("scratch_of_vision", (engine.scratch_bytes(_PROFILE),), _BYTES)
        self._context: Context | None = None

    def encode(
        self, patches: npt.NDArray[np.float32], patch_xy: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.generic]:
        """[P, 768] float32 and [P, 2] int32 -> [P/4, hidden]; raises `InputError` for others."""
        count = len(patches)
        if (
            patches.shape != (count, self._config.vision.patch_dim)
            or patch_xy.shape != (count, 2)
            or [patches.dtype, patch_xy.dtype] != [np.dtype(np.float32), np.dtype(np.int32)]
            or count % self._merged
        ):
            found = (
                f"{list(patches.shape)} {patches.dtype} and patch_xy {list(patch_xy.shape)} {patch_xy.dtype}"
            )
            raise InputError(
                f"patches is {found}; they must be [P, {self._config.vision.patch_dim}] float32 and [P, 2] int32, P a "
                f"multiple of {self._merged}"
            )
        tokens = np.empty((count // self._merged, self._config.decoder.hidden_size), self._dtype)
        for span in self._spans(count):
            size = span.stop - span.start
            packed = self._arrays("patches", patches=((size, patches.shape[1]), np.float32))
            packed.host["patches"][...] = patches[span]
            packed.upload()
            tokens[span.start // self._merged : span.stop // self._merged] = self._run(
                packed.tensors["patches"], patch_xy[span]
            )
        return tokens

    def encode_frame(self, frame: DeviceFrame, grid: PatchGrid) -> npt.NDArray[np.generic]:
        """A frame on the device, resized to a grid there -> [visual tokens, hidden].

        Raises:
            ImageError: the frame does not lie on this device, or gives more patches than the engine takes at once.
            BackendError: there are no programs of ours here to resize it.
        """
        device, kernels, vision = self._device, self._device.kernels, self._config.vision
        if kernels is None:
            raise BackendError(
                "a frame on the GPU is resized by a program that NVRTC compiles, and NVRTC is not there: install "
                "nvidia-cuda-nvrtc or the CUDA toolkit, or pass the frame from the host"
            )
        if not device.holds(frame.address):
            raise ImageError(
                f"the frame does not lie on {device.name}, where the model runs: copy it there, or pass it from the "
                "host"
            )
        if grid.patches > self._most:
            raise ImageError(
                f"the frame gives {grid.patches} patches and the vision engine takes {self._most} at once: pass "
                "max_pixels, or build engines with a larger --max-chunk (neo-edge build)"
            )
        height, width = grid.rows * vision.patch_size, grid.cols * vision.patch_size
        host = {
            "columns": bicubic_table(frame.width, width),
            "rows": bicubic_table(frame.height, height),
            "normalization": np.stack([SCALE, OFFSET]),
        }
        tables = self._arrays(
            "resizing", **{name: (table.shape, table.dtype) for name, table in host.items()}
        )
        for name, table in host.items():
            tables.host[name][...] = table
        narrowed = self.buffers.tensor("narrowed_frame", (frame.height, width, 3), _BYTES)
        patches = self.buffers.tensor("packed_frame", (grid.patches, vision.patch_dim), np.dtype(np.float32))
        device.wait_for_others()
        tables.upload()
        kernels.pack_frame(
            frame,
            narrowed=narrowed,
            patches=patches,
            patch_size=vision.patch_size,
            merge_size=vision.merge_size,
            **tables.tensors,
        )
        return np.array(self._run(patches, packed_patch_xy([grid])))

    def close(self) -> None:
        """Gives the weights and all memory back."""
        if self._context is not None:
            self._context.close()
            self._context = None
        self.buffers.release()
        self._kept.release()
        self._engine.close()

    def _spans(self, count: int) -> Iterator[slice]:
        """Visual tokens do not see each other here, so any cut between them is exact."""
        for start in range(0, count, self._most):
            yield slice(start, min(count, start + self._most))

    def _run(self, patches: Tensor, patch_xy: npt.NDArray[np.int32]) -> npt.NDArray[np.generic]:
        """[P/4, hidden] in page-locked memory, until the next run."""
        if self._context is None:
            self._context = self._engine.new_context(_PROFILE, self._scratch, self._device.stream)
        shape = len(patch_xy) // self._merged, self._config.decoder.hidden_size
        places = self._arrays("patch_xy", patch_xy=(patch_xy.shape, np.int32))
        found = self._arrays("visual_tokens", visual_tokens=(shape, self._dtype))
        tensors = {"patches": patches, **places.tensors, **found.tensors}
        bind(self._engine, self._context, _PROFILE, tensors)
        places.host["patch_xy"][...] = patch_xy
        places.upload()
        self._context.execute(self._device.stream)
        found.download()
        self._device.synchronize()
        return found.host["visual_tokens"]

    def _arrays(self, name: str, **arrays: tuple[tuple[int, ...], npt.DTypeLike]) -> PackedArrays:
        return PackedArrays(self._device, self.buffers, name, arrays)


def _ports(config: ModelConfig, embedding_dtype: np.dtype[np.generic]) -> dict[str, Port]:
    float32, int32 = np.dtype(np.float32), np.dtype(np.int32)
    return {
        "patches": Port("patches", float32, (-1, config.vision.patch_dim), True, "device"),
        "patch_xy": Port("patch_xy", int32, (-1, 2), True, "device"),
        "visual_tokens": Port(
            "visual_tokens", embedding_dtype, (-1, config.decoder.hidden_size), False, "device"
        ),
    }

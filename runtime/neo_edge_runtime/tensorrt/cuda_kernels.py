"""The backend's own programs on the GPU, compiled when a device is opened, in a tenth of a second."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from neo_edge.errors import BackendError, MissingExtraError
from neo_edge.extras import require
from neo_edge_runtime.tensorrt.cuda_choosing import CHOOSING_SOURCE

if TYPE_CHECKING:
    from neo_edge_runtime.device_frame import DeviceFrame
    from neo_edge_runtime.tensorrt.cuda_driver import CudaDriver
    from neo_edge_runtime.tensorrt.device import Tensor

_COPY_THREADS = 64  # words of one token's row of a cache: 128 (fp16, 2d = 256), or 64
_SEARCH_THREADS = 1024
_PIXEL_THREADS = 256
_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong

SOURCE = r"""
// One block a new row [width] of one cache: blockIdx.x = (batch, head, token), blockIdx.y = tensor.
extern "C" __global__ void append(const unsigned long long* table, const int* write_index,
                                  int heads, int new_tokens, int capacity) {
  const unsigned long long* entry = table + 3 * blockIdx.y;
  const long long words = (long long)entry[2];
  const int token = blockIdx.x % new_tokens;
  const int row = blockIdx.x / new_tokens;  // batch * heads + head
  const long long place = (long long)row * capacity + write_index[row / heads] + token;
  const unsigned int* source = (const unsigned int*)entry[0] + blockIdx.x * words;
  unsigned int* target = (unsigned int*)entry[1] + place * words;
  for (long long i = threadIdx.x; i < words; i += blockDim.x) target[i] = source[i];
}

__device__ float wide(unsigned short half) { float x; asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(half)); return x; }
__device__ unsigned short narrowed_to_half(float x) {
  unsigned short half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
  return half;
}

// One thread a pair (2i, 2i + 1) of the T part, which are the first 2 * pairs numbers of a key.
extern "C" __global__ void turn(void* keys, const float* turns, int is_half, long long all, int pairs, int length,
                                int capacity, int width) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= all) return;
  const int pair = i % pairs, position = i / pairs % length;
  const long long place = ((i / pairs / length) * capacity + position) * width + 2 * pair;
  const float cosine = turns[2 * pair], sine = turns[2 * pair + 1];
  float* full = (float*)keys + place;
  unsigned short* half = (unsigned short*)keys + place;
  const float x = is_half ? wide(half[0]) : full[0], y = is_half ? wide(half[1]) : full[1];
  const float turned_x = x * cosine - y * sine, turned_y = x * sine + y * cosine;
  if (is_half) {
    half[0] = narrowed_to_half(turned_x);
    half[1] = narrowed_to_half(turned_y);
  } else {
    full[0] = turned_x;
    full[1] = turned_y;
  }
}

// Weights of 22 fractional bits, as in bicubic.py; entry = {first, count, weights...}.
__device__ unsigned char weighted(const unsigned char* pixels, long long stride, const int* entry) {
  int sum = 1 << 21;
  const unsigned char* pixel = pixels + entry[0] * stride;
  for (int i = 0; i < entry[1]; ++i, pixel += stride) sum += entry[2 + i] * *pixel;
  sum >>= 22;
  return sum < 0 ? 0 : sum > 255 ? 255 : sum;
}

// One thread a number of the frame [height, width, 3] at its new width.
extern "C" __global__ void narrow(const unsigned char* frame, long long row_stride, long long column_stride,
                                  long long channel_stride, const int* table, int entry_size,
                                  unsigned char* narrowed, int height, int width) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (long long)height * width * 3) return;
  const int channel = i % 3, x = i / 3 % width, y = i / 3 / width;
  const unsigned char* line = frame + y * row_stride + channel * channel_stride;
  narrowed[i] = weighted(line, column_stride, table + (long long)x * entry_size);
}

// One thread a number of the picture [height, width, 3] at its new size; its place is that of the packed patches.
extern "C" __global__ void pack(const unsigned char* narrowed, const int* table, int entry_size,
                                const float* normalization, float* patches, int height, int width,
                                int patch_size, int merge_size) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (long long)height * width * 3) return;
  const int channel = i % 3, x = i / 3 % width, y = i / 3 / width;
  const unsigned char* column = narrowed + 3 * x + channel;
  const float value = weighted(column, 3LL * width, table + (long long)y * entry_size);
  const int row = y / patch_size, col = x / patch_size, cols = width / patch_size / merge_size;
  const long long token = (long long)(row / merge_size) * cols + col / merge_size;
  const long long patch = (token * merge_size + row % merge_size) * merge_size + col % merge_size;
  const long long place = ((patch * 3 + channel) * patch_size + y % patch_size) * patch_size + x % patch_size;
  // Each operation rounded by itself, as numpy does it.
  const float scaled = __fmul_rn(value, normalization[channel]);
  patches[place] = __fsub_rn(scaled, normalization[3 + channel]);
}
"""


def compile_kernels(compute_capability: str) -> bytes:
    """Machine code of the programs for a GPU; needs NVRTC and no GPU.

    Raises:
        BackendError: NVRTC is not there, or too old for that GPU; the message has the cure.
        MissingExtraError: cuda-bindings is not installed.
    """
    cure = (
        "caches are appended to with more and slower calls; install nvidia-cuda-nvrtc (CUDA 13), "
        "nvidia-cuda-nvrtc-cu12 or the CUDA toolkit"
    )
    try:
        nvrtc = require("cuda.bindings.nvrtc", extra="tensorrt")
        _, program = nvrtc.nvrtcCreateProgram((SOURCE + CHOOSING_SOURCE).encode(), b"neo_edge.cu", 0, [], [])
    except MissingExtraError:
        raise
    except RuntimeError as error:  # the package looks for the library at the first call
        raise BackendError(f"NVRTC is not there ({error}): {cure}") from error
    options = [f"--gpu-architecture=sm_{compute_capability}".encode(), b"--std=c++17"]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if int(status) != 0:
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        text = b" " * size
        nvrtc.nvrtcGetProgramLog(program, text)
        told = text.rstrip(b"\0 ").decode("utf-8", "replace") or nvrtc.nvrtcResult(int(status)).name
        raise BackendError(
            f"NVRTC does not compile for compute capability {compute_capability} ({told}): {cure}"
        )
    _, size = nvrtc.nvrtcGetCUBINSize(program)
    image: bytes = b" " * int(size)
    nvrtc.nvrtcGetCUBIN(program, image)
    nvrtc.nvrtcDestroyProgram(program)
    return image


class CudaKernels:
    """The programs, loaded."""

    def __init__(self, cuda: CudaDriver, stream: object, image: bytes) -> None:
        self._cuda, self._stream = cuda, stream
        self._module = cuda.call("cuModuleLoadData", image)
        self._append = cuda.call("cuModuleGetFunction", self._module, b"append")
        self._likeliest = cuda.call("cuModuleGetFunction", self._module, b"likeliest")
        self._candidates = cuda.call("cuModuleGetFunction", self._module, b"candidates")
        self._turn = cuda.call("cuModuleGetFunction", self._module, b"turn")
        self._narrow = cuda.call("cuModuleGetFunction", self._module, b"narrow")
        self._pack = cuda.call("cuModuleGetFunction", self._module, b"pack")

    def append(
        self,
        table: Tensor,
        write_index: Tensor,
        *,
        tensors: int,
        batch: int,
        heads: int,
        new_tokens: int,
        capacity: int,
    ) -> None:
        """Copies new keys and values into their caches."""
        grid = batch * heads * new_tokens, tensors
        values = table.address, write_index.address, heads, new_tokens, capacity
        self._launch(self._append, grid, _COPY_THREADS, values, (_POINTER, _POINTER, _INT, _INT, _INT))

    def likeliest(self, logits: Tensor, found: Tensor) -> None:
        """Arg-max of each row."""
        rows, vocab = logits.shape
        values = logits.address, found.address, vocab
        self._launch(self._likeliest, (rows, 1), _SEARCH_THREADS, values, (_POINTER, _POINTER, _INT))

    def candidates(
        self, logits: Tensor, temperature: Tensor, tokens: Tensor, values: Tensor, summary: Tensor
    ) -> None:
        """The largest logits of a row, and the sum over all."""
        self._launch(
            self._candidates,
            (1, 1),
            _SEARCH_THREADS,
            (
                *(logits.address, temperature.address, tokens.address, values.address, summary.address),
                *(logits.shape[0], tokens.shape[0]),
            ),
            (*[_POINTER] * 5, _INT, _INT),
        )

    def turn(self, keys: Tensor, turns: Tensor, *, length: int) -> None:
        """Turns the T part of keys."""
        batch, heads, capacity, width = keys.shape
        pairs = turns.shape[0]
        everything = batch * heads * length * pairs
        self._launch(
            self._turn,
            (_blocks(everything), 1),
            _PIXEL_THREADS,
            (
                *(keys.address, turns.address, int(keys.dtype.itemsize == 2), everything),
                *(pairs, length, capacity, width),
            ),
            (_POINTER, _POINTER, _INT, _LONG, _INT, _INT, _INT, _INT),
        )

    def pack_frame(
        self,
        frame: DeviceFrame,
        columns: Tensor,
        rows: Tensor,
        normalization: Tensor,
        narrowed: Tensor,
        patches: Tensor,
        *,
        patch_size: int,
        merge_size: int,
    ) -> None:
        """Resizes, normalizes and cuts a frame."""
        width, height = columns.shape[0], rows.shape[0]
        self._launch(
            self._narrow,
            (_blocks(frame.height * width * 3), 1),
            _PIXEL_THREADS,
            (
                *(frame.address, *frame.strides, columns.address, columns.shape[1]),
                *(narrowed.address, frame.height, width),
            ),
            (_POINTER, _LONG, _LONG, _LONG, _POINTER, _INT, _POINTER, _INT, _INT),
        )
        self._launch(
            self._pack,
            (_blocks(height * width * 3), 1),
            _PIXEL_THREADS,
            (
                *(narrowed.address, rows.address, rows.shape[1], normalization.address, patches.address),
                *(height, width, patch_size, merge_size),
            ),
            (_POINTER, _POINTER, _INT, _POINTER, _POINTER, _INT, _INT, _INT, _INT),
        )

    def close(self) -> None:
        """Gives the code back."""
        self._cuda.call("cuModuleUnload", self._module)

    def _launch(
        self,
        function: object,
        grid: tuple[int, int],
        threads: int,
        values: tuple[int, ...],
        types: tuple[type, ...],
    ) -> None:
        self._cuda.call(
            "cuLaunchKernel", function, *grid, 1, threads, 1, 1, 0, self._stream, (values, types), 0
        )


def _blocks(numbers: int) -> int:
    return -(-numbers // _PIXEL_THREADS)

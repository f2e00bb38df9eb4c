"""Runs one block of a CUDA program on the CPU: each thread a fiber, each barrier a change of fibers."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np

from neo_edge_runtime.tensorrt.cuda_choosing import CHOOSING_SOURCE

_BEFORE = r"""
#include <ucontext.h>
#include <cmath>
#include <cstring>
#include <vector>

#define __global__
#define __device__ static
#define __shared__ static

static struct { int x; } threadIdx, blockIdx, blockDim;
static ucontext_t scheduler;
static std::vector<ucontext_t> fibers;

static void __syncthreads() {
  const int me = threadIdx.x;
  swapcontext(&fibers[me], &scheduler);
  threadIdx.x = me;
}
static unsigned int __float_as_uint(float x) { unsigned int bits; memcpy(&bits, &x, 4); return bits; }
static float __uint_as_float(unsigned int bits) { float x; memcpy(&x, &bits, 4); return x; }
template <class T> static T atomicAdd(T* place, T more) { const T was = *place; *place += more; return was; }
template <class T> static void atomicMax(T* place, T other) { if (other > *place) *place = other; }
"""
_AFTER = r"""
static const float* row;
static void *first, *second, *third, *fourth;
static int vocab_size, kept, threads_done;

static void run_likeliest() { likeliest(row, (int*)first, vocab_size); ++threads_done; }
static void run_candidates() {
  candidates(row, (float*)first, (int*)second, (float*)third, (float*)fourth, vocab_size, kept);
  ++threads_done;
}

// Rounds from barrier to barrier, forwards or backwards; 0 when every thread met the same barriers.
static int run_block(void (*body)(), bool backwards) {
  const int threads = blockDim.x = 1024;
  static std::vector<char> stacks(1024 * 65536);
  fibers.assign(threads, ucontext_t());
  for (int i = 0; i < threads; ++i) {
    getcontext(&fibers[i]);
    fibers[i].uc_stack.ss_sp = &stacks[65536 * i];
    fibers[i].uc_stack.ss_size = 65536;
    fibers[i].uc_link = &scheduler;
    makecontext(&fibers[i], body, 0);
  }
  threads_done = 0;
  while (threads_done == 0) {
    for (int i = 0; i < threads; ++i) {
      threadIdx.x = backwards ? threads - 1 - i : i;
      swapcontext(&scheduler, &fibers[threadIdx.x]);
    }
  }
  return threads_done - threads;
}

extern "C" int likeliest_on_host(const float* logits, void* found, int vocab, int block, bool backwards) {
  row = logits; first = found; vocab_size = vocab; blockIdx.x = block;
  return run_block(run_likeliest, backwards);
}
extern "C" int candidates_on_host(const float* logits, void* temperature, void* tokens, void* values, void* summary,
                                  int vocab, int keep, bool backwards) {
  row = logits; first = temperature; second = tokens; third = values; fourth = summary;
  vocab_size = vocab; kept = keep; blockIdx.x = 0;
  return run_block(run_candidates, backwards);
}
"""


class CudaOnHost:
    """The programs of `cuda_choosing.py`, compiled with g++."""

    def __init__(self, folder: Path) -> None:
        source, library = folder / "choosing.cpp", folder / "choosing.so"
        source.write_text(_BEFORE + CHOOSING_SOURCE + _AFTER, encoding="utf-8")
        subprocess.run(
            ["g++", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-o", str(library), str(source)],
            check=True,
        )
        self._library = ctypes.CDLL(str(library))

    def likeliest(self, logits: np.ndarray, *, backwards: bool) -> np.ndarray:
        """[rows, 2] int32."""
        found = np.empty((len(logits), 2), np.int32)
        for row in range(len(logits)):
            status = self._library.likeliest_on_host(
                _address(logits), _address(found), logits.shape[1], row, backwards
            )
            assert status == 0, "threads met different barriers"
        return found

    def candidates(
        self, logits: np.ndarray, temperature: float, keep: int, *, backwards: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens [keep] int32, their logits [keep] and the summary [4] float32."""
        heat = np.array([temperature], np.float32)
        tokens, values = np.full(keep, -1, np.int32), np.full(keep, np.nan, np.float32)
        summary = np.empty(4, np.float32)
        pointers = [_address(array) for array in (logits, heat, tokens, values, summary)]
        assert self._library.candidates_on_host(*pointers, len(logits), keep, backwards) == 0
        return tokens, values, summary


def _address(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)

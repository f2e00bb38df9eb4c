"""Numbers below 1.2e-38 taken for zero while a graph runs, in its threads and in the one that calls it.

The probability of a masked position comes out of ONNX Runtime's softmax as such a number, not as zero (1.32, AVX-512),
and each product with one is many times slower: at 1,024 tokens attention takes 1.35 times as long.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# The C library's `fenv_t` on x86-64: 28 bytes of the x87 unit, then MXCSR, the control register of SSE and AVX.
_ENVIRONMENT_BYTES, _MXCSR_AT = 32, 28
_FLUSH_TO_ZERO, _DENORMALS_ARE_ZERO = 1 << 15, 1 << 6


@dataclass(frozen=True)
class _FloatEnvironment:
    """The two functions of <fenv.h> that read and set this thread's; each gives 0 when it did."""

    read: Callable[[ctypes.Array[ctypes.c_char]], int]
    set: Callable[[ctypes.Array[ctypes.c_char]], int]


def _find_environment() -> _FloatEnvironment | None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None  # ARM's units are as quick with denormal numbers as with others
    try:
        library = ctypes.CDLL("libm.so.6")
        return _FloatEnvironment(library.fegetenv, library.fesetenv)
    except (OSError, AttributeError):
        return None


_ENVIRONMENT = _find_environment()
_CHANGED = _FLUSH_TO_ZERO | _DENORMALS_ARE_ZERO
flushes_denormals = _ENVIRONMENT is not None  # False: this machine cannot, or has no need to


@contextmanager
def float_environment_kept() -> Iterator[None]:
    """Whatever happens to this thread's rounding and flushing inside is undone."""
    if _ENVIRONMENT is None:
        yield
        return
    before = ctypes.create_string_buffer(_ENVIRONMENT_BYTES)
    _ENVIRONMENT.read(before)
    try:
        yield
    finally:
        _ENVIRONMENT.set(before)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """This thread takes denormal numbers for zero inside, and does afterwards what it did before."""
    if _ENVIRONMENT is None:
        yield
        return
    before = ctypes.create_string_buffer(_ENVIRONMENT_BYTES)
    _ENVIRONMENT.read(before)
    mxcsr = int.from_bytes(before.raw[_MXCSR_AT:], "little") | _CHANGED
    inside = before.raw[:_MXCSR_AT] + mxcsr.to_bytes(4, "little")
    _ENVIRONMENT.set(ctypes.create_string_buffer(inside, _ENVIRONMENT_BYTES))
    try:
        yield
    finally:
        _ENVIRONMENT.set(before)

"""Numbers below 1.2e-38 taken for zero while a graph runs, in its threads and in the one that calls it.

The probability of a masked position comes out of ONNX Runtime's softmax as such a number, not as zero (1.32, AVX-512),
and each product with one is many times slower: at 1,024 tokens attention takes 1.35 times as long.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass

# The C library's `fenv_t` on x86-64: 28 bytes of the x87 unit, then MXCSR, the control register of SSE and AVX.
_ENVIRONMENT_BYTES, _MXCSR_AT = 32, 28
_FLUSH_TO_ZERO, _DENORMALS_ARE_ZERO = 1 << 15, 1 << 6


@dataclass(frozen=True)
class _FloatEnvironment:
    """The two functions of <fenv.h> that read and set this thread's; they take an address."""

    read: Callable[[int], int]
    set: Callable[[int], int]


def _find_environment() -> _FloatEnvironment | None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None  # ARM's units are as quick with denormal numbers as with others
    try:
        library = ctypes.CDLL("libm.so.6")
        read, change = library.fegetenv, library.fesetenv
    except (OSError, AttributeError):
        return None
    for function in (read, change):
        function.argtypes = [ctypes.c_void_p]
    return _FloatEnvironment(read, change)


_ENVIRONMENT = _find_environment()
_CHANGED = _FLUSH_TO_ZERO | _DENORMALS_ARE_ZERO
flushes_denormals = _ENVIRONMENT is not None  # False: this machine cannot, or has no need to


class FloatEnvironmentKept:
    """Whatever happens to this thread's rounding and flushing inside is undone. Neither shared nor nested."""

    def __init__(self) -> None:
        self._before = ctypes.create_string_buffer(_ENVIRONMENT_BYTES)
        self._before_at = ctypes.addressof(self._before)

    def __enter__(self) -> None:
        if _ENVIRONMENT is not None:
            _ENVIRONMENT.read(self._before_at)

    def __exit__(self, *_: object) -> None:
        if _ENVIRONMENT is not None:
            _ENVIRONMENT.set(self._before_at)


class DenormalsFlushed(FloatEnvironmentKept):
    """This thread takes denormal numbers for zero inside, and does afterwards what it did before.

    One object serves all runs of a state: entering and leaving stand beside every decode step.
    """

    def __init__(self) -> None:
        super().__init__()
        self._inside = ctypes.create_string_buffer(_ENVIRONMENT_BYTES)
        self._inside_at = ctypes.addressof(self._inside)
        self._mxcsr = ctypes.c_uint32.from_buffer(self._inside, _MXCSR_AT)

    def __enter__(self) -> None:
        if _ENVIRONMENT is not None:
            _ENVIRONMENT.read(self._before_at)
            _ENVIRONMENT.read(self._inside_at)
            self._mxcsr.value |= _CHANGED
            _ENVIRONMENT.set(self._inside_at)

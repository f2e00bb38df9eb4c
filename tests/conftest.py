"""What all tests share: one thread, the golden files, and property tests that repeat."""

from __future__ import annotations

import os
import signal
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
# A library that panics would read its debug symbols for a backtrace, and tests of memory would count them.
os.environ.pop("RUST_BACKTRACE", None)
# No test sees what the user's own cache holds; the folder is never made.
os.environ["NEO_EDGE_CACHE_DIR"] = f"{tempfile.gettempdir()}/neo-edge-tests-{os.getpid()}/cache"

# A shell's background jobs start with Ctrl-C ignored, and so would every program that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from neo_edge import progress

# A line every ten seconds would tell tests that compare what is said how busy the machine is.
progress._LINE_EVERY_S = float("inf")

settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],  # says how busy the machine is
)
settings.load_profile("repeatable")

GOLDEN_TINY = Path(__file__).parent / "golden" / "tiny"
GOLDEN_CASES = ("text", "multi_image", "video")


@pytest.fixture(scope="session")
def golden_tiny() -> Path:
    """Directory of the tiny random checkpoint and of what upstream's code computes for it."""
    return GOLDEN_TINY


@pytest.fixture(scope="session", params=GOLDEN_CASES)
def golden_case(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    """The arrays of one golden file, each file in turn."""
    with np.load(GOLDEN_TINY / f"{request.param}.npz") as arrays:
        return dict(arrays)

"""Waiting for a frame's time."""

from __future__ import annotations

import threading
import time


def stopped_before(moment_s: float, stopped: threading.Event) -> bool:
    """Waits until `moment_s` of the monotonic clock; true when `stopped` was set before.

    A moment that has passed, or is not a number, is not waited for.
    """
    while (wait_s := moment_s - time.monotonic()) > 0:
        if stopped.wait(min(wait_s, threading.TIMEOUT_MAX)):
            return True
    return stopped.is_set()

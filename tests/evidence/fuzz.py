"""Throws broken inputs at every way in: each must end in a typed error or be accepted, soon, within little memory.

Prints how many inputs there were and the seed. Nothing but `NeoEdgeError` may come out, no input may take longer than
`GUARD_S`, no Python warning may get out, and the process must stay below `CEILING_MIB` of memory.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))  # for the tiny tokenizer

from fuzz_entries import Entry, entries
from hypothesis import HealthCheck, Phase, given, seed, settings

from neo_edge.errors import NeoEdgeError
from neo_edge_runtime.memory import peak_memory_bytes

INPUTS = 100_000
SEED = 20261122
GUARD_S = 10  # of the process's own time, so that a busy machine is no hang
STUCK_S = (
    600  # of the clock, for a batch: what waits without working, or where no signal gets through, ends, too
)
CEILING_MIB = (
    1536  # a picture of the largest size that is decoded takes 256 MiB as RGB, and three copies at worst
)
BATCH = 50  # groups of inputs; hypothesis remembers what it tried, and a fresh start now and then keeps that small
_SHOWN = 5  # failures that are printed whole


class HangError(BaseException):
    """An input took longer than the guard; no handler of the product's may take it for its own."""


class Campaign:
    """Runs inputs and counts how they end."""

    def __init__(self) -> None:
        self.ends: Counter[tuple[str, str]] = Counter()
        self.slowest_s: dict[str, float] = {}
        self.failures = 0

    def run(self, entry: Entry, inputs: int, first_seed: int) -> None:
        """`inputs` inputs of one entry, in batches of their own seeds."""
        batch = 0
        while self.count(entry) < inputs:
            batch_seed = first_seed * 1_000_003 + batch
            self._batch(entry, BATCH, batch_seed, inputs)
            batch += 1

    def count(self, entry: Entry) -> int:
        """Inputs so far."""
        return sum(self.ends[entry.name, end] for end in ("accepted", "refused", "failed"))

    def summary(self, entry: Entry) -> str:
        """One line about an entry."""
        accepted, refused, failed = (self.ends[entry.name, end] for end in ("accepted", "refused", "failed"))
        return (
            f"{self.count(entry):7d} inputs: {refused} refused by a typed error, {accepted} accepted, {failed} failed; "
            f"slowest {self.slowest_s.get(entry.name, 0):.2f} s"
        )

    def _batch(self, entry: Entry, groups: int, batch_seed: int, inputs: int) -> None:
        @seed(batch_seed)
        @settings(
            max_examples=groups,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(entry.inputs)
        def one(values: list[object]) -> None:
            for value in values:
                if self.count(entry) < inputs:
                    self._one(entry, value)

        faulthandler.dump_traceback_later(STUCK_S, exit=True, file=sys.stderr)
        one()
        faulthandler.cancel_dump_traceback_later()

    def _one(self, entry: Entry, value: object) -> None:
        started = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, GUARD_S)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                entry.check(value)
            end = "accepted"
        except NeoEdgeError:
            end = "refused"
        except (HangError, Exception) as error:  # noqa: BLE001 - finding these is what this is for
            end = "failed"
            self._report(entry, value, error)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        self.ends[entry.name, end] += 1
        took = time.process_time() - started
        self.slowest_s[entry.name] = max(self.slowest_s.get(entry.name, 0.0), took)

    def _report(self, entry: Entry, value: object, error: BaseException) -> None:
        self.failures += 1
        if self.failures <= _SHOWN:
            print(f"{entry.name}: {type(error).__name__}: {error}\n  input {value!r:.3000}")
            traceback.print_tb(error.__traceback__, limit=-4, file=sys.stdout)


def main() -> int:
    """Prints a line an entry; 1 when an input crashed, hung, or the memory went beyond the ceiling."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=INPUTS, metavar="N", help=f"in all (default {INPUTS})")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help=f"default {SEED}")
    parser.add_argument("--entry", help="only this one")
    args = parser.parse_args()
    signal.signal(signal.SIGPROF, _hang)
    _silence_c_libraries()
    started, campaign = time.perf_counter(), Campaign()
    with tempfile.TemporaryDirectory() as folder:
        chosen = [entry for entry in entries(Path(folder)) if args.entry in (None, entry.name)]
        share = sum(entry.share for entry in chosen)
        for entry in chosen:
            campaign.run(entry, round(args.inputs * entry.share / share), args.seed)
            print(f"  {entry.name:20} {campaign.summary(entry)}", flush=True)
    peak_mib = (peak_memory_bytes() or 0) / 2**20
    total = sum(campaign.count(entry) for entry in chosen)
    print(
        f"{total} inputs, seed {args.seed}: {campaign.failures} crashed or took over {GUARD_S} s; peak memory "
        f"{peak_mib:.0f} MiB, ceiling {CEILING_MIB} MiB; {time.perf_counter() - started:.0f} s"
    )
    return 1 if campaign.failures or peak_mib > CEILING_MIB else 0


def _silence_c_libraries() -> None:
    """libtiff writes what it thinks of a broken file to the descriptor of standard error; Python keeps a copy of it."""
    sys.stderr = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    faulthandler.enable(sys.stderr)


def _hang(*_: object) -> None:
    raise HangError(f"more than {GUARD_S} s")


if __name__ == "__main__":
    sys.exit(main())

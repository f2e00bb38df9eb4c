"""What exporting a large model to float16 takes: anonymous memory, and time beside a copy of the same files.

The 2b preset is exported whole. A slice of its layers is compared with the reference, which is timed apart; the memory
limit holds for the whole process, the comparison included, and both peaks are printed. The 9b preset is exported at two
depths: neither peak may grow with the layers.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from command_line import neo_edge
from preset_size import parameters, preset_model, require_disk
from watched_process import Watched, watch

from neo_edge_runtime.bench.device import describe_device
from neo_edge_runtime.processors import usable_physical_cores

MEMORY_BYTES = 3 << 30  # most anonymous memory of the process, from its start to its end
COPIES, BESIDE_S = 3, 60.0  # most time: so many copies of the bundle and that many seconds
GROWTH_SHARE, GROWTH_BYTES = 0.1, 32 << 20  # most growth with depth: of the added layers' weight, or this
COMPARING = "comparing with the reference"
SLICE = range(2)  # layers that are compared with the reference
ITEM_BYTES = 2  # of bfloat16 and float16
_COPY_BYTES = 8 << 20


@dataclass(frozen=True)
class Export:
    """One export's cost, without the comparison and with it."""

    watched: Watched

    @property
    def seconds(self) -> float:
        """Without the comparison."""
        return self.watched.seconds - self.watched.phases[COMPARING].seconds

    @property
    def peak_bytes(self) -> int:
        """Of the whole process."""
        return max(phase.peak_anonymous_bytes for phase in self.watched.phases.values())

    @property
    def writing_peak_bytes(self) -> int:
        """Before the comparison; what follows it, hashing and flushing, needs a block, but holds what that left."""
        before = takewhile(lambda phase: phase[0] != COMPARING, self.watched.phases.items())
        return max(phase.peak_anonymous_bytes for _, phase in before)


def main() -> int:
    """Prints the figures; 1 when one is above what is allowed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="2b", help="exported whole (default 2b)")
    parser.add_argument("--layers", type=int, help="of it (default: the preset's)")
    parser.add_argument(
        "--slice-preset", default="9b", help="exported at two depths (default 9b); none: left out"
    )
    parser.add_argument("--depths", type=int, nargs=2, default=(2, 6), help="layers of each (default 2 6)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where 17 GB of files lie meanwhile")
    args = parser.parse_args()
    require_disk(args.out, 3 * ITEM_BYTES * parameters(preset_model(args.preset, args.layers)))
    describe_device(usable_physical_cores())
    passed = _whole(args.preset, args.layers, args.out)
    if args.slice_preset != "none":
        require_disk(args.out, 2 * ITEM_BYTES * parameters(preset_model(args.slice_preset, max(args.depths))))
        passed &= _depths(args.slice_preset, sorted(args.depths), args.out)
    return 0 if passed else 1


def _whole(preset: str, layers: int | None, out: Path) -> bool:
    folder = Path(tempfile.mkdtemp(prefix="export-scale-", dir=out))
    try:
        export = _export(preset, layers, folder)
        shutil.rmtree(folder / "checkpoint")
        copied_s, copied_bytes = _copy(folder / "bundle", folder / "copy")
    finally:
        shutil.rmtree(folder)
    depth = preset_model(preset, layers).decoder.num_layers
    print(f"\n{preset}, {depth} layers, to fp16: {copied_bytes / 1e9:.2f} GB")
    _print_phases(export)
    allowed_s = COPIES * copied_s + BESIDE_S
    print(f"  {'peak before the comparison, GiB':52} {export.writing_peak_bytes / 2**30:.2f}")
    in_memory = _print_limit(
        "peak of the whole process, GiB", export.peak_bytes / 2**30, MEMORY_BYTES / 2**30
    )
    print(f"  {'an fsynced copy of the bundle':52} {copied_s:.1f} s")
    in_time = _print_limit(
        f"export, allowed {COPIES} copies and {BESIDE_S:.0f} s more, s", export.seconds, allowed_s
    )
    return in_memory and in_time


def _depths(preset: str, depths: list[int], out: Path) -> bool:
    exports: list[Export] = []
    for layers in depths:
        folder = Path(tempfile.mkdtemp(prefix="export-scale-", dir=out))
        try:
            exports.append(_export(preset, layers, folder))
        finally:
            shutil.rmtree(folder)
    for layers, export in zip(depths, exports, strict=True):
        print(f"\n{preset}, {layers} layers, to fp16")
        _print_phases(export)
    shallow, deep = (parameters(preset_model(preset, layers)) for layers in depths)
    added = ITEM_BYTES * (deep - shallow)
    allowed = max(GROWTH_SHARE * added, GROWTH_BYTES) / 2**20
    print(f"  {'further layers, MiB':52} {added / 2**20:.0f}")
    passed = True
    for what, peaks in (
        ("before the comparison", [export.writing_peak_bytes / 2**20 for export in exports]),
        ("of the whole process", [export.peak_bytes / 2**20 for export in exports]),
    ):
        print(f"  {f'peak {what}, MiB':52} {peaks[0]:.0f} and {peaks[1]:.0f}")
        passed &= _print_limit(f"growth of the peak {what}, MiB", peaks[1] - peaks[0], allowed)
    return passed


def _export(preset: str, layers: int | None, folder: Path) -> Export:
    depth = [] if layers is None else ["--layers", layers]
    neo_edge("make-checkpoint", "--preset", preset, *depth, "-o", folder / "checkpoint")
    return Export(
        watch(
            *("export", folder / "checkpoint", "-o", folder / "bundle", "--precision", "fp16"),
            *("--verify-slice", f"{SLICE.start}:{SLICE.stop}", "--verify-layers", 1),
        )
    )


def _copy(source: Path, target: Path) -> tuple[float, int]:
    """Seconds and bytes of a copy of all files, each flushed to the disk."""
    started, copied = time.perf_counter(), 0
    for path in sorted(source.rglob("*")):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as reading, place.open("wb") as writing:
                shutil.copyfileobj(reading, writing, _COPY_BYTES)
                writing.flush()
                os.fsync(writing.fileno())
                copied += writing.tell()
    return time.perf_counter() - started, copied


def _print_phases(export: Export) -> None:
    for name, phase in export.watched.phases.items():
        of = f"{name}, layers {SLICE.start} to {SLICE.stop - 1}" if name == COMPARING else name
        print(f"  {of:52} {phase.seconds:6.1f} s, {phase.peak_anonymous_bytes / 2**20:6.0f} MiB anonymous")


def _print_limit(of: str, found: float, allowed: float) -> bool:
    passed = found <= allowed
    print(f"  {of:52} {found:.2f}, allowed {allowed:.2f}{'' if passed else ': MISSED'}", flush=True)
    return passed


if __name__ == "__main__":
    sys.exit(main())

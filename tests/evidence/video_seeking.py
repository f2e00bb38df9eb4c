"""From how many packets on a seek is quicker than decoding on: the number behind `SEEK_PACKETS`.

For each codec and size, every g-th frame of a file whose every g-th frame is a key is decoded twice, in turns: with a
seek to each, and without any. A seek then passes over g - 1 packets.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "runtime"))

from video_files import video

from neo_edge_runtime.bench.device import describe_device
from neo_edge_runtime.processors import usable_physical_cores
from neo_edge_runtime.video_decoding import SEEK_PACKETS, decode_frames
from neo_edge_runtime.video_file import open_video
from neo_edge_runtime.video_index import index_video
from neo_edge_runtime.video_limits import VideoLimits

SIZES = ((320, 180), (960, 540))
CODECS = {
    "H.264, 3 B-frames": ("libx264", "mp4", {"preset": "veryfast", "bf": "3", "threads": "1"}),
    "H.264, Matroska": ("libx264", "matroska", {"preset": "veryfast", "bf": "3", "threads": "1"}),
    "VP9": ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8"}),
    "MPEG-4": ("mpeg4", "mp4", {}),
}
GAPS = (2, 4, 8, 12, 16, 24, 48)
THROUGH = 1 << 40
LIMITS = VideoLimits()


def main() -> int:
    """Prints the table, and the rule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", type=int, default=240, help="of each file")
    args = parser.parse_args()
    describe_device(usable_physical_cores())
    print(f"\nPyAV {av.__version__}; time with seeks over time without, median of {args.rounds} rounds")
    print(f"\n| codec | size | {' | '.join(f'key every {gap}' for gap in GAPS)} |")
    print(f"|---|---|{'---|' * len(GAPS)}")
    even = []
    for codec, how in CODECS.items():
        for size in SIZES:
            ratios = [_ratio(how, size, gap, args.frames, args.rounds) for gap in GAPS]
            even.append(next((gap for gap, ratio in zip(GAPS, ratios, strict=True) if ratio < 1), GAPS[-1]))
            cells = " | ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"| {codec} | {size[0]}x{size[1]} | {cells} |", flush=True)
    print(
        f"\nA seek pays from a key every {min(even)} to {max(even)} frames on; the rule is {SEEK_PACKETS} packets."
    )
    return 0


def _ratio(
    how: tuple[str, str, dict[str, str]], size: tuple[int, int], gap: int, frames: int, rounds: int
) -> float:
    codec, container, options = how
    rng = np.random.default_rng(gap)
    field = rng.integers(0, 255, (size[1] + frames, size[0], 3), np.uint8)
    smooth = field // 8 + (np.arange(size[0])[None, :, None] % 200).astype(np.uint8)
    pictures = [smooth[number : number + size[1]] for number in range(frames)]  # a field that pans
    options = options | ({"x264-params": "scenecut=0"} if codec == "libx264" else {})
    data = video(pictures, codec=codec, container=container, options=options, gop=gap)
    with open_video(data, max_pixels=LIMITS.max_pixels) as opened:
        index = index_video(opened, LIMITS)
        wanted = list(range(0, frames, gap))

        def decode(seek_packets: int) -> Callable[[], object]:
            return lambda: [
                frame.to_ndarray(format="rgb24").shape
                for _, frame in decode_frames(opened, index, wanted, LIMITS, seek_packets=seek_packets)
            ]

        turns = [(_seconds(decode(1)), _seconds(decode(THROUGH))) for _ in range(rounds)]
    return float(np.median([seeks / through for seeks, through in turns]))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())

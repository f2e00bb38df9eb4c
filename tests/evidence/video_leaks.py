"""500 video files are opened, good, damaged and refused ones: memory and descriptors stay where they are."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "runtime"))
sys.path.append(str(Path(__file__).parents[1] / "bad_input"))

from observation import open_files, resident_mib
from video_files import audio_only, numbered_picture, video

from neo_edge.errors import VideoError
from neo_edge.frame_sampling import FrameSampling
from neo_edge_runtime.bench.device import describe_device
from neo_edge_runtime.processors import usable_physical_cores
from neo_edge_runtime.video import VideoWarning
from neo_edge_runtime.video_limits import VideoLimits
from neo_edge_runtime.video_reading import read_video

OPENS, WARM_UP = 500, 100
ALLOWED_MIB = 8.0  # of growth from the 100th to the last; FFmpeg's and Pillow's allocators keep some pages
PICTURES = [numbered_picture(number, 320, 240) for number in range(30)]
SPARSE = FrameSampling("count", frames=4)


def main() -> int:
    """Prints memory and descriptors on the way; 1 when either grows."""
    describe_device(usable_physical_cores())
    h264 = video(PICTURES, gop=8)
    vp9 = video(PICTURES, codec="libvpx-vp9", container="webm")
    jpegs = video(PICTURES, codec="mjpeg", container="avi", pixel_format="yuvj420p")
    sound = audio_only()
    refused = VideoLimits(max_frames=1)
    work: list[Callable[[], object]] = [
        lambda: read_video(h264, SPARSE),
        lambda: read_video(vp9, SPARSE),
        lambda: read_video(jpegs[: len(jpegs) // 2], SPARSE),
        lambda: read_video(h264[:-500]),
        lambda: read_video(sound),
        lambda: read_video(h264, SPARSE, limits=refused),
    ]
    print(f"\n{OPENS} files in turn: H.264, VP9, a cut AVI, a cut MP4, sound only, beyond the limits")
    before = (0, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)
        for number in range(1, OPENS + 1):
            with suppress(VideoError):
                work[number % len(work)]()
            if number % WARM_UP == 0:
                gc.collect()
                now = (open_files(), resident_mib())
                print(f"  {number:4} opened: {now[0]} descriptors, {now[1]:.1f} MiB resident", flush=True)
                if number == WARM_UP:
                    before = now
    grown = now[1] - before[1]
    missed = grown > ALLOWED_MIB or now[0] > before[0]
    print(
        f"  grown by {now[0] - before[0]} descriptors and {grown:.1f} MiB, allowed 0 and {ALLOWED_MIB:g}"
        f"{': MISSED' if missed else ''}"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

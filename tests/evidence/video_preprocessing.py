"""What preparing frames and pictures costs: ours against PyAV and Pillow alone, and against torch float tensors.

Video. Ours: a file's bytes are listed, decoded, converted and resized, and cut into normalized patches. Theirs, without
the patches: PyAV decodes, `VideoFrame.to_image` converts and Pillow resizes, with the same filter to the same sizes.
Decoders have FFmpeg's own threads (`thread_type` AUTO) on both sides. Theirs runs as the loop that its documentation
shows, and with converting and resizing in as many threads as ours has, at most as many frames waiting; it decodes
through where frames are dense, and seeks to the key before each where they are sparse. The fastest of these counts. For
the dense case there are two more: on one core, where each side has one thread for everything, and the threaded loop
with PyAV's converted memory handed to Pillow as ours does it, which is ours but for the patches: what they cost.

Pictures. From an RGB picture of Pillow's at the model's size to normalized patches in float32 (ours: planes, packed in
uint8, then x * scale - offset, always in one thread; theirs: torchvision's ToTensor and Normalize, step for step in
torch, and upstream's view, permute and reshape), which has one thread, and then all.

Contenders take turns within a round; a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL
import torch
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "runtime"))

from video_files import video

from neo_edge.checkpoint import resolve_checkpoint
from neo_edge.config import VisionConfig, load_config
from neo_edge.frame_sampling import FrameSampling
from neo_edge.protocols import get_protocol
from neo_edge_runtime.bench.device import describe_device
from neo_edge_runtime.bench.timing import Contender, interleave
from neo_edge_runtime.preprocessing import MEAN, STD, PixelLimits, pack_pixels, size_image, target_size
from neo_edge_runtime.processors import usable_physical_cores
from neo_edge_runtime.video_decoding import to_image
from neo_edge_runtime.video_limits import VideoLimits
from neo_edge_runtime.video_reading import MOST_WORKERS, read_frames

VIDEO_ALLOWED, IMAGE_WANTED = 1.05, 1.5
RATE, SIZE = 30, (1280, 720)
PICTURES = ((640, 480), (1280, 960))
PICTURE_REPEATS = 9
Times = Mapping[str, Sequence[float]]
OURS, ON_ONE_CORE, HANDED_ON = "neo_edge", "one core", "threads, memory handed on"


def main() -> int:
    """Prints both comparisons; 1 when one misses its aim."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=10, help="length of the clip")
    args = parser.parse_args()
    threads = usable_physical_cores()
    describe_device(threads)
    versions = ", ".join(
        f"lib{name[3:]} {'.'.join(map(str, found))}" for name, found in av.library_versions.items()
    )
    print(f"\nPyAV {av.__version__} ({versions}), Pillow {PIL.__version__}, torch {torch.__version__}")
    vision = load_config(resolve_checkpoint("neo-ov-nano")).vision
    missed = _videos(vision, args.seconds, args.rounds) + _pictures(vision, args.rounds, threads)
    return 1 if missed else 0


def _videos(vision: VisionConfig, seconds: int, rounds: int) -> int:
    limits = PixelLimits(*get_protocol("neo-ov-video").frame_pixel_limits(vision))
    work = _Theirs(_clip(seconds), vision, limits)
    workers = min(MOST_WORKERS, usable_physical_cores())
    print(
        f"\nvideo, {SIZE[0]}x{SIZE[1]}, H.264 with B-frames, a key every 250 frames, {seconds} s; {rounds} rounds; "
        f"{workers} threads beside the decoder's on both sides"
    )
    samplings = {
        "every frame of it": FrameSampling("fps", fps=float(RATE)),
        "4 frames a second": FrameSampling("fps", fps=4.0),
        "1 frame a second": FrameSampling("fps", fps=1.0),
        "3 frames": FrameSampling("count", frames=3),
    }
    missed = 0
    for name, sampling in samplings.items():
        wanted = sampling.indices(seconds * RATE, RATE)
        contenders: dict[str, Callable[[], object]] = {
            OURS: partial(_ours, work.data, sampling, vision, limits),
            "loop": partial(work.run, wanted, work.through, 0),
            "threads": partial(work.run, wanted, work.through, workers),
        }
        if len(wanted) <= 2 * seconds:  # a seek to each of many frames takes minutes
            contenders["loop, seeking"] = partial(work.run, wanted, work.seeking, 0)
            contenders["threads, seeking"] = partial(work.run, wanted, work.seeking, workers)
        dense = len(wanted) == seconds * RATE
        if dense:
            contenders[HANDED_ON] = partial(work.run, wanted, work.through, workers, to_image)
        times = _turns(contenders, rounds)
        rivals = [other for other in contenders if other not in (OURS, HANDED_ON)]
        missed += _video_line(f"{name:18} {len(wanted):4} frames", times, rivals)
        if dense:
            _ratio_line("of that, patches and the list of packets", times[OURS], times[HANDED_ON], HANDED_ON)
            with _one_core():
                del contenders[HANDED_ON], contenders["threads"]
                times = _turns(contenders, rounds)
            missed += _video_line(f"  the same on {ON_ONE_CORE}", times, ["loop"])
    return missed


def _video_line(what: str, times: Times, rivals: Sequence[str]) -> bool:
    """Prints ours against the fastest of the rivals; whether it takes too long."""
    rival = min(rivals, key=lambda other: float(np.median(times[other])))
    ratio = _ratio_line(what, times[OURS], times[rival], rival)
    if ratio > VIDEO_ALLOWED:
        print(f"    MISSED: {ratio:.2f}, allowed {VIDEO_ALLOWED}", flush=True)
    return ratio > VIDEO_ALLOWED


def _ratio_line(what: str, ours: Sequence[float], others: Sequence[float], rival: str) -> float:
    ratios = np.array(ours) / np.array(others)
    ratio = float(np.median(ratios))
    print(
        f"  {what}: neo_edge {_ms(ours)}, PyAV and Pillow {_ms(others)} ({rival}), "
        f"{ratio:.2f} ({ratios.min():.2f} to {ratios.max():.2f}) x",
        flush=True,
    )
    return ratio


@contextmanager
def _one_core() -> Iterator[None]:
    """All threads that start meanwhile share a core, and there are as few of them as on a machine that has one."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _ours(data: bytes, sampling: FrameSampling, vision: VisionConfig, limits: PixelLimits) -> object:
    def patches(image: Image.Image) -> Any:
        # The model is given a few frames' patches at a time; what is kept of all of them are their pixels.
        sized = size_image(image, vision, limits)
        pack_pixels(sized.pixels, vision)
        return sized

    return read_frames(data, sampling, VideoLimits(), patches).frames


@dataclass(frozen=True)
class _Theirs:
    """What a careful user of PyAV and Pillow writes."""

    data: bytes
    vision: VisionConfig
    limits: PixelLimits

    def run(
        self,
        wanted: Sequence[int],
        frames: Callable[[Sequence[int]], Iterator[Any]],
        workers: int,
        convert: Callable[[Any], Image.Image] = lambda frame: frame.to_image(),
    ) -> object:
        """Resized pictures of the wanted frames; `workers` 0: one after the other, where they are decoded."""

        def one(frame: Any) -> Image.Image:
            image = convert(frame)
            return image.resize(target_size(image.size, self.vision, self.limits), Image.Resampling.BICUBIC)

        if not workers:
            return [one(frame) for frame in frames(wanted)]
        found, waiting = [], deque[Future[Image.Image]]()
        with ThreadPoolExecutor(workers) as pool:
            for frame in frames(wanted):
                waiting.append(pool.submit(one, frame))
                while len(waiting) > 2 * workers:
                    found.append(waiting.popleft().result())
            return found + [future.result() for future in waiting]

    def through(self, wanted: Sequence[int]) -> Iterator[Any]:
        """Decodes all up to the last."""
        asked, last = set(wanted), wanted[-1]
        with av.open(io.BytesIO(self.data)) as file:
            file.streams.video[0].thread_type = "AUTO"
            for number, frame in enumerate(file.decode(video=0)):
                if number in asked:
                    yield frame
                if number == last:
                    return

    def seeking(self, wanted: Sequence[int]) -> Iterator[Any]:
        """Decodes on from the key before each."""
        with av.open(io.BytesIO(self.data)) as file:
            stream = file.streams.video[0]
            stream.thread_type = "AUTO"
            assert stream.time_base is not None
            for number in wanted:
                at = round(number / RATE / stream.time_base)
                file.seek(at, stream=stream)
                yield next(
                    frame for frame in file.decode(stream) if frame.pts is not None and frame.pts >= at
                )


def _pictures(vision: VisionConfig, rounds: int, threads: int) -> int:
    missed = 0
    print(f"\npictures: RGB pixels to normalized patches; {rounds} rounds of {PICTURE_REPEATS}")
    for width, height in PICTURES:
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
        limits = PixelLimits(width * height, width * height)
        contenders: dict[str, Callable[[], object]] = {}
        counts = sorted({1, threads})  # of torch; ours has one, and is timed beside each
        for count in counts:
            contenders[f"neo_edge {count}"] = partial(_our_patches, image, vision, limits)
            contenders[f"torch {count}"] = partial(_torch_patches, image, count)
        ours = np.asarray(contenders["neo_edge 1"]()).reshape(-1, 768)
        theirs = np.asarray(contenders["torch 1"]()).reshape(-1, 768)
        # Ours come in another order, so that each visual token's four patches are neighbours.
        assert np.abs(np.sort(ours, axis=None) - np.sort(theirs, axis=None)).max() <= 5e-7
        times = interleave(
            {name: Contender(work, repeats=PICTURE_REPEATS) for name, work in contenders.items()},
            rounds=rounds,
            rest_s=0.1,
        )
        for count in counts:
            mine, other = times[f"neo_edge {count}"], times[f"torch {count}"]
            ratios = other / mine
            ratio = float(np.median(ratios))
            missed += ratio < IMAGE_WANTED
            print(
                f"  {width}x{height}: neo_edge, 1 thread, {_ms(mine.tolist())}; torch, {count} thread"
                f"{'s' * (count > 1)}, {_ms(other.tolist())}; {ratio:.2f} ({ratios.min():.2f} to {ratios.max():.2f}) x "
                f"as fast, wanted {IMAGE_WANTED}{': MISSED' if ratio < IMAGE_WANTED else ''}",
                flush=True,
            )
    return missed


def _our_patches(image: Image.Image, vision: VisionConfig, limits: PixelLimits) -> object:
    return pack_pixels(size_image(image, vision, limits).pixels, vision)


def _torch_patches(image: Image.Image, threads: int) -> torch.Tensor:
    """torchvision's ToTensor and Normalize (0.15 to 0.24 are alike), and upstream's cut into patches."""
    torch.set_num_threads(threads)
    raw = torch.from_numpy(np.array(image, np.uint8, copy=True))
    tensor = raw.view(image.height, image.width, 3).permute((2, 0, 1)).contiguous().to(torch.float32).div(255)
    normal = (
        tensor.clone().sub_(torch.from_numpy(MEAN).view(-1, 1, 1)).div_(torch.from_numpy(STD).view(-1, 1, 1))
    )
    rows, cols = image.height // 16, image.width // 16
    return normal.view(3, rows, 16, cols, 16).permute(1, 3, 0, 2, 4).reshape(rows * cols, 768)


def _clip(seconds: int) -> bytes:
    """A field of soft noise that pans, so that motion and detail are a camera's rather than a drawing's."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (SIZE[1] // 4, SIZE[0] // 4 + 200, 3), np.uint8))
    field = np.asarray(coarse.resize((SIZE[0] + 800, SIZE[1]), Image.Resampling.BICUBIC))
    pictures = [field[:, (number * 2) % 800 :][:, : SIZE[0]] for number in range(seconds * RATE)]
    options = {"preset": "veryfast", "bf": "3", "crf": "23"}
    return video(pictures, options=options, gop=250, rate=RATE)


def _turns(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, all in turn within a round, the first round left out."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, work in contenders.items():
            started = time.perf_counter()
            work()
            if number:
                times[name].append(time.perf_counter() - started)
    return times


def _ms(seconds: Sequence[float]) -> str:
    values = np.array(seconds) * 1e3
    return f"{np.median(values):.1f} ({values.min():.1f} to {values.max():.1f}) ms"


if __name__ == "__main__":
    sys.exit(main())

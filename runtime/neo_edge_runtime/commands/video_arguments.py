"""Arguments of verbs that take video files: which files, and which of their frames."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from neo_edge.errors import InputError
from neo_edge.frame_sampling import FrameSampling


def add_video_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Declares the files and what `frame_sampling` reads; gives the group, for more."""
    video = parser.add_argument_group("video", "which frames of a file: the protocol's, or one of")
    video.add_argument(
        "--video",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a video file; may be repeated; <video> in the question says where it stands",
    )
    video.add_argument("--frames", type=int, metavar="N", help="N frames, spread as upstream does")
    video.add_argument(
        "--fps",
        type=float,
        metavar="X",
        help="X frames a second; of --frame: the rate that they were taken at",
    )
    video.add_argument("--times", metavar="S,S,...", help="what is seen at these seconds, such as 0,1.5,3")
    video.add_argument(
        "--max-frames", type=int, metavar="N", help="at most N, with --fps or the protocol's rate"
    )
    return video


def frame_sampling(args: argparse.Namespace, protocol: FrameSampling) -> FrameSampling | None:
    """What the arguments say; None when there is no video file.

    Raises:
        InputError: they say two things, or something impossible, or there is nothing that they are about.
    """
    if not args.video:
        given = _given(args)
        alone = [name for name in given if name != "fps" or getattr(args, "frame", None) is None]
        if alone:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in alone)
            raise InputError(f"{names} chooses frames of a video file, and there is none: pass --video FILE")
        return None
    return chosen_frames(args, protocol)


def chosen_frames(args: argparse.Namespace, protocol: FrameSampling) -> FrameSampling:
    """The same where files may come later."""
    given = _given(args)
    modes = given.keys() - {"max_frames"}
    if len(modes) > 1:
        raise InputError("--frames, --fps and --times are three ways to choose frames: pass one of them")
    if "frames" in given:
        return FrameSampling("count", frames=args.frames, max_frames=args.max_frames)
    if "times" in given:
        return FrameSampling("times", times_s=_seconds(args.times), max_frames=args.max_frames)
    if "fps" in given:
        return FrameSampling("fps", fps=args.fps, max_frames=args.max_frames or protocol.max_frames)
    return protocol if args.max_frames is None else replace(protocol, max_frames=args.max_frames)


def _given(args: argparse.Namespace) -> dict[str, object]:
    names = ("frames", "fps", "times", "max_frames")
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _seconds(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"--times takes seconds with commas between, such as 0,1.5,3; found {text[:60]!r}"
        ) from None

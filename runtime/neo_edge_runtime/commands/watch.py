"""`neo-edge watch`: a question about a camera, asked again and again."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

from neo_edge.errors import InputError, NeoEdgeError, SourceError
from neo_edge.prompt import timestamp
from neo_edge_runtime.commands.model_arguments import (
    add_model_arguments,
    add_sampling_arguments,
    load_model,
    sampling_options,
)

if TYPE_CHECKING:
    from neo_edge_runtime.live.feed import LiveFeed
    from neo_edge_runtime.live.feed_status import FeedStatus
    from neo_edge_runtime.live.source import FrameSource

_EXAMPLES = """\
examples:
  neo-edge watch my.bundle --source /dev/video0 "What is on the table?"
  neo-edge watch my.bundle --source rtsp://camera.local/stream --reconnect \\
      --ask-every 10 "Is somebody at the door?"
  neo-edge watch my.bundle --source clip.mp4 --every 1s --json "What happens?"
"""


class WatchCommand:
    """Watches a source and asks about it until it ends."""

    summary = "watch a camera, an address, a file or a folder, and ask about it every few seconds"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments."""
        add_model_arguments(parser)
        parser.add_argument("question", metavar="QUESTION", help="about what has been seen so far")
        source = parser.add_argument_group("source")
        source.add_argument(
            "--source",
            required=True,
            metavar="SOURCE",
            help="/dev/video0, rtsp://... or another address, a video file, or a folder that pictures are put into",
        )
        source.add_argument("--rate", type=float, metavar="HZ", help="play a folder's pictures at this rate")
        source.add_argument(
            "--option",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="FFmpeg's, of a camera or an address, such as video_size=640x480; may be repeated",
        )
        source.add_argument(
            "--reconnect", action="store_true", help="open a source that has died or stalled again, for ever"
        )
        window = parser.add_argument_group("what is watched")
        window.add_argument(
            "--every", default="0.5s", metavar="TIME", help="least time between frames (default: %(default)s)"
        )
        window.add_argument(
            "--max-frames", type=int, default=64, metavar="N", help="frames kept (default: %(default)s)"
        )
        window.add_argument(
            "--policy",
            choices=("drop", "recompute"),
            default="drop",
            help="what makes room in a full window: drop an eighth and keep the cache of the rest, which is "
            "approximate, or drop half and recompute the rest, which is exact (default: %(default)s)",
        )
        parser.add_argument(
            "--ask-every",
            type=float,
            default=5.0,
            metavar="SECONDS",
            help="from one question to the next; also asked when the source has ended (default: %(default)g)",
        )
        add_sampling_arguments(parser)
        parser.add_argument("--json", action="store_true", help="print a line of JSON for each answer")
        parser.epilog = _EXAMPLES

    def run(self, args: argparse.Namespace) -> int:
        """Answers go to standard output, what happens to the source to standard error."""
        from neo_edge_runtime.live.feed import LiveFeed
        from neo_edge_runtime.live.feed_status import Reconnect
        from neo_edge_runtime.live.source import open_source

        if not 0 < args.ask_every < 1e9:
            raise InputError(f"--ask-every is {args.ask_every:g}; it must be above 0 seconds")
        source: FrameSource = open_source(args.source, rate_hz=args.rate, options=_options(args.option))
        with (
            load_model(args) as model,
            model.watch(
                max_frames=args.max_frames, every=args.every, prompt=args.system, policy=args.policy
            ) as live,
            LiveFeed(source, live, reconnect=Reconnect() if args.reconnect else None) as feed,
        ):
            options = sampling_options(args, model.protocol.sampling)
            began, told = time.monotonic(), 0
            asked_s, over = began, False
            while not over:
                asked_s += args.ask_every
                over = _is_over(feed.wait(max(0.0, asked_s - time.monotonic())))
                told = _tell(feed, told)
                if not live.stats().frames_seen:
                    continue
                seen_s = time.monotonic() - began
                answer = live.ask(args.question, options=options).finish()
                # What was missed is not made up for.
                asked_s = max(asked_s, time.monotonic() - args.ask_every)
                if args.json:
                    print(
                        json.dumps({"time_s": round(seen_s, 3), **answer.to_dict()}, ensure_ascii=False),
                        flush=True,
                    )
                else:
                    print(f"{timestamp(seen_s)} {answer.text}", flush=True)
            error = feed.status().error
        if error is None:
            return 0
        raise error if isinstance(error, NeoEdgeError) else SourceError(f"{source.name}: {error}") from error


watch_command = WatchCommand()


def _is_over(status: FeedStatus) -> bool:
    from neo_edge_runtime.live.feed_status import ENDS

    return status.state in ENDS


def _tell(feed: LiveFeed, told: int) -> int:
    """Prints the events behind number `told`, but a failure, which ends the command; gives the last one's number."""
    for event in feed.events():
        if event.number > told and event.kind != "failed":
            print(event.message, file=sys.stderr, flush=True)
        told = max(told, event.number)
    return told


def _options(texts: list[str]) -> dict[str, str]:
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise InputError(f"--option {text} is no NAME=VALUE, such as video_size=640x480")
        options[name] = value
    return options

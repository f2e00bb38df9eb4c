"""Watches two cameras at once with one model, and asks both the same question again and again.

python samples/two_cameras.py out/neo-ov-nano.bundle /dev/video0 rtsp://camera.local/stream "How many balls are there?"

Video files and folders of pictures do as cameras, too.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time

import neo_edge
from neo_edge import LiveFeed, Reconnect, open_source

ENDED = ("ended", "failed", "stopped")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("cameras", nargs=2, metavar="camera")
    parser.add_argument("question")
    parser.add_argument("--ask-every", type=float, default=2.0, metavar="SECONDS")
    arguments = parser.parse_args()
    try:
        watch(arguments.bundle, arguments.cameras, arguments.question, arguments.ask_every)
    except neo_edge.NeoEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
    return 0


def watch(bundle: str, cameras: list[str], question: str, ask_every_s: float) -> None:
    """Until both cameras have ended."""
    # An ExitStack closes in reverse: first the feeds, then the sessions, then the model.
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(neo_edge.load(bundle))  # its weights are in memory once
        feeds = []
        for camera in cameras:
            live = stack.enter_context(model.watch(max_frames=8, every="1s"))
            # A camera that dies is opened again for a minute or so. A file that has ended stays ended.
            feed = LiveFeed(open_source(camera), live, reconnect=Reconnect(attempts=10))
            feeds.append((camera, live, stack.enter_context(feed)))
        said = dict.fromkeys(cameras, 0)
        over = False
        while not over:
            time.sleep(ask_every_s)
            over = all(feed.status().state in ENDED for _, _, feed in feeds)
            for camera, live, feed in feeds:
                for event in feed.events():
                    if event.number > said[camera]:
                        print(f"{camera}: {event.message}", flush=True)
                        said[camera] = event.number
                if live.stats().frames_used:
                    print(f"{camera}: {live.ask(question).finish().text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

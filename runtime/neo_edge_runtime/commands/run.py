"""`neo-edge run`: one question, one answer."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from neo_edge.errors import InputError
from neo_edge.shown import shown
from neo_edge_runtime.commands.constraint_arguments import add_constraint_arguments, constraint
from neo_edge_runtime.commands.model_arguments import (
    add_model_arguments,
    add_sampling_arguments,
    load_model,
    sampling_options,
)
from neo_edge_runtime.commands.video_arguments import add_video_arguments, frame_sampling

if TYPE_CHECKING:
    from neo_edge_runtime.completion import Completion
    from neo_edge_runtime.constraints import Constraint
    from neo_edge_runtime.model import Model

_EXAMPLES = """\
examples:
  neo-edge run my.bundle "What is on the table?" --image table.jpg
  neo-edge run my.bundle "Which of <image> and <image> is newer?" \\
      --image a.png --image b.png --json
  neo-edge run my.bundle --video clip.mp4 "When does the red ball stop?"
  neo-edge run my.bundle --video clip.mp4 --frames 8 "What happens here?"
  neo-edge run my.bundle "Which way to the door?" --image a.jpg \\
      --choices left,right
  neo-edge run my.bundle "151644 872 198" --token-ids --max-new-tokens 20
"""


class RunCommand:
    """Asks a bundle one question."""

    summary = "ask a bundle a question, with pictures or frames of a video"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments."""
        add_model_arguments(parser)
        parser.add_argument(
            "question",
            metavar="QUESTION",
            help="<image> in it says where a picture stands; without it pictures come first; "
            "- reads it from standard input",
        )
        parser.add_argument(
            "--token-ids",
            action="store_true",
            help="QUESTION is token ids, taken as they are (one image context id for each picture); "
            "the only way to ask a bundle without a tokenizer",
        )
        parser.add_argument(
            "--image",
            action="append",
            default=[],
            type=Path,
            metavar="FILE",
            help="a picture; may be repeated",
        )
        video = add_video_arguments(parser)
        video.add_argument(
            "--frame",
            action="append",
            nargs=2,
            metavar=("SECONDS", "FILE"),
            help="a frame of a video and its time; may be repeated, in order",
        )
        video.add_argument(
            "--video-duration",
            type=float,
            metavar="SECONDS",
            help="length of the whole video; with --frame and --fps",
        )
        add_sampling_arguments(parser)
        add_constraint_arguments(parser)
        parser.add_argument(
            "--json", action="store_true", help="print answer and cost as JSON when all is done"
        )
        parser.epilog = _EXAMPLES

    def run(self, args: argparse.Namespace) -> int:
        """Streams the answer to standard output and the cost to standard error."""
        question = sys.stdin.read().strip("\r\n") if args.question == "-" else args.question
        prompt = _ids(question) if args.token_ids else question
        bound = constraint(args)
        with load_model(args) as model:
            completion = _ask(model, prompt, args, bound)
        if args.json:
            print(json.dumps(completion.to_dict(), indent=2, ensure_ascii=False))
        else:
            # Without a tokenizer there is no text.
            print("" if model.tokenizer is not None else " ".join(map(str, completion.token_ids)), flush=True)
            print(cost_line(completion), file=sys.stderr)
        return 0


run_command = RunCommand()


def cost_line(completion: Completion) -> str:
    """Why the answer ended and what it cost, in one line."""
    usage = completion.usage
    parts = [
        f"ended by {completion.stop_reason}",
        f"{usage.prompt_tokens} prompt tokens ({usage.visual_tokens} visual)",
    ]
    if usage.time_to_first_token_ms is not None:
        parts.append(f"first token after {usage.time_to_first_token_ms:.0f} ms")
    rate = "" if usage.tokens_per_second is None else f" at {usage.tokens_per_second:.1f} tokens/s"
    parts.append(f"{usage.completion_tokens} tokens{rate}")
    if usage.peak_memory_bytes is not None:
        parts.append(f"peak memory {usage.peak_memory_bytes / 2**20:.0f} MiB")
    return ", ".join(parts)


def _ask(
    model: Model, prompt: str | list[int], args: argparse.Namespace, bound: Constraint | None
) -> Completion:
    from neo_edge_runtime.video import Frame

    frames = None if args.frame is None else [Frame(Path(file), _seconds(time)) for time, file in args.frame]
    stream = model.stream(
        prompt,
        args.image,
        frames,
        video_duration_s=args.video_duration,
        fps=None if args.video else args.fps,
        videos=args.video,
        frame_sampling=frame_sampling(args, model.protocol.frame_sampling),
        system=args.system,
        options=sampling_options(args, model.protocol.sampling),
        constraint=bound,
    )
    with stream:
        for piece in stream:
            if not args.json:
                print(piece, end="", flush=True)
    return stream.completion


def _ids(text: str) -> list[int]:
    try:
        return [int(number) for number in text.replace(",", " ").split()]
    except ValueError:
        raise InputError(
            f"--token-ids takes whole numbers with spaces or commas between; {text[:60]!r} holds something else"
        ) from None


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--frame takes seconds and a file; {shown(text)} is not a number") from None

"""`neo-edge batch`: many questions from a file, answered several at a time."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from neo_edge.errors import InputError
from neo_edge_runtime.commands.model_arguments import (
    add_model_arguments,
    add_sampling_arguments,
    count,
    load_model,
    sampling_options,
)

if TYPE_CHECKING:
    from neo_edge.progress import Progress
    from neo_edge_runtime.completion import Completion
    from neo_edge_runtime.model import Model
    from neo_edge_runtime.prompt_file import NumberedRequest

_PORTION = (
    256  # requests whose pictures are in memory at once, at most 3 MiB each as the edge protocol sizes them
)
_EXAMPLES = """\
a line of FILE, an object:
  {"prompt": "How many cups?", "images": ["kitchen.jpg"]}
Images are found relative to FILE. It may also have times_s (seconds, one for
each image: frames of a video), duration_s, fps, system, and options such as
{"max_new_tokens": 20, "seed": 1}; a prompt may be a list of token ids.

a line of the answers, in the order of FILE:
  {"line": 1, "text": "Three.", "token_ids": [...], "stop_reason": "eos",
   "usage": {...}}

examples:
  neo-edge batch my.bundle questions.jsonl -o answers.jsonl
  neo-edge batch my.bundle questions.jsonl --batch-size 16 | jq -r .text
"""


class BatchCommand:
    """Asks a bundle many questions."""

    summary = "ask a bundle every question of a JSONL file, several at a time"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments."""
        add_model_arguments(parser)
        parser.add_argument(
            "file", metavar="FILE.jsonl", type=Path, help="one JSON object a line; - reads standard input"
        )
        parser.add_argument(
            "-o",
            "--output",
            type=Path,
            metavar="FILE.jsonl",
            help="write the answers here, when all are there (default: standard output, as they come)",
        )
        parser.add_argument("--overwrite", action="store_true", help="replace the answers that are there")
        parser.add_argument(
            "--batch-size",
            type=count,
            default=8,
            metavar="N",
            help="questions that are answered at once; more need more memory (default: 8)",
        )
        add_sampling_arguments(parser)
        parser.epilog = _EXAMPLES

    def run(self, args: argparse.Namespace) -> int:
        """Writes an object a line; the count and the cost go to standard error."""
        from neo_edge.progress import progress
        from neo_edge.protocols import get_protocol
        from neo_edge_runtime.prompt_file import read_prompts

        options = sampling_options(args, get_protocol(args.protocol).sampling)
        asked = read_prompts(args.file, system=args.system, options=options)
        with (
            _writer(args.output, overwrite=args.overwrite) as output,
            load_model(args) as model,
            ExitStack() as stack,
        ):
            # On a terminal the answers themselves show how far it is.
            shown = args.output is not None or not sys.stdout.isatty()
            bar = stack.enter_context(progress(len(asked), "answering", "questions")) if shown else None
            started, tokens = time.perf_counter(), 0
            for start in range(0, len(asked), _PORTION):
                for line, answer in _answers(model, asked[start : start + _PORTION], args.batch_size, bar):
                    tokens += answer.usage.completion_tokens
                    print(
                        json.dumps({"line": line, **answer.to_dict()}, ensure_ascii=False),
                        file=output,
                        flush=True,
                    )
            seconds = time.perf_counter() - started
        print(
            f"{len(asked)} answers, {tokens} tokens in {seconds:.1f} s ({tokens / seconds:.1f} tokens/s)",
            file=sys.stderr,
        )
        return 0


batch_command = BatchCommand()


def _answers(
    model: Model, asked: Sequence[NumberedRequest], batch_size: int, bar: Progress[int] | None
) -> Iterator[tuple[int, Completion]]:
    """Line and answer, in the order of the lines, each as soon as all before it are there."""
    ended: dict[int, Completion] = {}
    following = 0
    with model.stream_batch([one.request for one in asked], batch_size=batch_size) as stream:
        for row, _, completion in stream:
            if completion is None:
                continue
            ended[row] = completion
            if bar is not None:
                bar.update()
            while following in ended:
                yield asked[following].line, ended.pop(following)
                following += 1


@contextmanager
def _writer(path: Path | None, *, overwrite: bool) -> Iterator[TextIO]:
    """Standard output, or a file that appears under its name when all is written."""
    if path is None:
        yield sys.stdout
        return
    if path.exists() and not (overwrite and path.is_file()):
        raise InputError(
            f"{path} exists already: choose another name"
            + (", or pass --overwrite" if path.is_file() else "")
        )
    if not path.parent.is_dir():
        raise InputError(
            f"{path.parent} is no directory, so {path.name} cannot be written there: make it first"
        )
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        with partial.open("x", encoding="utf-8") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)

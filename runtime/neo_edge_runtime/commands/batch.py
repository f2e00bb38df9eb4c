"""`neo-edge batch`: many questions from a file, answered several at a time."""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from neo_edge_runtime.commands.model_arguments import (
    add_model_arguments,
    add_sampling_arguments,
    count,
    load_model,
    sampling_options,
)

if TYPE_CHECKING:
    from neo_edge.progress import Progress
    from neo_edge_runtime.answer_file import AnswerFile, OpenMode
    from neo_edge_runtime.completion import Completion
    from neo_edge_runtime.model import Model
    from neo_edge_runtime.prompt_file import NumberedRequest, PromptFile

# Requests whose pictures are in memory at once, at most 3 MiB each as the edge protocol sizes them.
_PORTION = 256
_EXAMPLES = """\
a line of FILE, an object:
  {"prompt": "How many cups?", "images": ["kitchen.jpg"]}
Images are found relative to FILE. It may also have id (the answer repeats it),
videos (file names) and frame_sampling such as {"mode": "count", "frames": 8},
times_s (seconds, one for each image: frames of a video), duration_s, fps,
system, and options such as {"max_new_tokens": 20, "seed": 1}; a prompt may be a
list of token ids. All lines are checked before the first is answered.

a line of the answers, in the order of FILE:
  {"line": 1, "digest": "90c9...", "text": "Three.", "token_ids": [...],
   "stop_reason": "eos", "usage": {...}}
digest is that of the question's line. A question that fails has the stop_reason
"error" and an "error" with type and message; the others are answered, and the
exit status is 1.

What is answered is in the -o file at once. After Ctrl-C, or any other end, the
same command with --resume asks what is missing, and what failed.

examples:
  neo-edge batch my.bundle questions.jsonl -o answers.jsonl
  neo-edge batch my.bundle questions.jsonl -o answers.jsonl --resume
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
            help="write the answers here, each as soon as it is there (default: standard output)",
        )
        present = parser.add_mutually_exclusive_group()
        present.add_argument("--overwrite", action="store_true", help="replace the answers that are there")
        present.add_argument(
            "--resume", action="store_true", help="keep the answers that are there, and ask the rest"
        )
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
        from neo_edge.bundle import open_bundle
        from neo_edge.protocols import get_protocol
        from neo_edge_runtime.answer_file import open_answers, require_writable
        from neo_edge_runtime.prompt_file import open_prompts

        if args.resume and args.output is None:
            args.verb_parser.error("--resume needs the -o file to go on with")
        mode: OpenMode = "resume" if args.resume else "overwrite" if args.overwrite else "new"
        options = sampling_options(args, get_protocol(args.protocol).sampling)
        vocab_size = open_bundle(args.bundle).manifest.model.decoder.vocab_size
        with ExitStack() as stack:
            if args.output is not None:
                require_writable(args.output, mode)
            prompts = stack.enter_context(
                open_prompts(args.file, system=args.system, options=options, vocab_size=vocab_size)
            )
            total = prompts.check()
            model = stack.enter_context(load_model(args))
            output = None if args.output is None else stack.enter_context(open_answers(args.output, mode))
            return _Run(model, prompts, total, output, args.batch_size).run()


batch_command = BatchCommand()


class _Run:
    """One pass over a checked file."""

    def __init__(
        self, model: Model, prompts: PromptFile, total: int, output: AnswerFile | None, batch_size: int
    ) -> None:
        self._model, self._prompts, self._output, self._batch_size = model, prompts, output, batch_size
        self._total = total
        self._kept = 0 if output is None else output.kept
        self._left = total if output is None else output.missing(prompts, total)
        self._written, self._failed, self._tokens = 0, 0, 0

    def run(self) -> int:
        from neo_edge.progress import progress

        started, whole = time.perf_counter(), False
        try:
            with ExitStack() as stack:
                # On a terminal the answers themselves show how far it is.
                shown = self._output is not None or not sys.stdout.isatty()
                bar = stack.enter_context(progress(self._left, "answering", "questions")) if shown else None
                asked = (one for one in self._prompts if self._output is None or self._output.lacks(one))
                while portion := list(islice(asked, _PORTION)):
                    self._answer(portion, bar)
            whole = True
        finally:
            if not whole:  # also Ctrl-C must say where the answers are
                self._say_what_is_there()
        return self._sum_up(time.perf_counter() - started)

    def _answer(self, portion: list[NumberedRequest], bar: Progress[int] | None) -> None:
        """Writes in the order of the lines, each as soon as all before it are there; all that are, when it breaks."""
        ended: dict[int, Completion] = {}
        following = 0
        requests = [one.request for one in portion]
        try:
            with self._model.stream_batch(requests, batch_size=self._batch_size, on_error="return") as stream:
                for row, _, completion in stream:
                    if completion is None:
                        continue
                    ended[row] = completion
                    if bar is not None:
                        bar.update()
                    while following in ended:
                        self._write(portion[following], ended.pop(following))
                        following += 1
        finally:
            for row in sorted(ended):
                self._write(portion[row], ended[row])

    def _write(self, asked: NumberedRequest, answer: Completion) -> None:
        named = {} if asked.id is None else {"id": asked.id}
        record = {"line": asked.line, **named, "digest": asked.digest, **answer.to_dict()}
        if self._output is None:
            print(json.dumps(record, ensure_ascii=False), flush=True)
        else:
            self._output.write(record)
        self._written += 1
        self._failed += answer.error is not None
        self._tokens += answer.usage.completion_tokens

    def _say_what_is_there(self) -> None:
        if self._output is not None:
            print(
                f"{self._kept + self._written} of {self._total} questions are in {self._output.path}: the same command "
                "with --resume asks the others",
                file=sys.stderr,
            )

    def _sum_up(self, seconds: float) -> int:
        kept = f" ({self._kept} were there)" if self._kept else ""
        print(
            f"{self._written} answers{kept}, {self._tokens} tokens in {seconds:.1f} s "
            f"({self._tokens / seconds:.1f} tokens/s)",
            file=sys.stderr,
        )
        if not self._failed:
            return 0
        again = "" if self._output is None else "; the same command with --resume asks them again"
        print(
            f"error: {self._failed} of {self._total} questions failed, and their lines say why{again}",
            file=sys.stderr,
        )
        return 1

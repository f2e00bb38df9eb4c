"""`neo-edge eval` and `neo-edge demo`: arguments and printing; heavy imports wait until a verb runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from neo_edge.errors import InputError
from neo_edge_runtime.commands.model_arguments import (
    add_backend_arguments,
    add_bundle_argument,
    add_protocol_argument,
    add_threads_argument,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from neo_edge_calibration.evaluation import FamilyScore
    from neo_edge_calibration.question import Question, Questions

DEMO_SEED = 1
DEMO_PASS = 9  # of ten answers


class EvalCommand:
    """Measures a bundle's accuracy."""

    summary = "measure a bundle's accuracy on synthetic scenes or on your own questions"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments."""
        add_bundle_argument(parser)
        add_backend_arguments(parser)
        parser.add_argument(
            "--seed", type=int, default=0, metavar="N", help="draws the scenes; training saw none (default 0)"
        )
        parser.add_argument(
            "--count", type=int, default=100, metavar="N", help="scenes a family (default 100)"
        )
        parser.add_argument(
            "--family", action="append", metavar="NAME", help="only this one; may be repeated"
        )
        parser.add_argument(
            "--data", type=Path, metavar="FILE.jsonl", help="your own questions instead of scenes"
        )
        parser.add_argument(
            "--swap-images",
            action="store_true",
            help="show each question another scene's pictures: a model that sees fails",
        )
        add_protocol_argument(parser)
        add_threads_argument(parser)
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Prints a table, or JSON."""
        import neo_edge
        from neo_edge.progress import progress
        from neo_edge_calibration.baselines import with_pictures_of_others
        from neo_edge_calibration.evaluation import evaluate

        questions: Iterable[Question] = _questions(args)
        if args.swap_images:
            questions = with_pictures_of_others(list(questions))
            if not questions:
                raise InputError(
                    "--swap-images needs two questions with equally many pictures: ask more of them"
                )
        with neo_edge.load(
            args.bundle,
            backend=args.backend,
            variant=args.variant,
            threads=args.threads,
            protocol=args.protocol,
        ) as model:
            scores = evaluate(model, progress(questions, description="asking", unit="questions"))
        if args.json:
            families = {
                name: {"accuracy": score.accuracy, "count": score.count, "best_constant": score.best_constant}
                for name, score in scores.items()
            }
            print(json.dumps({"families": families, "swapped_images": args.swap_images}))
        else:
            _print_scores(scores, swapped=args.swap_images)
        return 0


class DemoCommand:
    """Exports the checkpoint that ships and asks it questions."""

    summary = "export the nano checkpoint that ships, then ask it ten questions about pictures"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments."""
        parser.add_argument(
            "--seed", type=int, default=DEMO_SEED, metavar="N", help="draws the questions (default 1)"
        )
        parser.add_argument(
            "--out",
            type=Path,
            default=Path("out"),
            metavar="FOLDER",
            help="for bundle and picture (default out)",
        )

    def run(self, args: argparse.Namespace) -> int:
        """Prints questions and answers; status 1 when fewer than nine of ten are right."""
        from neo_edge_calibration.demo import run_demo

        result = run_demo(args.out, args.seed)
        for number, asked in enumerate(result.asked, 1):
            mark = "right" if asked.right else f"WRONG, it is {asked.question.answer}"
            print(f"{number:2d}. {asked.question.prompt}\n    {asked.answer}   [{mark}]")
        print(
            f"\n{result.right} of {len(result.asked)} right; pictures and predicted boxes: {result.picture}"
        )
        return 0 if result.right >= DEMO_PASS else 1


def _questions(args: argparse.Namespace) -> Questions:
    from neo_edge_calibration.evaluation import scene_questions
    from neo_edge_calibration.jsonl import read_questions
    from neo_edge_calibration.scenes import FAMILIES

    if args.data is not None:
        return read_questions(args.data)
    if args.count < 1:
        raise InputError(f"--count is {args.count}; ask at least one question a family")
    families = args.family or list(FAMILIES)
    unknown = sorted(set(families) - set(FAMILIES))
    if unknown:
        raise InputError(f"there is no family {', '.join(unknown)}: use {', '.join(FAMILIES)}")
    return scene_questions(families, args.seed, args.count)


def _print_scores(scores: dict[str, FamilyScore], *, swapped: bool) -> None:
    width = max(map(len, scores))
    shown = "accuracy, another scene's pictures" if swapped else "accuracy"
    print(f"{'family':{width}}  {'count':>5}  {shown}  (best constant answer)")
    for name, score in scores.items():
        print(f"{name:{width}}  {score.count:5d}  {score.accuracy:8.1%}  ({score.best_constant:.1%})")


eval_command = EvalCommand()
demo_command = DemoCommand()

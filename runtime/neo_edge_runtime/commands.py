"""`neo-edge run` and `neo-edge parity`: arguments and printing; heavy imports wait until a verb runs."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from neo_edge.errors import InputError

if TYPE_CHECKING:
    from neo_edge.bundle import Bundle
    from neo_edge.manifest import Variant
    from neo_edge.options import SamplingOptions
    from neo_edge_runtime.completion import Completion
    from neo_edge_runtime.parity import CaseParity


class RunCommand:
    """Asks a bundle one question."""

    summary = "ask a bundle a question, with pictures or frames of a video"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments."""
        parser.add_argument(
            "bundle", metavar="BUNDLE", type=Path, help="directory that neo-edge export wrote"
        )
        parser.add_argument(
            "question",
            metavar="QUESTION",
            help="<image> in it says where a picture stands; without it pictures come first",
        )
        parser.add_argument(
            "--image",
            action="append",
            default=[],
            type=Path,
            metavar="FILE",
            help="a picture; may be repeated",
        )
        parser.add_argument(
            "--frame",
            action="append",
            nargs=2,
            metavar=("SECONDS", "FILE"),
            help="a frame of a video and its time; may be repeated, in order",
        )
        parser.add_argument(
            "--video-duration", type=float, metavar="SECONDS", help="length of the whole video; with --fps"
        )
        parser.add_argument(
            "--fps", type=float, metavar="X", help="frames per second at which the frames were taken"
        )
        parser.add_argument("--system", metavar="TEXT", help="system prompt (default: the protocol's)")
        parser.add_argument(
            "--protocol",
            default="edge",
            metavar="NAME",
            help="how to ask: edge (default), neo-ov-image, neo-ov-video, neo-ov-spatial or neo1.0",
        )
        parser.add_argument(
            "--variant", metavar="V", help="default: the first that the installed onnxruntime can run"
        )
        parser.add_argument("--threads", type=int, metavar="N", help="default: the physical cores")
        parser.add_argument(
            "--max-pixels", type=int, metavar="N", help="larger pictures are scaled down to this area"
        )
        parser.add_argument(
            "--max-visual-tokens", type=int, metavar="N", help="refuse pictures that give more"
        )
        parser.add_argument(
            "--upstream-image-rules",
            action="store_true",
            help="treat EXIF orientation and transparency as NEO's own code does",
        )
        sampling = parser.add_argument_group("sampling", "what is not given is the protocol's")
        sampling.add_argument(
            "--temperature", type=float, metavar="X", help="0: greedy; higher is more varied"
        )
        sampling.add_argument("--top-k", type=int, metavar="N", help="keep the N likeliest tokens")
        sampling.add_argument(
            "--top-p", type=float, metavar="X", help="keep the likeliest tokens that reach this probability"
        )
        sampling.add_argument(
            "--min-p", type=float, metavar="X", help="keep tokens this fraction as likely as the likeliest"
        )
        sampling.add_argument(
            "--repetition-penalty", type=float, metavar="X", help="above 1: tokens seen before get rarer"
        )
        sampling.add_argument(
            "--max-new-tokens", type=int, metavar="N", help="the answer ends here at the latest"
        )
        sampling.add_argument("--seed", type=int, metavar="N", help="repeats the same draws")
        sampling.add_argument(
            "--stop", action="append", metavar="TEXT", help="the answer ends before it; repeatable"
        )
        parser.add_argument(
            "--json", action="store_true", help="print answer and cost as JSON when all is done"
        )

    def run(self, args: argparse.Namespace) -> int:
        """Streams the answer to standard output and the cost to standard error."""
        from neo_edge_runtime.model import load
        from neo_edge_runtime.video import Frame

        frames = (
            None if args.frame is None else [Frame(Path(file), _seconds(time)) for time, file in args.frame]
        )
        with load(
            args.bundle,
            variant=args.variant,
            threads=args.threads,
            protocol=args.protocol,
            max_pixels=args.max_pixels,
            max_visual_tokens=args.max_visual_tokens,
            upstream_image_rules=args.upstream_image_rules,
        ) as model:
            stream = model.stream(
                args.question,
                args.image,
                frames,
                video_duration_s=args.video_duration,
                fps=args.fps,
                system=args.system,
                options=_sampling(args, model.protocol.sampling),
            )
            with stream:
                for piece in stream:
                    if not args.json:
                        print(piece, end="", flush=True)
        if args.json:
            print(json.dumps(stream.completion.to_dict(), indent=2, ensure_ascii=False))
        else:
            print(flush=True)
            print(cost_line(stream.completion), file=sys.stderr)
        return 0


class ParityCommand:
    """Replays golden files through a bundle."""

    summary = "compare a bundle with what upstream's code computed (golden .npz files, docs/parity.md)"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments."""
        parser.add_argument(
            "bundle", metavar="BUNDLE", type=Path, help="directory that neo-edge export wrote"
        )
        parser.add_argument(
            "golden", metavar="GOLDEN.npz", nargs="+", type=Path, help="prompts with upstream's numbers"
        )
        parser.add_argument(
            "--chunked", action="store_true", help="prefill in chunks of 16 tokens or a whole image"
        )
        parser.add_argument(
            "--atol",
            type=float,
            metavar="X",
            help="largest difference allowed (default: 1e-4 fp32, 0.03 fp16)",
        )
        parser.add_argument(
            "--variant", action="append", metavar="V", help="default: all that can run; repeatable"
        )
        parser.add_argument("--threads", type=int, metavar="N", help="default: the physical cores")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Prints the largest differences; 1 when one is above the tolerance."""
        from neo_edge.bundle import open_bundle
        from neo_edge_runtime.ort_backend import runnable_variants

        bundle = open_bundle(args.bundle)
        names = args.variant or runnable_variants(bundle)
        allowed = {name: _tolerance(bundle.variant(name), args.atol) for name in names}
        found = {name: _replay_all(bundle, name, args) for name in names}
        passed = {
            name: all(case.within(allowed[name]) for case in cases.values()) for name, cases in found.items()
        }
        if args.json:
            print(json.dumps(_parity_json(args, found, allowed, passed), indent=2))
        else:
            for name in names:
                print(
                    f"{name}, {'chunked' if args.chunked else 'whole'} prefill, allowed {allowed[name]:.2e}"
                )
                _print_table(found[name])
                print(f"  {'within' if passed[name] else 'ABOVE'} the tolerance")
        return 0 if all(passed.values()) else 1


run_command = RunCommand()
parity_command = ParityCommand()


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


def _sampling(args: argparse.Namespace, protocol: SamplingOptions) -> SamplingOptions:
    given = {field.name: getattr(args, field.name) for field in fields(protocol)}
    return replace(protocol, **{name: value for name, value in given.items() if value is not None})


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--frame takes seconds and a file; {text!r} is not a number") from None


def _tolerance(variant: Variant, asked: float | None) -> float:
    from neo_edge_runtime.parity import TOLERANCE

    if asked is not None:
        if not asked >= 0:
            raise InputError(f"--atol is {asked}; it must be 0 or above")
        return asked
    if variant.precision not in TOLERANCE:
        raise InputError(f"there is no usual tolerance for the precision {variant.precision!r}: pass --atol")
    return TOLERANCE[variant.precision]


def _replay_all(bundle: Bundle, variant: str, args: argparse.Namespace) -> dict[str, CaseParity]:
    from neo_edge_runtime.golden import read_golden
    from neo_edge_runtime.ort_backend import OrtBackend
    from neo_edge_runtime.parity import replay
    from neo_edge_runtime.prompt_assembly import text_only_tokens

    config = bundle.manifest.model
    tokens = bundle.manifest.special_tokens or text_only_tokens(config)
    cases = [read_golden(path, config) for path in args.golden]
    backend = OrtBackend(bundle, variant, threads=args.threads)
    try:
        return {
            str(path): replay(backend, tokens, case, chunked=args.chunked)
            for path, case in zip(args.golden, cases, strict=True)
        }
    finally:
        backend.close()


def _parity_json(
    args: argparse.Namespace,
    found: dict[str, dict[str, CaseParity]],
    allowed: dict[str, float],
    passed: dict[str, bool],
) -> dict[str, object]:
    return {
        "bundle": str(args.bundle),
        "chunked": args.chunked,
        "variants": {
            name: {
                "allowed": allowed[name],
                "passed": passed[name],
                "cases": {path: {**asdict(case), "worst": case.worst} for path, case in cases.items()},
            }
            for name, cases in found.items()
        },
    }


def _print_table(cases: dict[str, CaseParity]) -> None:
    columns = [field.name for field in fields(next(iter(cases.values())))]
    names = [Path(path).stem for path in cases]
    width = max(len(name) for name in [*names, "worst"])
    print(f"  {'':{width}}  " + "  ".join(f"{name.replace('_', ' '):>14}" for name in columns))
    rows = [[getattr(case, column) for column in columns] for case in cases.values()]
    rows.append([max(values) for values in zip(*rows, strict=True)])
    for name, row in zip([*names, "worst"], rows, strict=True):
        print(f"  {name:{width}}  " + "  ".join(_number(value) for value in row))


def _number(value: float) -> str:
    return f"{value:>14.2e}" if value else f"{'0':>14}"

"""Arguments that every verb with a loaded model has: which variant, within what, and how to sample."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from neo_edge.byte_size import parse_bytes
from neo_edge.errors import InputError
from neo_edge.protocols import PROTOCOLS
from neo_edge.shown import shown
from neo_edge_runtime.backend_choice import BACKENDS, DEFAULT_BACKEND

if TYPE_CHECKING:
    from neo_edge.options import SamplingOptions
    from neo_edge_runtime.model import Model


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the bundle and what `load_model` reads."""
    add_bundle_argument(parser)
    model = parser.add_argument_group("model")
    add_backend_arguments(model)
    add_threads_argument(model)
    add_prepacked_argument(model)
    add_protocol_argument(model)
    model.add_argument("--system", metavar="TEXT", help="system prompt (default: the protocol's)")
    pictures = parser.add_argument_group("pictures")
    pictures.add_argument(
        "--max-pixels", type=int, metavar="N", help="larger pictures are scaled down to this area"
    )
    pictures.add_argument("--max-visual-tokens", type=int, metavar="N", help="refuse pictures that give more")
    pictures.add_argument(
        "--upstream-image-rules",
        action="store_true",
        help="treat EXIF orientation and transparency as NEO's own code does",
    )
    memory = parser.add_argument_group("memory", "what does not fit is refused before anything runs")
    memory.add_argument(
        "--memory-limit",
        type=byte_count,
        metavar="SIZE",
        help="most that caches and scratch may take beside the weights, such as 2GiB (default: what is free)",
    )
    memory.add_argument(
        "--max-context-tokens",
        type=int,
        metavar="N",
        help="most tokens of a conversation (default: the model's positions and the memory decide)",
    )
    memory.add_argument(
        "--chunk-tokens",
        type=int,
        metavar="N",
        help="most tokens of one prefill run; fewer need less scratch memory (default: 1024)",
    )


def add_bundle_argument(parser: argparse.ArgumentParser) -> None:
    """Declares the bundle."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="directory that neo-edge export wrote")


def add_backend_arguments(parser: argparse._ActionsContainer) -> None:
    """Declares `--backend` and `--variant`."""
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default=DEFAULT_BACKEND,
        metavar="B",  # the choices do not fit a line
        help=f"what runs it: {', '.join(BACKENDS)}; ONNX Runtime on the CPU or on an NVIDIA GPU, or TensorRT with the "
        f"engines of neo-edge build (default: {DEFAULT_BACKEND})",
    )
    parser.add_argument("--variant", metavar="V", help="default: the first that the backend can run")


def add_threads_argument(parser: argparse._ActionsContainer) -> None:
    """Declares `--threads`."""
    parser.add_argument("--threads", type=int, metavar="N", help="default: the physical cores")


def add_protocol_argument(parser: argparse._ActionsContainer) -> None:
    """Declares `--protocol`."""
    parser.add_argument(
        "--protocol",
        default="edge",
        metavar="NAME",
        help=f"how to ask: {', '.join(PROTOCOLS)} (default: edge)",
    )


def add_prepacked_argument(parser: argparse._ActionsContainer) -> None:
    """Declares `--prepacked`."""
    parser.add_argument(
        "--prepacked",
        choices=("auto", "build", "off"),
        default="auto",
        help="map the weights from this machine's prepacked cache (see neo-edge prepack): auto if they are there, "
        "build puts them there first (default: auto)",
    )


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `sampling_options` reads."""
    sampling = parser.add_argument_group("sampling", "what is not given is the protocol's")
    sampling.add_argument("--temperature", type=float, metavar="X", help="0: greedy; higher is more varied")
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


def load_model(args: argparse.Namespace) -> Model:
    """The model that the arguments describe; raises as `neo_edge_runtime.load`."""
    from neo_edge_runtime.loading import load
    from neo_edge_runtime.prefill_plan import DEFAULT_CHUNK_TOKENS

    return load(
        args.bundle,
        backend=args.backend,
        variant=args.variant,
        threads=args.threads,
        protocol=args.protocol,
        max_pixels=args.max_pixels,
        max_visual_tokens=args.max_visual_tokens,
        memory_limit_bytes=args.memory_limit,
        max_context_tokens=args.max_context_tokens,
        chunk_tokens=DEFAULT_CHUNK_TOKENS if args.chunk_tokens is None else args.chunk_tokens,
        upstream_image_rules=args.upstream_image_rules,
        prepacked=args.prepacked,
    )


def sampling_options(args: argparse.Namespace, protocol: SamplingOptions) -> SamplingOptions:
    """The protocol's options with those that were given."""
    given = {field.name: getattr(args, field.name) for field in fields(protocol)}
    return replace(protocol, **{name: value for name, value in given.items() if value is not None})


def byte_count(text: str) -> int:
    """`parse_bytes` for argparse, whose own message would not say what is allowed."""
    try:
        return parse_bytes(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def count(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no whole number from 1 on")
    return int(text)

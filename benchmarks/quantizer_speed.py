"""How long a step and a prompt take with each variant of a bundle, one after another, round by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import numpy as np

from neo_edge.bundle import Bundle
from neo_edge_runtime.bench.prompts import text_prompt
from neo_edge_runtime.bench.timing import Contender, Seconds, interleave
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.prepacked_build import PrepackedMode
from neo_edge_runtime.session import Session

PAST, PREFILL = 300, 320  # tokens
_TOKEN = 7


def behind(bundle: Bundle, backend: OrtBackend, tokens: int) -> Session:
    """A session behind a prompt of so many tokens and one step."""
    special = bundle.manifest.special_tokens
    assert special is not None
    session = Session(backend)
    text_prompt(bundle.manifest.model, special, tokens).append_to(session)
    session.decode(_TOKEN)
    return session


class Way(NamedTuple):
    """A variant, and what computes it."""

    variant: str
    prepacked: PrepackedMode = "off"  # `build`: with kernels of neo_edge's own, where they can be had


def speeds(
    bundle: Bundle, ways: Sequence[Way], threads: int, rounds: int
) -> Mapping[Way, tuple[float, float]]:
    """Median seconds of a step behind `PAST` tokens and of a prompt of `PREFILL`."""
    special = bundle.manifest.special_tokens
    assert special is not None
    prompt = text_prompt(bundle.manifest.model, special, PREFILL)
    with ExitStack() as opened:
        steps, prefills = {}, {}
        for way in ways:
            name = "/".join(way)
            backend = OrtBackend(bundle, way.variant, threads=threads, prepacked=way.prepacked)
            opened.callback(backend.close)
            session = opened.enter_context(behind(bundle, backend, PAST))
            # The cache beyond the context holds numbers too: untouched pages are one shared page, and fast.
            beyond = text_prompt(bundle.manifest.model, special, session.capacity - session.length)
            beyond.append_to(session)
            start = session.checkpoint_at(PAST)
            steps[name] = Contender(partial(session.decode, _TOKEN), 15, partial(session.rewind, start))
            empty = opened.enter_context(behind(bundle, backend, PREFILL))
            nothing = empty.checkpoint_at(0)
            prefills[name] = Contender(partial(prompt.append_to, empty), 5, partial(empty.rewind, nothing))
        decode, prefill = (interleave(each, rounds=rounds, rest_s=0.1) for each in (steps, prefills))
    names = {way: "/".join(way) for way in ways}
    return {way: (_median(decode[name]), _median(prefill[name])) for way, name in names.items()}


def _median(seconds: Seconds) -> float:
    return float(np.median(seconds))

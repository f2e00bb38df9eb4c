"""What an answer's token costs when answers decode together, in float32 at NEO-ov 2B's widths with four layers.

Batches of 1, 2, 4 and 8 rows and a plain session decode one token a row behind a context that fills the capacity; they
take turns within every round, and a ratio is taken within a round. Beside it: moving a row into the place of one that
ended, which happens once an answer, and prefilling four short prompts in one run instead of one after another, which
the runtime does not do.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from command_line import neo_edge

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.positions import layout
from neo_edge.tokenizer import resolve_special_tokens
from neo_edge.tokens import SpecialTokens
from neo_edge_runtime.batch_session import BatchSession
from neo_edge_runtime.bench.device import describe_device
from neo_edge_runtime.bench.timing import Contender, interleave, spread
from neo_edge_runtime.kv_cache import capacity_for
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.processors import usable_physical_cores
from neo_edge_runtime.session import Session

sys.path.append(str(Path(__file__).parents[1] / "runtime"))
from batch_mixes import MixedPrompt, padded_inputs

BATCHES = (1, 2, 4, 8)
CAPACITY = 512  # tokens that sessions and batches hold at most, so that their caches have room for no more
REPEATS = 2  # steps of a contender in a round
TOGETHER = 4  # prompts of a common prefill
SHORT_PROMPTS = (16, 64, 256)  # tokens of each
WIDTHS = ("2b", "tiny")  # presets of `neo-edge make-checkpoint`
LAYERS = 4
TOKEN = 7


def main() -> int:
    """Prints the figures; 1 when a token of the largest batch is not cheaper than a session's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=usable_physical_cores())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--widths", choices=WIDTHS, default="2b", help="tiny: a quick look")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where 5 GB of files lie meanwhile")
    args = parser.parse_args()
    describe_device(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="batch-cost-", dir=args.out))
    try:
        backend = OrtBackend(_make_bundle(folder, args.widths), "fp32", threads=args.threads)
        passed = _decode(backend, args.widths, args.rounds)
        for tokens in SHORT_PROMPTS:
            _prefill(backend, tokens, args.rounds)
    finally:
        shutil.rmtree(folder)
    return 0 if passed else 1


def _make_bundle(folder: Path, widths: str) -> Bundle:
    neo_edge("make-checkpoint", "--preset", widths, "--layers", LAYERS, "-o", folder / "checkpoint")
    neo_edge("export", folder / "checkpoint", "-o", folder / "bundle")
    return open_bundle(folder / "bundle")


def _decode(backend: OrtBackend, widths: str, rounds: int) -> bool:
    # Each step moves the batches on by a token, so that the last one fills the cache: unwritten pages would be fast.
    context = CAPACITY - (rounds + 1) * (1 + REPEATS)
    assert context >= CAPACITY * 7 // 8, "so many rounds begin with a cache that is not nearly full"
    session = _prefilled(backend, context, seed=0)
    assert session.capacity == CAPACITY
    start = session.checkpoint
    batches = {size: _batch(backend, context, size) for size in BATCHES}
    contenders = {
        "session": Contender(lambda: session.decode(TOKEN), REPEATS, lambda: session.rewind(start)),
        **{str(size): Contender(partial(_step, batch), REPEATS) for size, batch in batches.items()},
        "move": Contender(partial(_move_a_row, batches[BATCHES[-1]]), REPEATS),
    }
    times = interleave(contenders, rounds=rounds)
    layers = backend.traits.config.decoder.num_layers
    print(
        f"\ndecode at {widths} widths, {layers} layers, behind {context} to {CAPACITY} tokens, {rounds} rounds: median "
        "(all rounds)"
    )
    print(f"  {'session':14} {spread(times['session'] * 1e3, 2)} ms a step")
    per_token = {size: times[str(size)] / size for size in BATCHES}
    for size in BATCHES:
        print(
            f"  {f'batch of {size}':14} {spread(times[str(size)] * 1e3, 2)} ms a step; a token "
            f"{spread(per_token[size] * 1e3, 2)} ms, {spread(per_token[size] / times['session'], 3)} of the session's"
        )
    print(f"  {'moving a row':14} {spread(times['move'] * 1e3, 2)} ms, once for an answer that ends at most")
    for smaller, larger in pairwise(BATCHES):
        print(
            f"  a token of {larger} over one of {smaller}: {spread(per_token[larger] / per_token[smaller], 3)}"
        )
    share = per_token[BATCHES[-1]] / times["session"]
    passed = bool(np.median(share) < 1)
    print(
        f"  a token of {BATCHES[-1]} over a session's: {spread(share, 3)}, wanted below 1{'' if passed else ': MISSED'}"
    )
    return passed


def _prefill(backend: OrtBackend, tokens: int, rounds: int) -> None:
    prompts = [_prompt(backend, tokens, seed) for seed in range(TOGETHER)]
    times = interleave(
        {
            "one by one": Contender(partial(_one_by_one, backend, prompts)),
            "together": Contender(partial(_together, backend, prompts)),
        },
        rounds=rounds,
    )
    print(f"\nprefill of {TOGETHER} prompts of {tokens} tokens, {rounds} rounds: median (all rounds)")
    for name, seconds in times.items():
        print(f"  {name:14} {spread(seconds * 1e3, 1)} ms")
    print(f"  {'ratio':14} {spread(times['together'] / times['one by one'], 3)}", flush=True)


def _one_by_one(backend: OrtBackend, prompts: list[MixedPrompt]) -> None:
    for prompt in prompts:
        with Session(backend) as session:
            session.prefill(prompt.ids, prompt.layout)


def _together(backend: OrtBackend, prompts: list[MixedPrompt]) -> None:
    state = backend.new_state(batch=len(prompts), capacity=capacity_for(len(prompts[0].ids), 0))
    state.run(padded_inputs(backend, prompts, last_only=True))
    state.close()


def _batch(backend: OrtBackend, context: int, size: int) -> BatchSession:
    batch = BatchSession(backend, rows=size, max_context_tokens=CAPACITY)
    for row in range(size):
        with _prefilled(backend, context, seed=row) as session:
            batch.join(session)
    assert batch.capacity == CAPACITY
    return batch


def _step(batch: BatchSession) -> None:
    batch.decode(dict.fromkeys(batch.rows, TOKEN))


def _move_a_row(batch: BatchSession) -> None:
    """The last row's keys and values over the first one's, which then decodes what the last one does."""
    state, rows = batch._state, batch.rows
    assert state is not None
    state.copy_row(0, state, len(rows) - 1, length=rows[-1].length)


def _prefilled(backend: OrtBackend, size: int, seed: int) -> Session:
    prompt, session = _prompt(backend, size, seed), Session(backend, max_context_tokens=CAPACITY)
    session.prefill(prompt.ids, prompt.layout)
    return session


def _prompt(backend: OrtBackend, size: int, seed: int) -> MixedPrompt:
    """Random text."""
    tokens: SpecialTokens = resolve_special_tokens(None, backend.traits.config)
    ids = np.random.default_rng(seed).integers(0, min(tokens.img_context, tokens.img_start), size)
    nothing = np.zeros((0, backend.token_embedding.shape[1]), backend.traits.embedding_dtype)
    return MixedPrompt(ids, layout(ids, [], tokens), nothing, forced=[])


if __name__ == "__main__":
    sys.exit(main())

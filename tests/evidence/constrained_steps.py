"""What a constraint adds to a step, and to the first question: milliseconds beside the choice of a token without one.

By default over a made vocabulary of the size of Qwen's; `--tokenizer` takes the folder of a real one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from neo_edge.checkpoint import resolve_checkpoint
from neo_edge.options import SamplingOptions
from neo_edge.tokenizer import load_tokenizer
from neo_edge_runtime import Choices, JsonSchema, Regex
from neo_edge_runtime.bench.device import describe_device
from neo_edge_runtime.constraint_matching import ConstraintCompiler
from neo_edge_runtime.processors import usable_physical_cores
from neo_edge_runtime.sampling import Sampler

QWEN_WORDS = 151_643
CASES = {
    "choice of 3": Choices(["turn left", "turn right", "go ahead"]),
    "choice of 3 after free words": Choices(["turn left", "turn right", "go ahead"], after="Answer: "),
    "object of a text, a box and a choice": JsonSchema(
        {
            "type": "object",
            "properties": {
                "label": {"type": "string", "maxLength": 20},
                "box": {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 0, "maximum": 1000},
                    "minItems": 4,
                    "maxItems": 4,
                },
                "turn": {"enum": ["left", "right", "none"]},
            },
            "required": ["label", "box", "turn"],
            "additionalProperties": False,
        }
    ),
    "any JSON object": JsonSchema({"type": "object"}),
    "pattern of a number": Regex(r"[0-9]{1,6}(\.[0-9]{1,3})?"),
}


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, help="folder with a tokenizer.json")
    parser.add_argument("--answers", type=int, default=20, help="of each constraint")
    parser.add_argument("--most-tokens", type=int, default=200, help="of an answer")
    args = parser.parse_args()
    describe_device(usable_physical_cores())
    with TemporaryDirectory() as made:
        _write_made_tokenizer(Path(made))
        named = {f"made, {QWEN_WORDS:,} words": Path(made), "neo-ov-nano": resolve_checkpoint("neo-ov-nano")}
        if args.tokenizer is not None:
            named = {args.tokenizer.name: args.tokenizer}
        for name, folder in named.items():
            _measure(name, folder, args.answers, args.most_tokens)
    return 0


def _measure(name: str, folder: Path, answers: int, most_tokens: int) -> None:
    tokenizer = load_tokenizer(folder)
    assert tokenizer is not None
    vocab_size = -(-tokenizer.vocab_size // 128) * 128
    compiler = ConstraintCompiler(
        tokenizer, ends=(tokenizer.special_id("<|im_end|>"),), vocab_size=vocab_size
    )
    first = _milliseconds(lambda: compiler.compile(Choices(["a"])))
    logits = np.random.default_rng(0).normal(size=vocab_size).astype(np.float32)
    sampler = Sampler(SamplingOptions())
    free = statistics.median(_milliseconds(lambda: sampler.sample(logits)) for _ in range(50))
    print(
        f"\n{name}: index of the vocabulary {first:.0f} ms, once a model; a free greedy choice {free:.3f} ms"
    )
    print("\n| constraint | compile, ms | tokens | mask and choice, ms: median | 99 % | largest |")
    print("|---|---|---|---|---|---|")
    for case, constraint in CASES.items():
        compiled = compiler.compile(constraint)
        compiling = statistics.median(
            _milliseconds(lambda c=constraint: compiler.compile(c)) for _ in range(5)
        )
        steps: list[float] = []
        for seed in range(answers):
            matcher, rng = compiled.start(), Random(seed)
            for _ in range(most_tokens):
                if matcher.closed:
                    break
                steps.append(_milliseconds(lambda m=matcher: sampler.sample(logits, m.allowed())))
                token = rng.choice(matcher.allowed().tolist())
                if token in (tokenizer.special_id("<|im_end|>"),):
                    break
                matcher.push(token)
        median, most = statistics.median(steps), max(steps)
        late = sorted(steps)[int(0.99 * (len(steps) - 1))]
        print(
            f"| {case} | {compiling:.2f} | {len(steps)} | {median:.3f} | {late:.3f} | {most:.3f} |",
            flush=True,
        )


def _milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started)


def _write_made_tokenizer(folder: Path) -> None:
    """All bytes, and words of two to nine letters, half of them behind a space."""
    rng = Random(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = dict.fromkeys(alphabet)
    while len(words) < QWEN_WORDS:
        letters = "".join(rng.choices("etaoinshrdlucmfwypvbgkjqxz", k=rng.randint(2, 9)))
        words[rng.choice(("", "Ġ")) + letters] = None
    tokenizer = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    controls = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>")
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in controls])
    tokenizer.save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    sys.exit(main())
